"""Whole disks, laid out by sfdisk, lvm2 and mkfs, as one tree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from filesystem_images import made
from lvm_fixtures import MIB, Lvm
from volume_images import image, run

from blocksync.volumes.layout import Layout, read_layout
from blocksync.volumes.reader import FileReader

Open = Callable[[Path], FileReader]
Disks = Callable[..., "tuple[Lvm, list[Path]]"]


def place(path: Path, offset: int, content: Path) -> None:
    """Copy an image into another one."""
    run("dd", f"if={content}", f"of={path}", "bs=1M", f"seek={offset // MIB}", "conv=notrunc,sparse")


def layout_of(opened: Open, *paths: Path) -> Layout:
    return read_layout([(path.name, opened(path)) for path in paths])


def test_a_disk_with_partitions_filesystems_and_swap(tmp_path: Path, opened: Open) -> None:
    disk = image(tmp_path / "disk", 400 * MIB)
    script = "label: gpt\nstart=2048, size=81920, type=U\nsize=40960, type=S\nsize=614400, type=L\n"
    run("sfdisk", "-q", disk, text=script)
    place(disk, MIB, made(tmp_path / "esp", "fat16"))
    place(disk, 41 * MIB, made(tmp_path / "swap", "swap"))
    place(disk, 61 * MIB, made(tmp_path / "root", "ext4"))
    layout = layout_of(opened, disk)
    (found,) = layout.disks
    assert (found.table, found.sector_bytes, found.filesystem, found.notes) == ("gpt", 512, None, ())
    kinds = [
        (part.number, part.offset // MIB, part.filesystem and part.filesystem.kind) for part in found.partitions
    ]
    assert kinds == [(1, 1, "fat16"), (2, 41, "swap"), (3, 61, "ext4")]
    third = found.partition(3)
    assert third is not None
    assert third.filesystem is not None
    assert third.filesystem.label == "vier"
    assert found.partition(4) is None
    assert layout.groups == ()
    json.dumps(dataclasses.asdict(layout))


def test_a_group_over_a_whole_disk_and_a_partition(tmp_path: Path, disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2, 120 * MIB)
    lvm("pvcreate", "-q", *lvm.devices)
    lvm("vgcreate", "-q", "-s", "1m", "vg0", *lvm.devices)
    lvm.create("-l80", "-n", "root", "vg0", lvm.devices[0])
    lvm.create("-l60", "-i2", "-n", "data", "vg0")
    run("mkfs.ext4", "-q", "-F", "-L", "rootfs", "-E", f"offset={MIB}", paths[0], "80m")
    second = image(tmp_path / "second", 130 * MIB)
    run("sfdisk", "-q", second, text="label: dos\nstart=2048, size=245760, type=8e\n")
    place(second, MIB, paths[1])
    layout = layout_of(opened, paths[0], second)
    (group,) = layout.groups
    assert (group.name, group.complete, group.exported) == ("vg0", True, False)
    assert [(part.disk, part.partition) for part in group.physicals] == [(0, 0), (1, 1)]
    first, other = layout.disks
    assert first.physical == group.physicals[0].uuid
    assert other.partitions[0].physical == group.physicals[1].uuid
    root, data = group.volume("root"), group.volume("data")
    assert root is not None
    assert data is not None
    assert (root.path, root.type, root.size, root.refusal) == ("vg0/root", "linear", 80 * MIB, "")
    assert root.filesystem is not None
    assert root.filesystem.label == "rootfs"
    assert (data.type, data.filesystem, data.physical) == ("striped", None, tuple(p.uuid for p in group.physicals))
    alone = layout_of(opened, second)
    assert not alone.groups[0].complete
    lacking = alone.groups[0].volume("data")
    assert lacking is not None
    assert lacking.code == "BS1004"


def test_a_leftover_gpt_below_a_filesystem_is_no_table(tmp_path: Path, opened: Open) -> None:
    disk = made(tmp_path / "disk", "ext4")
    table = image(tmp_path / "table", 200 * MIB)
    run("sfdisk", "-q", table, text="label: gpt\nstart=2048, size=81920\n")
    raw = table.read_bytes()
    with disk.open("r+b") as file:
        file.seek(512)
        file.write(raw[512:1024])
        file.seek(len(raw) - 33 * 512)
        file.write(raw[-33 * 512 :])
    (found,) = layout_of(opened, disk).disks
    assert (found.table, found.partitions) == ("", ())
    assert found.filesystem is not None
    assert found.filesystem.kind == "ext4"


def test_a_damaged_table_is_told_and_hides_nothing_else(tmp_path: Path, opened: Open) -> None:
    disk = image(tmp_path / "disk", 64 * MIB)
    run("sfdisk", "-q", disk, text="label: gpt\nstart=2048, size=81920\n")
    with disk.open("r+b") as file:
        for at in (520, 64 * MIB - 500):
            file.seek(at)
            file.write(b"\xff" * 8)
    layout = layout_of(opened, disk, made(tmp_path / "other", "xfs"))
    assert layout.disks[0].table == ""
    assert "damaged" in layout.disks[0].notes[0]
    assert layout.disks[1].filesystem is not None
