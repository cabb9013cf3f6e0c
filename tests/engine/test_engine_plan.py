"""What a pass looks at: nothing that may hold data is left out, and zeros are told only where there are some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from blocksync.engine.plan import ScanChunk, SendZeros, plan, resend
from blocksync.engine.verify import piece_digests
from blocksync.extents import Extent, ExtentKind, align, cover
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.working import BlockMap
from blocksync.sources.memory import MemorySource

SECTOR = 512
BLOCK = 4096
SIZE = 40 * BLOCK + 3 * SECTOR
GEOMETRY = Geometry(SIZE, BLOCK)


@st.composite
def layouts(draw: st.DrawFn, *, gaps: bool = True) -> list[Extent]:
    """Sorted extents within the disk, perhaps with gaps."""
    edges = sorted(draw(st.sets(st.integers(1, SIZE // SECTOR - 1), max_size=12)))
    edges = [0, *(edge * SECTOR for edge in edges), SIZE]
    kinds: list[ExtentKind | None] = [*ExtentKind, *([None] if gaps else [])]
    chosen = [(draw(st.sampled_from(kinds)), start, end) for start, end in itertools.pairwise(edges)]
    return [Extent(start, end - start, kind) for kind, start, end in chosen if kind is not None]


def bytes_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {sector for offset, length in ranges for sector in range(offset // SECTOR, (offset + length) // SECTOR)}


def zeros_of(extents: list[Extent]) -> set[int]:
    return bytes_of([(extent.offset, extent.length) for extent in extents if extent.reads_as_zeros])


def empty_map() -> BlockMap:
    return BlockMap(GEOMETRY, DigestKind.XXH3, bytes(32))


@given(layouts())
def test_all_that_is_not_vouched_for_as_zero_is_read(extents: list[Extent]) -> None:
    steps = list(plan(extents, GEOMETRY, empty_map()))
    scanned = bytes_of([(step.offset, step.length) for step in steps if isinstance(step, ScanChunk)])
    zeroed = bytes_of([(step.offset, step.length) for step in steps if isinstance(step, SendZeros)])
    assert zeroed <= zeros_of(extents)
    assert scanned | zeroed == set(range(SIZE // SECTOR))
    assert not scanned & zeroed
    assert [step.offset for step in steps] == sorted(step.offset for step in steps)


@given(layouts())
def test_what_is_known_as_zero_is_not_told_again(extents: list[Extent]) -> None:
    known = empty_map()
    known.claim_zero(0, GEOMETRY.block_count)
    assert not [step for step in plan(extents, GEOMETRY, known) if isinstance(step, SendZeros)]


@given(st.lists(st.tuples(st.integers(0, 39), st.integers(1, 3)), max_size=5))
def test_resending_touches_the_named_ranges_and_nothing_else(blocks: list[tuple[int, int]]) -> None:
    ranges = [(first * BLOCK, min(count, 40 - first) * BLOCK) for first, count in blocks]
    steps = list(resend(ranges, GEOMETRY))
    assert all(isinstance(step, ScanChunk) for step in steps)
    assert bytes_of([(step.offset, step.length) for step in steps]) == bytes_of(ranges)


@given(layouts())
def test_a_cover_has_no_gap_and_says_data_where_nothing_was_said(extents: list[Extent]) -> None:
    covered = list(cover(extents, SIZE))
    at = 0
    for extent in covered:
        assert extent.offset == at
        at = extent.end
    assert at == SIZE
    assert zeros_of(covered) == zeros_of(extents)


@given(layouts(gaps=False), st.sampled_from([4096, 8192, 65536]))
def test_aligned_extents_cover_and_never_call_data_a_hole(extents: list[Extent], unit: int) -> None:
    aligned = list(align(extents, unit, SIZE))
    at = 0
    for extent in aligned:
        assert extent.offset == at
        assert extent.end % unit == 0 or extent.end == SIZE
        at = extent.end
    assert at == SIZE
    assert zeros_of(aligned) <= zeros_of(extents)


class Vague(MemorySource):
    """Says nothing about a part that holds data."""

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, BLOCK, ExtentKind.HOLE)


def test_verify_reads_what_a_disk_does_not_vouch_for() -> None:
    vague, honest = Vague(4 * BLOCK), MemorySource(4 * BLOCK)
    for disk in (vague, honest):
        disk.write(2 * BLOCK, b"x" * BLOCK)
    key = bytes(32)
    seen = list(piece_digests(vague, 0, 4 * BLOCK, BLOCK, key))
    assert seen == list(piece_digests(honest, 0, 4 * BLOCK, BLOCK, key))
    assert len(set(seen)) == 2
