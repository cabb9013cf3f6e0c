"""udev on a real machine leaves alone what arrives on a target; without the rule it assembles and activates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices import image
from tests.vm.machine import Machine
from tests.vm.package import COMMAND, package_disk, unpack

MIB = 1 << 20
# What of the target udev's database says, and what stands on it.
LOOK = "udevadm settle; udevadm info /dev/vdd; cat /proc/mdstat; lsblk -rno NAME,TYPE /dev/vdd"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder: Path = tmp_path_factory.mktemp("automation")
    disks = [
        package_disk(folder / "package"),
        image(folder / "source", 64 * MIB),
        image(folder / "target", 64 * MIB),
    ]
    with Machine(disks) as made:
        made.run(unpack("/dev/vdb"))
        yield made


def test_a_physical_volume_that_arrives_is_left_alone_until_the_receiver_is_gone(machine: Machine) -> None:
    machine.run("pvcreate -q /dev/vdc && vgcreate -q arriving /dev/vdc && vgchange -q -an arriving")
    machine.run(f"{COMMAND} copy /dev/vdc /dev/vdd", timeout=300)
    after = machine.run(LOOK)
    # The close of the target was seen under the rule: nobody was told that a physical volume is there.
    assert "ID_FS_TYPE=LVM2_member" not in after
    assert "SYSTEMD_READY=0" in after
    assert "UDISKS_IGNORE=1" in after
    assert machine.run("ls /run/udev/rules.d").strip() == ""
    # Without the rule the same look finds it: that is what LVM's rules act upon.
    machine.run("udevadm trigger --settle --action=change /dev/vdd")
    assert "ID_FS_TYPE=LVM2_member" in machine.run(LOOK)


def test_the_rule_of_a_killed_receiver_is_found_and_removed(machine: Machine) -> None:
    receiver = f"{COMMAND} recv --target d=/dev/vdd --overwrite /dev/vdd --json --listen 127.0.0.1"
    machine.run(
        f"({receiver} >/tmp/recv 2>&1 </dev/null & echo $! >/tmp/pid); "
        "for _ in $(seq 600); do grep -q listening /tmp/recv && exit 0; sleep 0.1; done; cat /tmp/recv; exit 1",
        timeout=120,
    )
    rules = machine.run("ls /run/udev/rules.d").split()
    assert len(rules) == 1
    # One that lives is left alone.
    assert json.loads(machine.run(f"{COMMAND} check --clean --json").splitlines()[-1])["cleaned"] == []
    free = "flock -n /run/udev/rules.d/62* true"
    machine.run(f"kill -9 $(cat /tmp/pid); for _ in $(seq 100); do {free} && exit 0; sleep 0.1; done; exit 1")
    assert machine.run("ls /run/udev/rules.d").split() == rules
    cleaned = json.loads(machine.run(f"{COMMAND} check --clean --json").splitlines()[-1])["cleaned"]
    assert [rules[0] in line for line in cleaned] == [True]
    assert machine.run("ls /run/udev/rules.d").strip() == ""


def test_a_raid_member_that_arrives_is_not_assembled(machine: Machine) -> None:
    machine.run("vgremove -qff arriving; wipefs -qa /dev/vdc /dev/vdd; udevadm settle")
    machine.run(
        "mdadm --create /dev/md77 --run --force --level=1 --raid-devices=1 --metadata=1.2 /dev/vdc", timeout=60
    )
    # As a file, so that no other device here has the array's name; and the source itself is wiped.
    machine.run("mdadm --stop --scan; dd if=/dev/vdc of=/tmp/member bs=1M status=none; udevadm settle")
    machine.run("mdadm --stop --scan; wipefs -qa /dev/vdc; udevadm settle; mdadm --stop --scan; rm -rf /root/state")
    machine.run(f"{COMMAND} copy /tmp/member /dev/vdd --overwrite /dev/vdd", timeout=300)
    assert "vdd" not in machine.run("udevadm settle; cat /proc/mdstat")
    machine.run("udevadm trigger --settle --action=change /dev/vdd")
    assert "vdd" in machine.run("cat /proc/mdstat")
