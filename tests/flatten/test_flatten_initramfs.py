"""``--rebuild-initramfs`` runs code of the system: in namespaces of its own, and the host stays as it was."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from flatten_trees import contents

from blocksync.errors import FlattenError
from blocksync.flatten.initramfs import rebuild_initramfs
from blocksync.flatten.mounts import privately
from blocksync.flatten.system import Part, System, TargetDisk
from blocksync.flatten.tree import FolderTree, Guest
from tests.devices import image, loop_device, need_root

NAMESPACES = ("mnt", "pid", "net", "uts", "ipc")
SEEN = """#!/bin/sh
for name in mnt pid net uts ipc; do readlink /proc/self/ns/$name; done > /seen
echo $$ > /number
(echo hostile > /proc/sys/kernel/domainname) 2>/dev/null && echo wrote > /escaped
for file in BAIT /proc/1/root/BAIT ../../../../BAIT; do
    [ -e "$file" ] && { echo found > /escaped; echo hostile > "$file"; }
done
mount -t tmpfs none /etc 2>/dev/null
disks=
for node in /dev/* /dev/*/*; do [ -b "$node" ] && disks="$disks $node"; done
mknod /made b MAJOR MINOR 2>/dev/null && disks="$disks /made"
[ -b /brought ] || disks="$disks lost"
(exec 3< /brought) 2>/dev/null && disks="$disks /brought"
echo "none$disks" > /disks
exit CODE
"""


def system_with(root: Path, script: str) -> System:
    """A system of the few programs that a shell script needs, whose update-initramfs is the script."""
    for folder in ("proc", "sys", "dev", "run", "tmp", "etc", "usr/sbin", "bin"):
        (root / folder).mkdir(parents=True)
    for name, source in (
        ("sh", "/bin/sh"),
        ("readlink", "/usr/bin/readlink"),
        ("mount", "/usr/bin/mount"),
        ("mknod", "/usr/bin/mknod"),
    ):
        shutil.copy(os.path.realpath(source), root / "bin" / name)
        said = subprocess.run(["ldd", source], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+\.so\S*)", said):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    tool = root / "usr/sbin/update-initramfs"
    tool.write_text(script)
    tool.chmod(0o755)
    part = Part(number=1, offset=1 << 20, size=1 << 20, type_id="", partuuid="", kind="ext4")
    disk = TargetDisk(path="", table="mbr", size=2 << 20, sector_bytes=512, parts=(part,), holds_lvm=False)
    guest = Guest(FolderTree(os.open(root, os.O_RDONLY | os.O_DIRECTORY), "root"))
    return System(disk=disk, guest=guest, homes={"/": (part, "/")}, folders={"/": str(root)})


def rebuilt(system: System) -> list[str]:
    def work() -> list[str]:
        top = system.folders["/"]
        subprocess.run(["mount", "--bind", top, top], check=True)
        return rebuild_initramfs(system)

    return privately(work)


@pytest.mark.parametrize("code", [0, 7])
def test_the_systems_own_code_runs_in_namespaces_of_its_own(code: int, tmp_path: Path) -> None:
    need_root()
    host = tmp_path / "host"
    host.mkdir()
    bait = host / "bait"
    bait.write_text("the host's own")
    script = SEEN.replace("CODE", str(code)).replace("BAIT", str(bait)[1:]).replace("for file in ", "for file in /")
    with loop_device(image(tmp_path / "disk.img", 1 << 20)) as device:
        number = os.stat(device).st_rdev
        script = script.replace("MAJOR", str(os.major(number))).replace("MINOR", str(os.minor(number)))
        system = system_with(tmp_path / "root", script)
        os.mknod(tmp_path / "root/brought", stat.S_IFBLK | 0o666, number)  # a node of a disk that the system brings
        _run_and_look(system, code, tmp_path)


def _mounts_under(folder: Path) -> list[str]:
    """The host's mounts below FOLDER and over /etc: those of other tests, which run beside this one, come and go."""
    return [
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(folder) in line or " /etc " in line
    ]


def _run_and_look(system: System, code: int, tmp_path: Path) -> None:
    host = tmp_path / "host"
    mounts = _mounts_under(tmp_path)
    domain = Path("/proc/sys/kernel/domainname").read_text()
    if code:
        with pytest.raises(FlattenError, match="could not rebuild"):
            rebuilt(system)
    else:
        assert rebuilt(system) == ["initramfs rebuilt by the system itself: update-initramfs -u -k all"]
    seen = (tmp_path / "root/seen").read_text().split()
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert len(seen) == len(NAMESPACES)
    assert not set(seen) & set(ours)
    assert int((tmp_path / "root/number").read_text()) < 50  # numbers of processes begin anew
    assert not (tmp_path / "root/escaped").exists()
    assert (tmp_path / "root/disks").read_text() == "none\n"
    assert contents(host) == {"bait": b"the host's own"}
    assert _mounts_under(tmp_path) == mounts
    assert Path("/proc/sys/kernel/domainname").read_text() == domain
