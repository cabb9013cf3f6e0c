"""A partition or a logical volume inside disks or disk images, without the help of the kernel.

``disk.img#2``, ``disk.img#vg0/root``, ``a.img,b.img#vg0/root``. The volume's own blocks are read where they lie:
straight into the caller's buffer wherever its pieces are aligned as the disks below want it, so devices are read with
O_DIRECT as whole disks are; holes of a sparse image and unmapped chunks of a thin volume are holes of the volume.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence

from blocksync.errors import LayoutError, SourceError
from blocksync.extents import Extent, ExtentKind, merge
from blocksync.platforms.dialing import Watching, unwatched
from blocksync.sources.base import Source, SourceCapabilities
from blocksync.volumes.places import Place, open_place
from blocksync.volumes.reader import SourceReader, resolve


class VolumeSource(Source):
    """A place on some disks.

    Args:
        disks: open sources; closed with this one.
        place: ``2`` or ``vg0/root``.

    Raises:
        LayoutError: it is not there, or cannot be read.
    """

    def __init__(self, disks: Sequence[Source], place: str) -> None:
        self._disks = tuple(disks)
        readers = [SourceReader(disk) for disk in self._disks]
        self._named = [(disk.name, reader) for disk, reader in zip(self._disks, readers, strict=True)]
        self._disk_of = {id(reader): disk for disk, reader in zip(self._disks, readers, strict=True)}
        self._text = place
        self._place: Place = open_place(self._named, place)
        self._reader = self._place.reader
        self.name = f"{','.join(disk.name for disk in self._disks)}#{place}"
        self.identity = self._place.identity
        self.size = self._reader.size
        self.sector_bytes = max(disk.sector_bytes for disk in self._disks)
        below = [disk.capabilities for disk in self._disks]
        self.capabilities = SourceCapabilities(
            extents=True,
            direct=all(each.direct for each in below),
            alignment=max(each.alignment for each in below),
            # As weak as the weakest: one disk of a group that is in use makes the volume so.
            consistency=min((each.consistency for each in below), key=_strength),
        )

    def extents(self) -> Iterator[Extent]:
        return merge(self.extents_within(0, self.size))

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        at = first
        for reader, offset, length in resolve(self._reader, first, stop - first):
            if reader is None:
                yield Extent(at, length, ExtentKind.HOLE)
            else:
                for extent in self._disk_of[id(reader)].extents_within(offset, offset + length):
                    yield Extent(at + extent.offset - offset, extent.length, extent.kind)
            at += length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise SourceError(f"a read of {len(buffer)} bytes at {offset} leaves the source {self.name}")
        done = 0
        for reader, at, length in resolve(self._reader, offset, len(buffer)):
            view = buffer[done : done + length]
            if reader is None:
                view[:] = bytes(length)
            elif not (at | length | done) % self.capabilities.alignment:
                self._disk_of[id(reader)].read_into(at, view)
            else:
                view[:] = reader.pread(at, length)
            done += length

    def check(self) -> None:
        for disk in self._disks:
            disk.check()
        try:
            now = open_place(self._named, self._text)
        except LayoutError as error:
            raise SourceError(f"the layout of {self.name} changed while it was read: {error.message}") from error
        if (now.identity, now.stamp, now.reader.size) != (self.identity, self._place.stamp, self.size):
            raise SourceError(
                f"the layout of {self.name} changed while it was read",
                remedy="send it again when nothing changes it",
            )

    def in_use(self) -> str:
        return next(filter(None, (disk.in_use() for disk in self._disks)), "")

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        lost = {key: sorted(disk.unreadable()) for key, disk in self._disk_of.items()}
        if not any(lost.values()):
            return ()
        found: list[tuple[int, int]] = []
        at = 0
        for reader, offset, length in resolve(self._reader, 0, self.size):
            ranges = lost.get(id(reader), [])
            # The first that may reach into this piece is the last one that begins at its start or before.
            for start, count in ranges[max(bisect.bisect_left(ranges, (offset + 1, 0)) - 1, 0) :]:
                if start >= offset + length:
                    break
                low, high = max(start, offset), min(start + count, offset + length)
                if low < high:
                    found.append((at + low - offset, high - low))
            at += length
        return tuple(found)

    def close(self) -> None:
        for disk in self._disks:
            disk.close()


def _strength(consistency: str) -> int:
    return {"crash": 1, "crash-group": 2, "application": 3}.get(consistency, 0)


def open_place_source(text: str, watching: Watching = unwatched) -> VolumeSource:
    """Open ``DISK[,DISK…]#PLACE``; ``watching`` as for :func:`blocksync.sources.open_source`.

    Raises:
        SourceError: a disk cannot be opened.
        LayoutError: the place is not there, or cannot be read.
    """
    from blocksync.sources import open_source

    names, _, place = text.rpartition("#")
    with contextlib.ExitStack() as stack:
        disks = [stack.enter_context(open_source(name, watching)) for name in names.split(",")]
        found = VolumeSource(disks, place)
        stack.pop_all()
    return found
