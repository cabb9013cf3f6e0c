"""What a pass looks at: nothing that may hold data is left out, and zeros are told only where there are some."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.engine.plan import ScanChunk, SendZeros, plan, resend
from blocksync.engine.verify import piece_digests
from blocksync.engine.windows import Marks, windows
from blocksync.extents import Extent, ExtentKind, align, cover, overlay
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


def unused_of(extents: list[Extent]) -> set[int]:
    ranges = [(extent.offset, extent.length) for extent in extents if extent.kind is ExtentKind.UNUSED]
    return bytes_of(ranges)


def empty_map() -> BlockMap:
    return BlockMap(GEOMETRY, DigestKind.XXH3, bytes(32))


@given(layouts())
def test_all_that_is_not_vouched_for_as_zero_is_read(extents: list[Extent]) -> None:
    steps = list(plan(extents, GEOMETRY, empty_map()))
    scanned = bytes_of([(step.offset, step.length) for step in steps if isinstance(step, ScanChunk)])
    zeroed = bytes_of([(step.offset, step.length) for step in steps if isinstance(step, SendZeros)])
    assert zeroed <= zeros_of(extents) | unused_of(extents)
    assert scanned | zeroed == set(range(SIZE // SECTOR))
    assert not scanned & zeroed
    assert [step.offset for step in steps] == sorted(step.offset for step in steps)


@given(layouts())
def test_on_a_fresh_target_unused_blocks_are_left_alone_and_nothing_else_is(extents: list[Extent]) -> None:
    skipped: list[int] = []
    steps = list(plan(extents, GEOMETRY, empty_map(), fresh=True, skipped=skipped.append))
    done = bytes_of([(step.offset, step.length) for step in steps])
    left = set(range(SIZE // SECTOR)) - done
    assert left <= unused_of(extents)
    assert sum(skipped) == len(left) * SECTOR
    blocks = [set(range(at // SECTOR, min(at + BLOCK, SIZE) // SECTOR)) for at in range(0, SIZE, BLOCK)]
    assert left == {sector for block in blocks if block <= unused_of(extents) for sector in block}


@given(layouts(), st.integers(0, 40), st.integers(1, 20))
def test_a_claimed_block_that_became_unused_keeps_its_claim(extents: list[Extent], first: int, count: int) -> None:
    known = empty_map()
    count = min(count, GEOMETRY.block_count - first)
    known.claim(first, b"digest of data.." * count, b"")
    claimed = set(range(first * 8, min((first + count) * 8, SIZE // SECTOR)))
    unused = unused_of(extents)
    steps = list(plan(extents, GEOMETRY, known))
    done = bytes_of([(step.offset, step.length) for step in steps])
    blocks = [set(range(at // SECTOR, min(at + BLOCK, SIZE) // SECTOR)) for at in range(0, SIZE, BLOCK)]
    assert not done & {sector for block in blocks if block <= unused & claimed for sector in block}
    assert done | (unused & claimed) == set(range(SIZE // SECTOR))


@given(layouts(gaps=False), st.sets(st.integers(0, SIZE // SECTOR), max_size=10))
def test_an_overlay_marks_the_data_that_a_map_leaves_out(extents: list[Extent], edges: set[int]) -> None:
    ordered = sorted(edges)
    used = [(a * SECTOR, b * SECTOR) for a, b in zip(ordered[::2], ordered[1::2], strict=False)]
    laid = list(overlay(extents, used, SIZE))
    assert sum(extent.length for extent in laid) == SIZE
    assert all(a.end == b.offset for a, b in itertools.pairwise(laid))
    in_use = bytes_of([(start, end - start) for start, end in used])
    assert zeros_of(laid) == zeros_of(extents) & in_use
    assert unused_of(laid) == unused_of(extents) | (set(range(SIZE // SECTOR)) - in_use)


@given(layouts(gaps=False))
def test_the_windows_of_a_verify_cover_the_disk_and_mark_the_unused_pages(extents: list[Extent]) -> None:
    at = 0
    marked: set[int] = set()
    for window in windows(iter(extents), SIZE):
        assert window.offset == at
        at += window.length
        marks = Marks(window.skip, window.length)
        wanted = bytes_of([(start, end - start) for start, end in marks.wanted(0, window.length)])
        inside = set(range(window.length // SECTOR))
        marked |= {sector + window.offset // SECTOR for sector in inside - wanted}
        assert marks.all(0, window.length) == (not wanted)
        assert window.skipped == len(inside - wanted) * SECTOR
    assert at == SIZE
    pages = [set(range(page // SECTOR, min(page + BLOCK, SIZE) // SECTOR)) for page in range(0, SIZE, BLOCK)]
    assert marked == {sector for page in pages if page <= unused_of(extents) for sector in page}


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
    assert unused_of(aligned) <= unused_of(extents)


@pytest.mark.parametrize("around", [ExtentKind.HOLE, ExtentKind.DATA])
def test_a_block_is_unused_only_where_all_of_it_is(around: ExtentKind) -> None:
    size = 4 * BLOCK
    unused = Extent(BLOCK - SECTOR, 2 * BLOCK + 2 * SECTOR, ExtentKind.UNUSED)
    behind = Extent(unused.end, size - unused.end, around)
    assert list(align([Extent(0, unused.offset, around), unused, behind], BLOCK, size)) == [
        Extent(0, BLOCK, ExtentKind.DATA),
        Extent(BLOCK, 2 * BLOCK, ExtentKind.UNUSED),
        Extent(3 * BLOCK, BLOCK, ExtentKind.DATA),
    ]


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
