"""How a source changes: the sampled pages are read again and again, and compared with how they were at first.

A rate alone would mislead: production writes the same pages over and over, so what differs after an hour is far less
than sixty times what differs after a minute. Therefore several looks at growing distances, and a curve of two numbers.
Where the source has a dirty map, that is asked, and only the sampled pages that it names are read again.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

from blocksync.engine.cancel import Cancel
from blocksync.errors import ChangesUnknownError
from blocksync.estimate.mapped import ChangeMap
from blocksync.estimate.sampling import Picture, Piece, aligned, picture_of
from blocksync.geometry import PAGE_BYTES
from blocksync.platforms import lower_io_priority
from blocksync.sources.base import Source

# Parts of the time at which it is looked.
LOOKS = (1 / 8, 1 / 4, 1 / 2, 1.0)


class Watcher:
    """Remembers the pages of some pieces.

    Args:
        source: open.
        pieces: sampled ones.
        cancel: stops it.
        say: told why a dirty map is not used.
        clock, wait: seconds that pass, and how to let them pass; ``wait`` says whether it was cancelled.
    """

    def __init__(
        self,
        source: Source,
        pieces: list[Piece],
        cancel: Cancel,
        say: Callable[[str], None] = lambda _message: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._source = source
        self._pieces = pieces
        self._picture: Picture | None = None
        self._cancel = cancel
        self._say = say
        self._clock = clock
        self._wait = wait or cancel.wait
        self._room = aligned(max((piece.length for piece in pieces), default=PAGE_BYTES))
        self.map: ChangeMap | None = None
        """The dirty map by which it was watched to the end; None where sampled pages were read again."""

    def run(self, seconds: float, tell: Callable[[float], None]) -> list[tuple[float, float]]:
        """Watch.

        Args:
            seconds: for so long.
            tell: told the seconds gone at each look.

        Returns:
            ``(seconds, bytes)``: so much of the whole disk differs from how it was, after so long.

        Raises:
            SourceError: a read failed.
            InterruptedTransferError: cancelled.
        """
        lower_io_priority()
        began = self._clock()
        # Before the pages are read: what is written in between is in the map, or in both.
        self.map = self._begin()
        self._picture = picture_of(self._source)
        first = [self._sums(piece) for piece in self._pieces]
        # Reading takes time: a piece's age counts from when that piece was read.
        offset = (self._clock() - began) / 2
        points: list[tuple[float, float]] = []
        for part in LOOKS:
            self._wait(max(0.0, began + offset + part * seconds - self._clock()))
            self._cancel.check()
            looked = self._clock()
            changed = self._changed(first)
            age = (looked + self._clock()) / 2 - began - offset
            points.append((age, changed))
            tell(age)
        return points

    def _begin(self) -> ChangeMap | None:
        tracker = self._source.tracker
        if tracker is None:
            return None
        try:
            return ChangeMap(tracker, self._source.size)
        except ChangesUnknownError as error:
            self._say(f"{tracker.provider}: {error.message}; sampled pages are read again instead")
            return None

    def _changed(self, first: list[list[int]]) -> float:
        """Bytes of the whole disk that differ from how they were."""
        if self.map is not None:
            try:
                return self.map.changed(self._pieces, first, self._sums)
            except ChangesUnknownError as error:
                self._say(f"{self.map.provider}: {error.message}; sampled pages are read again instead")
                self.map = None
        changed = sum(
            sum(old != new for old, new in zip(sums, self._sums(piece), strict=True))
            for sums, piece in zip(first, self._pieces, strict=True)
        )
        pages = sum(map(len, first))
        share = changed / pages if pages else 0.0
        assert self._picture is not None
        return share * self._picture.data + _grown(self._picture, picture_of(self._source))

    def _sums(self, piece: Piece) -> list[int]:
        """A checksum a page: a chance of 2^-32 to overlook a change is nothing to a statistic."""
        view = self._room[: piece.length]
        self._source.read_into(piece.offset, view)
        return [zlib.crc32(view[at : at + PAGE_BYTES]) for at in range(0, piece.length, PAGE_BYTES)]


def _grown(then: Picture, now: Picture) -> float:
    """Bytes that were no data and are now, outside of what was sampled."""
    # Blocks that are stored in part are sampled whole: what fills the rest of them is counted by the samples.
    inside, outside = then.data - then.stored, then.size - then.data
    return max(0, now.stored - then.stored) * outside / max(inside + outside, 1)
