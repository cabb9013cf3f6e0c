"""``blocksync check`` beside a real LVM: is a snapshot possible, and is there room for it?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.preflight import findings
from tests.devices import image
from tests.vm.machine import Machine
from tests.vm.package import COMMAND, package_disk, unpack

MIB = 1 << 20
PLAIN, THIN, BARE = "/dev/vdc", "/dev/vdd", "/dev/vde"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder: Path = tmp_path_factory.mktemp("check")
    disks = [package_disk(folder / "package"), *(image(folder / name, 160 * MIB) for name in ("c", "d", "e"))]
    with Machine(disks) as made:
        made.run(unpack("/dev/vdb"))
        made.run("mkdir -p /mnt/plain /mnt/thin /mnt/bare")
        yield made


def found(machine: Machine, disk: str) -> dict[str, str]:
    """What was said of snapshots, by its code."""
    said = json.loads(machine.run(f"{COMMAND} check {disk} --json", timeout=300, check=False).splitlines()[-1])
    about = (
        findings.SNAPSHOT_POSSIBLE,
        findings.SNAPSHOT_SPACE,
        findings.SNAPSHOT_IMPOSSIBLE,
        findings.SOURCE_QUIET,
    )
    codes = {each.code for each in about}
    return {each["code"]: each["what"] for each in said["findings"] if each["code"] in codes}


def test_a_group_with_room_and_without(machine: Machine) -> None:
    machine.run(f"pvcreate -q {PLAIN} && vgcreate -q plain {PLAIN} && lvcreate -q -y -L 100m -n root plain")
    machine.run("mkfs.ext4 -q /dev/plain/root")
    assert list(found(machine, PLAIN)) == [findings.SOURCE_QUIET.code]
    machine.run("mount /dev/plain/root /mnt/plain")
    said = found(machine, PLAIN)
    assert list(said) == [findings.SNAPSHOT_POSSIBLE.code]
    assert "56.0 MiB free" in said[findings.SNAPSHOT_POSSIBLE.code]
    # It said the truth: LVM takes one.
    machine.run("lvcreate -q -y -s -L 12m -n probe plain/root && lvremove -q -y plain/probe")
    machine.run("lvcreate -q -y -l 100%FREE -n rest plain")
    said = found(machine, PLAIN)
    assert list(said) == [findings.SNAPSHOT_SPACE.code]
    assert "0 B free" in said[findings.SNAPSHOT_SPACE.code]
    refused = machine.run("lvcreate -q -y -s -L 12m -n probe plain/root", check=False)
    assert "insufficient free space" in refused


def test_thin_volumes_need_no_room(machine: Machine) -> None:
    machine.run(f"pvcreate -q {THIN} && vgcreate -q thin {THIN}")
    machine.run("modprobe dm-thin-pool; lvcreate -q -y --type thin-pool -n pool -l 90%FREE thin")
    machine.run("lvcreate -q -y -V 64m --thinpool thin/pool -n root && mkfs.ext4 -q /dev/thin/root")
    machine.run("mount /dev/thin/root /mnt/thin")
    said = found(machine, THIN)
    assert list(said) == [findings.SNAPSHOT_POSSIBLE.code]
    assert "need no space" in said[findings.SNAPSHOT_POSSIBLE.code]


def test_a_mounted_disk_without_lvm_has_no_snapshot(machine: Machine) -> None:
    machine.run(f"mkfs.ext4 -q {BARE} && mount {BARE} /mnt/bare")
    assert list(found(machine, BARE)) == [findings.SNAPSHOT_IMPOSSIBLE.code]
