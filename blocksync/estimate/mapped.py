"""What changed, as a tracker of the source has it: a dirty map names what may have, and what it does not name has not.

A map's grain is coarser than a page, so of what it names only a part differs. That part is known from the sampled pages
that lie in it, and from them alone; the rest need not be read again. What a bitmap named before the watching began
(it may record since yesterday) it cannot name anew, so there the sampled pages decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from blocksync.changes.base import Token, Tracker
from blocksync.estimate.sampling import Piece
from blocksync.extents import Extent
from blocksync.geometry import PAGE_BYTES

UNIT_BYTES = 64 << 10
# A byte for each unit is kept; of larger disks units are larger.
MOST_UNITS = 1 << 23


@dataclass(slots=True)
class _Seen:
    """Sampled pages in a part of the disk, and how many of them differ."""

    pages: int = 0
    differing: int = 0


class ChangeMap:
    """A tracker's dirty map, from now on.

    Args:
        tracker: of the source.
        size: of the source, bytes.

    Raises:
        ChangesUnknownError: it cannot tell.
    """

    def __init__(self, tracker: Tracker, size: int) -> None:
        self.provider = tracker.provider
        self._tracker = tracker
        self._unit = max(UNIT_BYTES, -(-size // (MOST_UNITS * PAGE_BYTES)) * PAGE_BYTES)
        self._units = -(-size // self._unit)
        self._token: Token = tracker.token()
        self._before = self._marked(tracker.changed(self._token))
        self.before = self._before.count(1) * self._unit
        self.named = 0

    def changed(self, pieces: Iterable[Piece], first: list[list[int]], sums: Callable[[Piece], list[int]]) -> float:
        """Bytes that differ by now.

        Args:
            pieces: sampled ones.
            first: checksums of their pages when the watching began.
            sums: reads those of a piece now; asked only for pieces in the map.

        Raises:
            ChangesUnknownError: it cannot be told any more.
            SourceError: a read failed.
        """
        now = self._marked(self._tracker.changed(self._token))
        fresh = (int.from_bytes(now, "big") & ~int.from_bytes(self._before, "big")).bit_count() * self._unit
        self.named = max(self.named, fresh)
        old, new = _Seen(), _Seen()
        for piece, was in zip(pieces, first, strict=True):
            if not any(
                now[at // self._unit] for at in range(piece.offset, piece.offset + piece.length, PAGE_BYTES)
            ):
                continue
            for at, (one, other) in enumerate(zip(was, sums(piece), strict=True)):
                unit = (piece.offset + at * PAGE_BYTES) // self._unit
                seen = old if self._before[unit] else new if now[unit] else None
                if seen is not None:
                    seen.pages += 1
                    seen.differing += one != other
        # Where no sample lies in it, all that is named counts; with each one, the samples decide more.
        share = (new.differing + 1) / (new.pages + 1)
        return fresh * share + (self.before * old.differing / old.pages if old.pages else 0.0)

    def _marked(self, extents: Iterable[Extent]) -> bytearray:
        """A byte a unit: 1 where the map names some of it."""
        marks = bytearray(self._units)
        for extent in extents:
            low, high = extent.offset // self._unit, min(self._units, -(-extent.end // self._unit))
            marks[low:high] = b"\1" * max(0, high - low)
        return marks
