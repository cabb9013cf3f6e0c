"""One suite for every kind of target: files, loop devices, memory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.errors import TargetError
from blocksync.targets import open_target
from blocksync.targets.base import Target
from blocksync.targets.memory import MemoryTarget
from blocksync.targets.nbd import NbdTarget
from tests.devices import image, loop_device, need_root
from tests.nbd.servers import nbdkit, qemu_nbd

MIB = 1 << 20
SIZE = 8 * MIB
KINDS = [
    "new file",
    "old file",
    "device 512",
    "device 4096",
    "memory",
    "nbdkit",
    "nbdkit 4096",
    "qemu-nbd",
    "new qcow2",
]


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    kind = request.param
    path = tmp_path / "target.img"
    if kind == "memory":
        yield MemoryTarget(SIZE)
    elif kind == "new file":
        with open_target(str(path), create_size=SIZE) as made:
            yield made
    elif kind == "old file":
        image(path, SIZE, random.Random(1).randbytes(SIZE))
        with open_target(str(path), overwrite=True) as made:
            yield made
    elif kind == "new qcow2":
        with open_target(str(tmp_path / "target.qcow2"), create_size=SIZE) as made:
            yield made
    elif kind == "qemu-nbd":
        image(path, SIZE)
        with qemu_nbd(tmp_path, path) as address, open_target(address) as made:
            yield made
    elif kind.startswith("nbdkit"):
        policy = ["blocksize-minimum=4096", "blocksize-error-policy=error"] if kind == "nbdkit 4096" else []
        words = (
            ["--filter=blocksize-policy", "memory", f"size={SIZE}", *policy]
            if policy
            else ["memory", f"size={SIZE}"]
        )
        with nbdkit(tmp_path, *words) as address, open_target(address) as made:
            yield made
    else:
        need_root()
        image(path, SIZE)
        with loop_device(path, sector=int(kind.split()[1])) as device, open_target(device) as made:
            yield made


def read(target: Target, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    target.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_what_is_written_is_read_back_and_nothing_else_changes(target: Target) -> None:
    before = read(target, 0, SIZE)
    data = random.Random(2).randbytes(192 * 1024)
    target.write(2 * MIB, memoryview(data))
    target.sync()
    assert read(target, 0, SIZE) == before[: 2 * MIB] + data + before[2 * MIB + len(data) :]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, SIZE), (MIB, MIB), (4096, 4096), (SIZE - 65536, 65536), (512 * 8, 512 * 9)]
)
def test_zeroed_ranges_read_as_zeros_and_their_surroundings_stay(target: Target, offset: int, length: int) -> None:
    data = random.Random(3).randbytes(SIZE)
    target.write(0, memoryview(data))
    target.sync()
    target.zero(offset, length)
    target.sync()
    assert read(target, 0, SIZE) == data[:offset] + bytes(length) + data[offset + length :]


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 512), (SIZE - 512, 1024), (1 << 62, 512)])
def test_nothing_leaves_the_target(target: Target, offset: int, length: int) -> None:
    with pytest.raises(TargetError):
        target.write(offset, memoryview(bytes(length)))
    with pytest.raises(TargetError):
        target.zero(offset, length)
    with pytest.raises(TargetError):
        target.read_into(offset, memoryview(bytearray(length)))


def test_extents_cover_the_target_and_holes_read_as_zeros(target: Target) -> None:
    target.write(MIB, memoryview(random.Random(4).randbytes(MIB)))
    target.sync()
    at = 0
    for extent in target.extents():
        assert extent.offset == at
        if extent.reads_as_zeros:
            assert not any(read(target, extent.offset, extent.length))
        at = extent.end
    assert at == target.size == SIZE


def test_what_was_written_stays_when_the_cache_is_dropped(target: Target) -> None:
    written = random.Random(2).randbytes(target.size)
    target.write(0, memoryview(written))
    target.drop_cached(0, target.size)
    target.sync()
    target.drop_cached(target.size // 2, target.size // 2)
    assert read(target, 0, target.size) == written


def test_after_reopening_it_is_the_same_target_with_what_was_synced(target: Target) -> None:
    data = random.Random(5).randbytes(65536)
    target.write(0, memoryview(data))
    target.sync()
    identity = target.identity
    target.reopen()
    assert (target.identity, target.size) == (identity, SIZE)
    assert read(target, 0, len(data)) == data
    target.write(65536, memoryview(data))
    target.sync()


def test_the_mark_changes_when_somebody_else_writes(target: Target, request: pytest.FixtureRequest) -> None:
    target.write(0, memoryview(bytes(65536)))
    target.sync()
    mark = target.write_mark()
    if isinstance(target, (MemoryTarget, NbdTarget)):
        assert mark == ""
        return
    assert mark
    assert target.write_mark() == mark
    with open(target.name, "r+b", buffering=0) as other:
        other.write(b"x" * 4096)
        import os

        os.fsync(other.fileno())
    assert target.write_mark() != mark


def test_close_may_be_repeated(target: Target) -> None:
    target.close()
    target.close()
