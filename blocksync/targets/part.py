"""A partition of a disk that is held as a whole: a target of its own, with its own descriptor and its own syncs.

The kernel tells a failed write-back to every open descriptor once. Parts that shared one would take each other's news,
and a part would claim what never reached the disk; so each part opens the disk again (:meth:`Target.twin`). The
disk as a whole keeps the lock or O_EXCL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from blocksync.errors import TargetError
from blocksync.extents import Extent
from blocksync.targets.base import Target


class PartTarget(Target):
    """``[offset, offset + size)`` of a disk.

    Args:
        whole: stays the caller's to close, after this one.
        number: of the partition, for people.
        offset: bytes, a multiple of the disk's sector.
        size: bytes.
        mark: answers for :meth:`write_mark`: the disk's own mark changes with every part that is written.
    """

    def __init__(self, whole: Target, *, number: int, offset: int, size: int, mark: Callable[[], str]) -> None:
        if offset < 0 or size <= 0 or offset + size > whole.size:
            raise TargetError(f"partition {number} leaves the target {whole.name}")
        self._disk = whole.twin()
        self._offset = offset
        self._mark = mark
        self.name = f"{whole.name} partition {number}"
        self.identity = f"{whole.identity}@{offset}"
        self.size = size
        self.sector_bytes = whole.sector_bytes
        # A disk that was new when it was opened may have been divided in another way since.
        self.capabilities = dataclasses.replace(whole.capabilities, fresh=False)

    def extents(self) -> Iterator[Extent]:
        end = self._offset + self.size
        for extent in self._disk.extents():
            first, last = max(extent.offset, self._offset), min(extent.offset + extent.length, end)
            if first < last:
                yield Extent(first - self._offset, last - first, extent.kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._disk.read_into(self._at(offset, len(buffer)), buffer)

    def write(self, offset: int, data: memoryview) -> None:
        self._disk.write(self._at(offset, len(data)), data)

    def zero(self, offset: int, length: int) -> None:
        self._disk.zero(self._at(offset, length), length)

    def sync(self) -> None:
        self._disk.sync()

    def drop_cached(self, offset: int, length: int) -> None:
        self._disk.drop_cached(self._at(offset, length), length)

    def reopen(self) -> None:
        self._disk.reopen()

    def write_mark(self) -> str:
        return self._mark()

    def close(self) -> None:
        self._disk.close()

    def _at(self, offset: int, length: int) -> int:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TargetError(f"[{offset}, {offset + length}) leaves {self.name} of {self.size} bytes")
        return self._offset + offset
