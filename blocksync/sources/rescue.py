"""A source with bad sectors, read as far as it can be.

A failed read is halved until the sectors that cannot be read are found. Each of them is tried again, then stands as
zeros in what is read, and is listed. The list is part of the result; nothing that was rescued is ever called
identical, since ``verify`` reads the source itself and stops at the bad sector.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from blocksync.errors import SourceError, UnreadableError
from blocksync.extents import Extent
from blocksync.sources.base import Source

TRIES = 3
# A disk with more ranges than this is dying: every further read costs it, and a list of it would be no help.
MAX_RANGES = 10_000


class RescueSource(Source):
    """Reads another source; what of it cannot be read is zeros.

    Args:
        base: closed with this one.
    """

    def __init__(self, base: Source) -> None:
        self._base = base
        self._lock = threading.Lock()
        self._bad: set[int] = set()
        self.name = base.name
        self.identity = base.identity
        self.size = base.size
        self.sector_bytes = base.sector_bytes
        self.capabilities = base.capabilities
        self.told = base.told

    def extents(self) -> Iterator[Extent]:
        return self._base.extents()

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        return self._base.extents_within(first, stop)

    def in_use(self) -> str:
        return self._base.in_use()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self._base.read_into(offset, buffer)
        except UnreadableError as error:
            self._piecewise(offset, buffer, error)

    def _piecewise(self, offset: int, buffer: memoryview, error: UnreadableError) -> None:
        """Read both halves of a range that cannot be read as a whole; depth is bounded by halving to a sector."""
        sector = self.sector_bytes
        if len(buffer) <= sector:
            self._sector(offset, buffer, error)
            return
        half = len(buffer) // 2 // sector * sector or sector
        for start, part in ((0, buffer[:half]), (half, buffer[half:])):
            self.read_into(offset + start, part)

    def _sector(self, offset: int, buffer: memoryview, error: UnreadableError) -> None:
        for _ in range(TRIES - 1):
            with contextlib.suppress(UnreadableError):
                self._base.read_into(offset, buffer)
                return
        buffer[:] = bytes(len(buffer))
        with self._lock:
            self._bad.add(offset)
            many = len(self._bad) > MAX_RANGES
        if many:
            raise SourceError(
                f"{self.name} has more than {MAX_RANGES} sectors that cannot be read",
                remedy="the disk is dying: image it with a rescue tool first, then send the image",
            ) from error

    def descriptor(self) -> int | None:
        # A kernel whose own read fails leaves the range to read_into.
        return self._base.descriptor()

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        """``(offset, length)`` of what could not be read so far, in order, neighbours joined."""
        with self._lock:
            offsets = sorted(self._bad)
        ranges: list[tuple[int, int]] = []
        for offset in offsets:
            length = min(self.sector_bytes, self.size - offset)
            if ranges and sum(ranges[-1]) == offset:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + length)
            else:
                ranges.append((offset, length))
        return tuple(ranges)

    def check(self) -> None:
        self._base.check()

    def close(self) -> None:
        self._base.close()
