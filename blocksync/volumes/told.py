"""What a system's own filesystem driver tells of a filesystem, beside what the blocks say.

A shadow copy of a running Windows holds an NTFS whose log may wait to be replayed: by its blocks alone it is not
clean, and no map of it would be taken. The driver has replayed the log in its own view. Its bitmap tells what is in use
then; the bitmap on the disk what was in use before. Whoever replays the log on the target needs both, so used is what
either says. A file's content is left out only where the blocks and the driver agree that it lies there.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Protocol

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.bitmaps import set_runs
from blocksync.volumes.files import Excluded, Room
from blocksync.volumes.filesystems.base import clipped
from blocksync.volumes.filesystems.ntfs import Ntfs
from blocksync.volumes.reader import Reader


class Told(Protocol):
    """The driver's answers. All may raise :class:`~blocksync.errors.SourceError`, except :meth:`runs`."""

    def cluster_bytes(self) -> int: ...

    def bits(self, first: int, /) -> tuple[int, int, bytes]:
        """Of the bitmap: the first cluster told, how many follow to the volume's end, and bits of the first of them."""
        ...

    def runs(self, path: str, /) -> list[tuple[int, int]]:
        """``(cluster, count)`` of a file's content; empty where the driver does not say."""
        ...


class ToldMap:
    """The allocation map of an NTFS that a driver has mounted.

    Raises:
        LayoutDamagedError: driver and blocks speak of different filesystems.
        LayoutUnknownError: it is no NTFS.
    """

    def __init__(self, reader: Reader, kind: str, told: Told) -> None:
        if kind != "ntfs":
            raise LayoutUnknownError(f"what a driver tells of {kind} is not used")
        self._volume = Ntfs(reader)
        self._told = told
        boot = self._volume.boot
        start, count, _ = told.bits(0)
        if told.cluster_bytes() != boot.cluster_bytes or start or count not in (boot.clusters, boot.clusters + 1):
            raise LayoutDamagedError("Windows tells of another filesystem than the one that lies there")
        self.size = min(boot.size, reader.size)

    def mark(self) -> bytes:
        """It is a view of one instant: nothing changes."""
        return b""

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        boot = self._volume.boot
        low, high = first // boot.cluster_bytes, min(-(-stop // boot.cluster_bytes), boot.clusters)
        ranges = heapq.merge(self._volume.used(low, high), self._driver(low, high))
        clusters = ((start * boot.cluster_bytes, end * boot.cluster_bytes) for start, end in ranges)
        behind = iter([(boot.clusters * boot.cluster_bytes, boot.size)])
        return clipped(heapq.merge(clusters, behind), first, min(stop, self.size))

    def _driver(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        at = first
        while at < stop:
            start, count, bits = self._told.bits(at)
            end = min(start + count, start + len(bits) * 8, stop)
            if end <= at:
                raise LayoutDamagedError("the bitmap that Windows tells ends before the volume does")
            for low, high in set_runs(bits, end - start):
                if start + high > at:
                    yield max(start + low, at), start + high
            at = end


class Confirmed(Excluded):
    """What is left out of a filesystem, as far as its driver agrees."""

    def __init__(self, told: Told, room: Room) -> None:
        super().__init__(room=room)
        self._told = told
        self._unit = told.cluster_bytes()

    def add(self, path: str, ranges: Iterator[tuple[int, int]]) -> None:
        unit = self._unit
        agreed = [(start * unit, (start + count) * unit) for start, count in self._told.runs(path)]
        super().add(path, _both(sorted(ranges), agreed))


def _both(mine: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What two sorted lists of ranges have in common."""
    at = 0
    for start, end in mine:
        while at < len(theirs) and theirs[at][1] <= start:
            at += 1
        look = at
        while look < len(theirs) and theirs[look][0] < end:
            yield max(start, theirs[look][0]), min(end, theirs[look][1])
            look += 1
