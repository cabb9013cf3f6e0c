"""What a tracker says has changed, made ready for a plan: whole blocks, in little memory. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from blocksync.errors import ChangesUnknownError
from blocksync.extents import Extent
from blocksync.geometry import Geometry
from blocksync.manifest.working import BlockMap

# Two numbers of eight bytes each; changes that are more scattered than that are as fast read with all the rest.
MOST_RUNS = 1 << 21


class DirtyMap:
    """Runs of blocks that may have changed.

    Args:
        ranges: sorted, without overlap; they may pass the end of the disk.
        geometry: of the manifest.

    Raises:
        ChangesUnknownError: they are out of order, or too many.
    """

    def __init__(self, ranges: Iterable[Extent], geometry: Geometry) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self.blocks = 0
        block = geometry.block_bytes
        before = 0
        for extent in ranges:
            if extent.offset < before:
                raise ChangesUnknownError("what changed is told out of order")
            before = extent.offset
            start = extent.offset // block
            end = min(-(-extent.end // block), geometry.block_count)
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(end, self._ends[-1])
            elif start < end:
                self._starts.append(start)
                self._ends.append(end)
            if len(self._starts) > MOST_RUNS:
                raise ChangesUnknownError("what changed is scattered over too many places")
        self.blocks = sum(self._ends) - sum(self._starts)

    def __contains__(self, block: int) -> bool:
        at = bisect_right(self._starts, block) - 1
        return at >= 0 and block < self._ends[at]

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of dirty blocks within a run of blocks, in order."""
        stop = first + count
        at = max(bisect_right(self._starts, first) - 1, 0)
        while at < len(self._starts) and self._starts[at] < stop:
            start, end = max(self._starts[at], first), min(self._ends[at], stop)
            if start < end:
                yield start, end
            at += 1


def worth_reading(dirty: DirtyMap, known: BlockMap, first: int, count: int) -> Iterator[tuple[int, int]]:
    """``(first, count)`` of a run of blocks within one segment: the dirty ones, and those that nothing is known of.

    Args:
        dirty: what changed since the claims were made.
        known: claims of the receiver.
    """
    marks = bytearray(known.view(first, count)[0]).translate(_INVERTED)
    for start, end in dirty.runs(first, count):
        marks[start - first : end - first] = b"\1" * (end - start)
    start = marks.find(1)
    while start >= 0:
        end = marks.find(0, start)
        end = count if end < 0 else end
        yield first + start, end - start
        start = marks.find(1, end)


_INVERTED = bytes([1, 0]) + bytes(254)
