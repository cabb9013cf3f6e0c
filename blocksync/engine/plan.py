"""What a pass has to look at. Pure: a generator over extents and the map of what the receiver holds.

A retry plans anew: whatever the receiver made durable before is in the map by then and is subtracted here or by the
scan. The plan walks holes segment by segment, so a sparse disk costs what it holds, not what it spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from blocksync.engine.dirty import DirtyMap, worth_reading
from blocksync.extents import Extent, ExtentKind, align, cover, split
from blocksync.geometry import SEGMENT_BYTES, Geometry
from blocksync.manifest.working import BlockMap


@dataclass(frozen=True, slots=True)
class ScanChunk:
    """Read and digest this range, send what differs."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class SendZeros:
    """The range reads as zeros at the source and the receiver does not know it as zeros."""

    offset: int
    length: int


Step = ScanChunk | SendZeros

# What a connection takes at a time: many chunks, so that handing them out costs nothing, few enough that all
# connections end together.
STEP_BYTES = 8 << 20


def step_bytes(geometry: Geometry) -> int:
    """The longest :class:`ScanChunk`; it divides a segment, so that no step crosses a segment's edge."""
    return max(STEP_BYTES, geometry.block_bytes)


def plan(
    extents: Iterable[Extent],
    geometry: Geometry,
    known: BlockMap,
    *,
    dirty: DirtyMap | None = None,
    fresh: bool = False,
    skipped: Callable[[int], None] = lambda _length: None,
) -> Iterator[Step]:
    """The steps of a pass, lazily, in the order of the disk.

    Unused ranges are not read. Where the target may hold old data, those of their blocks that the receiver knows
    nothing of are made zeros; a block that was claimed when it was in use keeps its claim, which still says what the
    target holds.

    Args:
        extents: of the source, covering the disk.
        known: what the receiver holds; read while the pass runs, but only for ranges not yet walked.
        dirty: what changed since the receiver's claims were made; None where nobody knows.
        fresh: every block that the receiver knows nothing of reads as zeros there.
        skipped: told the bytes of unused ranges, as they are walked.
    """
    held: SendZeros | None = None
    for extent in align(cover(extents, geometry.size), geometry.block_bytes, geometry.size):
        if extent.kind is ExtentKind.DATA:
            if held is not None:
                yield held
                held = None
            yield from _scans(extent, geometry, known, dirty)
            continue
        if extent.kind is ExtentKind.UNUSED:
            skipped(extent.length)
        for offset, length in _to_zero(extent, geometry, known, fresh):
            if held is not None and held.offset + held.length == offset:
                held = SendZeros(held.offset, held.length + length)
                continue
            if held is not None:
                yield held
            held = SendZeros(offset, length)
    if held is not None:
        yield held


def _scans(extent: Extent, geometry: Geometry, known: BlockMap, dirty: DirtyMap | None) -> Iterator[ScanChunk]:
    for piece in split(extent, step_bytes(geometry)):
        if dirty is None:
            yield ScanChunk(piece.offset, piece.length)
            continue
        for first, count in worth_reading(dirty, known, *geometry.blocks_of(piece.offset, piece.length)):
            start = first * geometry.block_bytes
            yield ScanChunk(start, min(count * geometry.block_bytes, geometry.size - start))


def resend(ranges: Iterable[tuple[int, int]], geometry: Geometry) -> Iterator[Step]:
    """The steps for ``(offset, length)`` ranges of whole blocks, and for nothing else."""
    for offset, length in ranges:
        for piece in split(Extent(offset, length), step_bytes(geometry)):
            yield ScanChunk(piece.offset, piece.length)


def _to_zero(extent: Extent, geometry: Geometry, known: BlockMap, fresh: bool) -> Iterator[tuple[int, int]]:
    """Runs of a hole or of an unused range that the receiver must be told to make zeros."""
    unused = extent.kind is ExtentKind.UNUSED
    if unused and fresh:
        return
    for piece in split(extent, SEGMENT_BYTES):
        blocks = geometry.blocks_of(piece.offset, piece.length)
        for first, count in known.unclaimed_runs(*blocks) if unused else known.nonzero_runs(*blocks):
            start = first * geometry.block_bytes
            yield start, min(count * geometry.block_bytes, geometry.size - start)
