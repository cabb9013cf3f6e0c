"""A 64 GiB ext4 that was used for a while, 2 GiB in use: what a first pass would read, and what excluded files cost.

The files are allocated, not written, and the disk is a loop device, which tells of no holes: all that is used counts
as data, so the figures are the most that could be sent, and nothing of them needs to be moved to be counted.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from blocksync.engine.allocation import Allocated, allocated
from blocksync.engine.plan import ScanChunk, plan
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.working import BlockMap
from blocksync.sources import open_source
from tests.devices import image, loop_device, need_root, released, run

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZE, USED = 64 * GIB, 2 * GIB
BLOCK = 64 * KIB
GEOMETRY = Geometry(SIZE, BLOCK)


def allocate(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def grow_old(place: Path) -> None:
    """Files made, and every third removed, in many folders, until 2 GiB are in use."""
    chance = random.Random(5)
    names: list[Path] = []
    number = 0
    while (said := os.statvfs(place)).f_frsize * (said.f_blocks - said.f_bfree) < USED - 16 * MIB:
        folder = place / f"d{number % 97}"
        folder.mkdir(exist_ok=True)
        names.append(folder / f"f{number}")
        allocate(names[-1], chance.choice((3_000, 70_000, MIB, 8 * MIB)))
        number += 1
        if number % 3 == 0:
            names.pop(chance.randrange(len(names))).unlink()


def change(disk: Path, place: Path, left_out: int = 0) -> None:
    place.mkdir(exist_ok=True)
    with loop_device(disk) as device:
        run("mount", "-o", "noinit_itable", device, place)
        try:
            if left_out:
                allocate(place / "left-out.bin", left_out)
            else:
                grow_old(place)
        finally:
            run("umount", place)
            released(device)


def planned(disk: Path, *patterns: str) -> tuple[int, Allocated]:
    """The bytes that a pass to a new target reads, by the plan of the engine; and what is told of them."""
    with loop_device(disk, read_only=True) as device, open_source(device) as source:
        found = allocated(source, all_blocks=False, exclude=patterns)
        known = BlockMap(GEOMETRY, DigestKind.XXH3, bytes(32))
        steps = plan(found.source.extents(), GEOMETRY, known, fresh=True)
        return sum(step.length for step in steps if isinstance(step, ScanChunk)), found


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    need_root()
    path = image(tmp_path / "disk.img", SIZE)
    # Few inodes and a small journal: what the filesystem keeps for itself is part of the 2 GiB.
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-T", "largefile4", "-J", "size=16", path)
    change(path, tmp_path / "there")
    return path


def test_two_gib_in_use_are_at_most_a_twentieth_more_to_send(disk: Path) -> None:
    read, found = planned(disk)
    assert found.notes == ()
    assert USED - 64 * MIB < read < USED * 21 // 20


def test_a_file_of_a_gib_that_is_left_out_costs_no_traffic(disk: Path, tmp_path: Path) -> None:
    before, _ = planned(disk)
    change(disk, tmp_path / "there", left_out=GIB)
    after, found = planned(disk, "/left-out.bin")
    assert (found.excluded_files, found.excluded_bytes, found.excluded_names) == (1, GIB, ("/left-out.bin",))
    # The blocks that only tell where the file lies may be new.
    assert after - before < MIB
