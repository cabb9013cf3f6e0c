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
        return self.kind is not ExtentKind.DATA


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

    A unit that holds any data is data; a unit is a hole only when every byte of it is a hole. Gaps in the
    input count as holes. Data grows, holes shrink: the result may read too much, never too little.

    Args:
        extents: sorted, without overlap, within ``[0, size)``.
        unit: bytes; the last unit may be cut short by ``size``.
        size: of the disk, in bytes.
    """
    return merge(_align(extents, unit, size))


def _align(extents: Iterable[Extent], unit: int, size: int) -> Iterator[Extent]:
    done = 0  # all units below this offset have been given out
    for extent in extents:
        if extent.kind is ExtentKind.HOLE:
            continue
        start = extent.offset // unit * unit
        end = min(-(-extent.end // unit) * unit, size)
        start = max(start, done)
        if start >= end:
            continue
        if start > done:
            yield Extent(done, start - done, ExtentKind.HOLE)
        kind = extent.kind
        whole = extent.offset <= start and extent.end >= end
        # A zero extent that covers its units only in part may share them with data: read those.
        yield Extent(start, end - start, kind if whole else ExtentKind.DATA)
        done = end
    if done < size:
        yield Extent(done, size - done, ExtentKind.HOLE)


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
