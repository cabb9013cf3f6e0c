"""A second disk for a system: a volume group of its own, as servers keep their data apart from the system."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tests.vm.base import run
from tests.vm.systems import (
    EXTENT_BYTES,
    MIB,
    PV_START_BYTES,
    Lv,
    Recipe,
    _looped,
    _Lvm,
    _make_filesystem,
    _put,
    boot_place,
    cached,
    fs_uuid,
    working_copy,
)

GROUP = "vg-data"


def data_disk(recipe: Recipe, volumes: Sequence[Lv], folder: Path, *, extra: bytes = b"") -> Path:
    """A disk that is a physical volume as a whole.

    Args:
        recipe: of the system that it is for.
        volumes: linear ones, each with a file ``marker``.
        extra: what a file ``extra`` in each holds, if anything.
    """
    disk, work = folder / "data.img", folder / "data-work"
    work.mkdir()
    with disk.open("wb") as file:
        file.truncate(sum(volume.mib for volume in volumes) * MIB + 16 * MIB)
    with _looped(disk, 0, disk.stat().st_size) as device:
        lvm = _Lvm(work, [device])
        lvm("pvcreate", "--dataalignment", "1m", device)
        lvm("vgcreate", "-s", "4m", GROUP, device)
        for volume in volumes:
            lvm.create("-n", volume.name, "-l", str(volume.mib * MIB // EXTENT_BYTES), GROUP)
    begin = PV_START_BYTES
    for volume in volumes:
        tree = work / f"{volume.name}-tree"
        tree.mkdir()
        (tree / "marker").write_text(recipe.marker + "\n")
        if extra:
            (tree / "extra").write_bytes(extra)
        content = work / volume.name
        _make_filesystem(volume.kind, content, volume.mib, fs_uuid(recipe, f"data/{volume.name}"), tree)
        _put(content, disk, [(0, begin, volume.mib * MIB)])
        begin += volume.mib * MIB
    return disk


def fstab_lines(volumes: Sequence[Lv]) -> str:
    """How the system names the volumes of a data disk."""
    return "".join(f"/dev/{GROUP}/{each.name}\t{each.where}\t{each.kind}\tdefaults\t0\t2\n" for each in volumes)


def with_data(recipe: Recipe, volumes: Sequence[Lv], folder: Path) -> tuple[Recipe, list[Path]]:
    """Copies of a built system's disk, whose root is the first volume of its group, and a data disk beside it."""
    disks = working_copy(cached(recipe), folder)
    # The root volume is one run behind /boot: its files can be changed where they lie.
    root = f"{disks[0]}?offset={boot_place(recipe) + recipe.boot_mib * MIB + PV_START_BYTES}"
    fstab = folder / "fstab"
    run("debugfs", "-R", f"dump /etc/fstab {fstab}", root)
    assert "/dev/mapper/" in fstab.read_text()
    fstab.write_text(fstab.read_text() + fstab_lines(volumes))
    folders = [f"mkdir {volume.where}" for volume in volumes]
    for words in ("rm /etc/fstab", f"write {fstab} /etc/fstab", *folders):
        run("debugfs", "-w", "-R", words, root)
    made = dataclasses.replace(recipe, volumes=(*recipe.volumes, *volumes))
    return made, [*disks, data_disk(recipe, volumes, folder)]
