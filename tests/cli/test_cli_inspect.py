"""``blocksync inspect`` on a disk with a partition and on nothing."""

from __future__ import annotations

from pathlib import Path

from cli_processes import MIB, command

from blocksync.cli.inspecting import lines
from blocksync.volumes.layout import Disk, Filesystem, Group, Layout, Partition, Physical, Volume

LAYOUT = Layout(
    disks=(
        Disk(
            name="/dev/sda",
            size=100 * MIB,
            table="gpt",
            partitions=(
                Partition(
                    number=1, offset=MIB, size=20 * MIB, type_id="x", uuid="u", name="EFI", bootable=True,
                    filesystem=Filesystem(kind="fat32", uuid="AB-CD", used=3 * MIB, clean=False),
                ),
                Partition(number=2, offset=30 * MIB, size=50 * MIB, type_id="x", uuid="u", physical="PV-1"),
                Partition(number=3, offset=90 * MIB, size=MIB, type_id="0x1c", uuid="u"),
            ),
            notes=("the backup GPT is damaged",),
        ),
        Disk(name="/dev/sdb", size=MIB),
    ),
    groups=(
        Group(
            name="vg0", uuid="VG", extent_bytes=4 * MIB, seqno=7, exported=False, complete=False,
            physicals=(
                Physical(name="pv0", uuid="PV-1", disk=0, partition=2, size=48 * MIB),
                Physical(name="pv1", uuid="PV-2", disk=None, partition=0, size=48 * MIB),
            ),
            volumes=(
                Volume(name="root", group="vg0", uuid="LV", size=40 * MIB, type="linear",
                       filesystem=Filesystem(kind="ext4", label="root fs", used=9 * MIB, size=39 * MIB)),
                Volume(name="gone", group="vg0", uuid="LV", size=40 * MIB, type="linear",
                       refusal="a disk is missing", code="BS1004"),
                Volume(name="pool_tmeta", group="vg0", uuid="LV", size=MIB, type="linear", visible=False),
            ),
        ),
    ),
)  # fmt: skip


def test_the_tree_names_everything_once() -> None:
    assert lines(LAYOUT) == [
        "/dev/sda  100 MiB  GPT",
        '  #1  20.0 MiB  fat32  AB-CD  3.00 MiB used  not clean  "EFI"  bootable',
        "  #2  50.0 MiB  LVM, volume group vg0",
        "  #3  1.00 MiB  nothing recognised (type 0x1c)",
        "  note: the backup GPT is damaged",
        "/dev/sdb  1.00 MiB  nothing recognised",
        "vg0  volume group, extents of 4.00 MiB, 1 of 2 physical volumes missing",
        '  #vg0/root  40.0 MiB  linear  ext4  "root fs"  9.00 MiB used  of 39.0 MiB',
        "  #vg0/gone  40.0 MiB  linear  cannot be read (BS1004): a disk is missing",
    ]


def test_the_command_gives_the_tree_and_the_object(disk: Path) -> None:
    shown = command("inspect", disk)
    assert (shown.code, shown.out) == (0, f"{disk}  4.00 MiB  nothing recognised\n")
    said = command("inspect", disk, "--json").last
    assert (said["type"], said["command"], said["disks"][0]["size"]) == ("result", "inspect", 4 * MIB)
    assert command("inspect", f"{disk}.not").code == 4
