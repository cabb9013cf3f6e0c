"""What a tracker says has changed, made ready for a plan: whole blocks, in little memory. Pure."""

from __future__ import annotations

import struct
import zlib
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

    def ranges(self, block_bytes: int) -> Iterator[Extent]:
        """The runs again, as ranges that may pass the end of the disk."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield Extent(start * block_bytes, (end - start) * block_bytes)

    def encode(self) -> bytes:
        """For a file of this machine: a u32 count, the starts, the ends, u64 each, little-endian, deflated."""
        parts = [struct.pack("<I", len(self._starts))]
        parts += [struct.pack(f"<{len(runs)}Q", *runs) for runs in (self._starts, self._ends)]
        return zlib.compress(b"".join(parts), 1)

    @classmethod
    def decode(cls, raw: bytes, geometry: Geometry) -> DirtyMap:
        """What :meth:`encode` gave.

        Raises:
            ChangesUnknownError: it is something else.
        """
        unpacker = zlib.decompressobj()
        try:
            plain = unpacker.decompress(raw, 4 + 16 * MOST_RUNS)
            count = struct.unpack_from("<I", plain)[0]
            numbers = struct.unpack(f"<{2 * count}Q", plain[4:])
        except (zlib.error, struct.error) as error:
            raise ChangesUnknownError("what was kept of the last pass cannot be read") from error
        pairs = zip(numbers[:count], numbers[count:], strict=True)
        block = geometry.block_bytes
        try:
            return cls((Extent(start * block, (end - start) * block) for start, end in pairs), geometry)
        except ValueError as error:
            raise ChangesUnknownError("what was kept of the last pass makes no sense") from error

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
