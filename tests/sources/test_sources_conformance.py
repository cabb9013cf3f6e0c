"""One suite for every kind of source: files sparse and dense and of odd size, loop devices, memory."""

from __future__ import annotations

import contextlib
import errno
import mmap
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blocksync.errors import SourceError
from blocksync.extents import Extent
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.sources.memory import MemorySource
from tests.devices import loop_device, need_root, run
from tests.nbd.servers import nbdkit, qemu_nbd

MIB = 1 << 20
SIZE = 8 * MIB


@dataclass
class Sample:
    source: Source
    content: bytes


def content_with_holes(size: int) -> bytes:
    """Data at both ends and in the middle, zeros between."""
    made = bytearray(size)
    chance = random.Random(4)
    for at in (0, 3 * MIB, size - 64 * 1024 - size % 4096):
        made[at : at + 64 * 1024] = chance.randbytes(64 * 1024)
    return bytes(made)


def write_sparse(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        for at in range(0, len(content), 4096):
            piece = content[at : at + 4096]
            if any(piece):
                file.seek(at)
                file.write(piece)
        file.truncate(len(content))


KINDS = [
    "sparse file",
    "dense file",
    "odd file",
    "device 512",
    "device 4096",
    "memory",
    "partition",
    "device partition",
]
NBD_KINDS = ["nbdkit", "nbdkit odd", "nbdkit 4096", "qemu-nbd", "qcow2"]


@pytest.fixture(params=KINDS + NBD_KINDS)
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sample]:
    kind = request.param
    content = content_with_holes(SIZE + (1000 if kind == "odd file" else 0) + (512 if kind == "nbdkit odd" else 0))
    path = tmp_path / "disk.img"
    if kind == "memory":
        memory = MemorySource(SIZE)
        memory.write(0, content[: 64 * 1024])
        memory.write(3 * MIB, content[3 * MIB : 3 * MIB + 64 * 1024])
        memory.write(SIZE - 64 * 1024, content[-64 * 1024 :])
        yield Sample(memory, content)
        return
    if kind.endswith("partition"):
        need_root()
        write_sparse(path, bytes(MIB) + content + bytes(MIB))
        run("sfdisk", "-q", path, "--no-reread", text=f"label: gpt\nstart=2048, size={SIZE // 512}\n")
        with contextlib.ExitStack() as stack:
            disk = stack.enter_context(loop_device(path)) if kind.startswith("device") else str(path)
            yield Sample(stack.enter_context(open_source(f"{disk}#1")), content)
        return
    if kind == "dense file":
        path.write_bytes(content)
    else:
        write_sparse(path, content)
    if kind in NBD_KINDS:
        with served(kind, tmp_path, path) as address, open_source(address) as source:
            yield Sample(source, content)
        return
    if not kind.startswith("device"):
        with open_source(str(path)) as source:
            yield Sample(source, content + bytes(-len(content) % 512))
        return
    need_root()
    with loop_device(path, sector=int(kind.split()[1])) as device, open_source(device) as source:
        yield Sample(source, content)


@contextlib.contextmanager
def served(kind: str, folder: Path, path: Path) -> Iterator[str]:
    """The image behind a real NBD server."""
    if kind == "qcow2":
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, folder / "disk.qcow2")
        yield str(folder / "disk.qcow2")
        return
    if kind == "qemu-nbd":
        with qemu_nbd(folder, path) as address:
            yield address
        return
    sizes = ["--filter=blocksize-policy"] if kind == "nbdkit 4096" else []
    with nbdkit(
        folder, *sizes, "file", path, *(["blocksize-minimum=4096", "blocksize-error-policy=error"] if sizes else [])
    ) as address:
        yield address


def read(source: Source, offset: int, length: int) -> bytes:
    buffer = memoryview(mmap.mmap(-1, max(length, 1)))[:length]
    source.read_into(offset, buffer)
    return bytes(buffer)


def test_the_size_is_whole_sectors_and_all_of_the_content(sample: Sample) -> None:
    assert sample.source.size == len(sample.content)
    assert sample.source.size % 512 == 0
    assert sample.source.sector_bytes in (512, 4096)


def test_every_byte_is_read_as_it_is(sample: Sample) -> None:
    parts = [read(sample.source, at, min(MIB, sample.source.size - at)) for at in range(0, sample.source.size, MIB)]
    assert b"".join(parts) == sample.content


@pytest.mark.parametrize(("offset", "length"), [(4096, 4096), (3 * MIB - 4096, 128 * 1024), (SIZE - 4096, 4096)])
def test_ranges_are_read_from_where_they_are(sample: Sample, offset: int, length: int) -> None:
    assert read(sample.source, offset, length) == sample.content[offset : offset + length]


def test_extents_cover_the_disk_and_holes_read_as_zeros(sample: Sample) -> None:
    at = 0
    for extent in sample.source.extents():
        assert extent.offset == at
        assert extent.length > 0
        if extent.reads_as_zeros:
            assert not any(sample.content[extent.offset : extent.end])
        at = extent.end
    assert at == sample.source.size


def test_holes_are_known_where_it_says_so(sample: Sample, request: pytest.FixtureRequest) -> None:
    holes = sum(extent.length for extent in sample.source.extents() if extent.reads_as_zeros)
    kinds = ("sparse file", "odd file", "memory", "partition", *NBD_KINDS)
    sparse = request.node.callspec.params["sample"] in kinds
    assert (holes > 4 * MIB) == sparse
    assert sample.source.capabilities.extents or not holes


def test_a_read_that_leaves_the_disk_is_an_error(sample: Sample) -> None:
    size = sample.source.size
    for offset in (size, size - 4096 + 512, 1 << 62):
        with pytest.raises(SourceError):
            read(sample.source, offset, 4096)


def test_threads_may_read_at_once(sample: Sample) -> None:
    wrong: list[int] = []

    def look(start: int) -> None:
        places = range(start, SIZE, 4 * 65536)
        wrong.extend(at for at in places if read(sample.source, at, 65536) != sample.content[at : at + 65536])

    threads = [threading.Thread(target=look, args=(number * 65536,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_check_of_an_unchanged_disk_passes_and_close_may_be_repeated(sample: Sample) -> None:
    sample.source.check()
    sample.source.close()
    sample.source.close()


def test_a_live_disk_is_called_live(sample: Sample) -> None:
    assert sample.source.capabilities.consistency == "live"


def test_a_file_without_holes_is_not_asked_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_descriptor: int, _offset: int) -> None:
        raise OSError(errno.EIO, "asked for holes")

    dense, sparse = tmp_path / "dense.img", tmp_path / "sparse.img"
    dense.write_bytes(random.Random(3).randbytes(1 << 20))
    with sparse.open("wb") as file:
        file.truncate(1 << 20)
    with open_source(str(dense)) as full, open_source(str(sparse)) as empty:
        monkeypatch.setattr("blocksync.sources.disk.allocated_from", asked)
        assert list(full.extents()) == [Extent(0, 1 << 20)]
        with pytest.raises(SourceError, match="holes"):
            list(empty.extents())
