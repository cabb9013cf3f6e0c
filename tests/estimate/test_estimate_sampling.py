"""Samples: where they are taken, and that their shares are the disk's."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from blocksync.engine.cancel import Cancel
from blocksync.errors import InterruptedTransferError, SourceError
from blocksync.estimate.sampling import (
    Sampler,
    blocks_of,
    picture_of,
    piece_length,
    places,
    relative_error,
)
from blocksync.extents import Extent, ExtentKind
from blocksync.sources.memory import MemorySource

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize("data", [64 * MIB, 700 * MIB, 10 * GIB, 1 << 40])
def test_at_least_200_pieces_and_at_most_two_percent(data: int) -> None:
    pieces, length = piece_length(data)
    assert pieces >= 200
    assert pieces * length <= 0.02 * data
    assert length % 4096 == 0
    assert length <= 64 << 10


def test_a_tiny_disk_is_sampled_by_the_page() -> None:
    assert piece_length(8192) == (2, 4096)


def test_every_part_of_the_data_has_its_piece_and_holes_have_none() -> None:
    extents = [
        Extent(0, 300 * MIB, ExtentKind.HOLE),
        Extent(300 * MIB, 300 * MIB),
        Extent(600 * MIB, 400 * MIB, ExtentKind.HOLE),
        Extent(1000 * MIB, 600 * MIB),
    ]
    found = places(iter(extents), 900 * MIB, random.Random(3))
    assert len(found) == 2000
    assert sum(300 * MIB <= offset < 600 * MIB for offset, _ in found) == pytest.approx(2000 / 3, abs=1)
    ends = 0
    for offset, length in found:
        assert offset >= ends
        ends = offset + length
        assert any(e.offset <= offset and ends <= e.end for e in extents if e.kind is ExtentKind.DATA)


def disk(size: int, share_random: float, share_text: float) -> MemorySource:
    chance = random.Random(5)
    source = MemorySource(size)
    for at in range(0, size, MIB):
        kind = chance.random()
        if kind < share_random:
            source.write(at, chance.randbytes(MIB))
        elif kind < share_random + share_text:
            source.write(at, ((b"%09d plain words " % at) * (MIB // 20))[:MIB])
        else:
            source.write(at, bytes(MIB))
    return source


def test_the_shares_are_those_of_the_disk() -> None:
    source = disk(128 * MIB, 0.25, 0.25)
    sample = Sampler(source, 2, Cancel(), random.Random(1)).run()
    assert sample.picture.data == 128 * MIB
    assert len(sample.pieces) >= 200
    assert sample.share(lambda piece: piece.zero) == pytest.approx(0.5, abs=0.12)
    assert sample.share(lambda piece: piece.incompressible) == pytest.approx(0.25, abs=0.12)
    assert sample.read_rate > 0


def test_nothing_is_read_of_a_disk_that_is_all_holes() -> None:
    sample = Sampler(MemorySource(64 * MIB), 2, Cancel(), random.Random(1)).run()
    assert (sample.picture.holes, sample.pieces, sample.sampled) == (64 * MIB, [], 0)


class Unreadable(MemorySource):
    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise SourceError("cannot read it")


def test_a_source_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(SourceError, match="cannot read it"):
        Sampler(Unreadable(64 * MIB), 2, Cancel(), random.Random(1)).run()


def test_cancelling_ends_the_sampling() -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedTransferError):
        Sampler(disk(4 * MIB, 0.5, 0.5), 2, cancel, random.Random(1)).run()


def test_time_runs_out_with_samples_spread_over_the_disk() -> None:
    now = iter(range(0, 10_000, 1))
    sampler = Sampler(disk(64 * MIB, 1.0, 0.0), 1, Cancel(), random.Random(1), clock=lambda: float(next(now)))
    pieces = sampler.run().pieces
    assert 40 < len(pieces) < 70
    thirds = [sum(part <= piece.offset * 3 // (64 * MIB) < part + 1 for piece in pieces) for part in range(3)]
    assert min(thirds) > len(pieces) // 6


def test_the_error_of_a_mean_follows_from_neighbours() -> None:
    assert relative_error([1.0] * 100) == 0.0
    halves = [0.0] * 100 + [2.0] * 100
    # Two homogeneous halves are known almost exactly by a stratified sample, a coin's throws are not.
    throws = random.Random(2).sample(halves, len(halves))
    assert relative_error(halves) < 0.02
    assert relative_error(throws) == pytest.approx(1 / 200**0.5, rel=0.2)


class Strewn(MemorySource):
    """A page of data in every so many bytes, holes in between, and a range that no file uses."""

    def extents(self) -> Iterator[Extent]:
        for at in range(0, 32 * MIB, 2 * MIB):
            yield Extent(at, 4096)
            yield Extent(at + 4096, 2 * MIB - 4096, ExtentKind.HOLE)
        yield Extent(32 * MIB, 32 * MIB, ExtentKind.UNUSED)


def test_a_pass_reads_whole_blocks_and_a_verify_whole_pieces_where_only_pages_are_stored() -> None:
    found = picture_of(Strewn(64 * MIB))
    assert (found.stored, found.data, found.compared) == (16 * 4096, 16 * 65536, 32 * MIB)
    assert (found.holes, found.unused) == (32 * MIB - 16 * 65536, 32 * MIB)
    offsets = [offset for offset, _ in places(blocks_of(Strewn(64 * MIB)), found.data, random.Random(1))]
    # Some places lie beside the pages that are stored: a pass reads those too.
    assert all(offset % (2 * MIB) < 65536 for offset in offsets)
    assert any(offset % (2 * MIB) for offset in offsets)


def test_one_thread_reads_no_faster_than_all_of_them() -> None:
    sample = Sampler(disk(16 * MIB, 1.0, 0.0), 4, Cancel(), random.Random(1)).run()
    assert 0 < sample.alone_rate <= sample.read_rate
