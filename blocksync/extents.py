"""Byte ranges with a kind, and the arithmetic on them.

Pure: no IO, no clock. Ranges are half-open, in bytes; lists are sorted by offset and never overlap. Everything
that walks a disk works on iterators of these, so that a disk of any size costs no memory.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


class ExtentKind(enum.Enum):
    DATA = "data"  # must be read to know what it holds
    ZERO = "zero"  # reads as zeros, allocated
    HOLE = "hole"  # reads as zeros, not allocated
    UNUSED = "unused"  # belongs to nothing that is kept: what it holds does not matter, so it is not read


@dataclass(frozen=True, slots=True)
class Extent:
    """A byte range ``[offset, offset + length)`` of one kind."""

    offset: int
    length: int
    kind: ExtentKind = ExtentKind.DATA

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length <= 0:
            raise ValueError(f"not an extent: offset {self.offset}, length {self.length}")

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def reads_as_zeros(self) -> bool:
        return self.kind in (ExtentKind.ZERO, ExtentKind.HOLE)


def merge(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Join neighbours of one kind; the input is sorted and does not overlap."""
    held: Extent | None = None
    for extent in extents:
        if held is not None and held.end == extent.offset and held.kind is extent.kind:
            held = Extent(held.offset, held.length + extent.length, held.kind)
            continue
        if held is not None:
            yield held
        held = extent
    if held is not None:
        yield held


def align(extents: Iterable[Extent], unit: int, size: int) -> Iterator[Extent]:
    """Round extents to whole units so that together they cover ``[0, size)``.

    A unit is a hole only when every byte of it is a hole, and unused only when every byte of it is unused; any other
    unit is data. Gaps in the input count as holes. Data grows, all else shrinks: the result may read too much, never
    too little.

    Args:
        extents: sorted, without overlap, within ``[0, size)``.
        unit: bytes; the last unit may be cut short by ``size``.
        size: of the disk, in bytes.
    """
    return merge(_align(extents, unit, size))


def _align(extents: Iterable[Extent], unit: int, size: int) -> Iterator[Extent]:
    done = 0  # all units below this offset have been given out
    # Neighbours are joined first: several of one kind may cover a unit together.
    for extent in merge(extents):
        if extent.kind is ExtentKind.HOLE:
            continue
        for start, end, kind in _rounded(extent, unit, size):
            start = max(start, done)  # noqa: PLW2901 - the unit may have been given out with the one before
            if start >= end:
                continue
            if start > done:
                yield Extent(done, start - done, ExtentKind.HOLE)
            yield Extent(start, end - start, kind)
            done = end
    if done < size:
        yield Extent(done, size - done, ExtentKind.HOLE)


def _rounded(extent: Extent, unit: int, size: int) -> Iterator[tuple[int, int, ExtentKind]]:
    """``(start, end, kind)`` of the units that an extent touches: those it covers in part are data."""
    first, stop = extent.offset // unit * unit, min(-(-extent.end // unit) * unit, size)
    start, end = -(-extent.offset // unit) * unit, extent.end if extent.end >= size else extent.end // unit * unit
    if extent.kind is ExtentKind.DATA or start >= end:
        yield first, stop, ExtentKind.DATA
        return
    yield first, start, ExtentKind.DATA
    yield start, end, extent.kind
    yield end, stop, ExtentKind.DATA


def overlay(extents: Iterable[Extent], used: Iterable[tuple[int, int]], size: int) -> Iterator[Extent]:
    """What a disk says of itself where a map calls it used; all else is unused, whatever the disk says of it.

    Args:
        extents: of the disk, covering ``[0, size)``.
        used: byte ranges ``(start, end)``, sorted, without overlap, within ``[0, size)``.
        size: of the disk, in bytes.
    """
    return merge(_overlay(extents, used, size))


def _overlay(extents: Iterable[Extent], used: Iterable[tuple[int, int]], size: int) -> Iterator[Extent]:
    ranges = iter(used)
    start, end = next(ranges, (size, size))
    for extent in extents:
        at = extent.offset
        while at < extent.end:
            while end <= at and end < size:
                start, end = next(ranges, (size, size))
            inside = start <= at < end
            until = min(extent.end, end if inside else max(start, at + 1))
            yield Extent(at, until - at, extent.kind if inside else ExtentKind.UNUSED)
            at = until


def cover(extents: Iterable[Extent], size: int) -> Iterator[Extent]:
    """The same extents, with data where nothing was said: what a disk does not vouch for is read.

    Args:
        extents: sorted, without overlap, within ``[0, size)``.
        size: of the disk, in bytes.
    """
    at = 0
    for extent in extents:
        if extent.offset > at:
            yield Extent(at, extent.offset - at)
        yield extent
        at = extent.end
    if at < size:
        yield Extent(at, size - at)


def split(extent: Extent, most: int) -> Iterator[Extent]:
    """Cut an extent at multiples of ``most`` bytes of the disk (not of the extent)."""
    offset = extent.offset
    while offset < extent.end:
        end = min((offset // most + 1) * most, extent.end)
        yield Extent(offset, end - offset, extent.kind)
        offset = end
