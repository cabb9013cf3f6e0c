"""Image files and block devices as sources. Opened read-only, always."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import final

from blocksync.errors import SourceError, from_os_error
from blocksync.extents import Extent, ExtentKind
from blocksync.platforms import (
    DIRECT,
    SEES_MOUNTS,
    allocated_from,
    device_facts,
    held,
    locked,
    loops_over,
    mounts_of,
)
from blocksync.platforms.positioned import pread_into
from blocksync.sources.base import Source, SourceCapabilities

SECTOR_BYTES = 512


# Final, since their descriptors are read without read_into: one that reads differently is no kind of these.
@final
class FileSource(Source):
    """A raw image file; holes are found as they are walked. A partial last sector reads as if filled with zeros."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot open the source {path}") from error
        self._bytes = status.st_size
        self.size = -(-status.st_size // SECTOR_BYTES) * SECTOR_BYTES
        self.sector_bytes = SECTOR_BYTES
        if not self.size:
            os.close(self._descriptor)
            raise SourceError(f"the source {path} is empty", remedy="name a disk image that holds something")
        # The path, not the inode: an image that was copied or restored to its place is still that image.
        self.identity = f"file:{os.path.realpath(path)}"
        self.capabilities = SourceCapabilities(extents=self._knows_holes(), direct=False, alignment=1)
        # Asked for the next hole, tmpfs walks over each page to the file's end. What has room for all of its bytes
        # has no holes worth that; should it have any, they are read as what they are, zeros.
        self._dense = getattr(status, "st_blocks", 0) * 512 >= status.st_size

    def _knows_holes(self) -> bool:
        try:
            allocated_from(self._descriptor, 0)
        except OSError:
            return False
        return True

    def extents(self) -> Iterator[Extent]:
        return self.extents_within(0, self.size)

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        if self._dense or not self.capabilities.extents:
            if first < stop:
                yield Extent(first, stop - first)
            return
        at = first
        while at < stop:
            try:
                found = allocated_from(self._descriptor, at)
            except OSError as error:
                raise from_os_error(error, SourceError, f"cannot find the holes of {self.name}") from error
            start, end = found if found is not None else (self.size, self.size)
            # The file may have grown since; and its last extent ends within the last sector.
            start = min(start, stop)
            end = min(self.size if end >= self._bytes else end, stop)
            if start > at:
                yield Extent(at, start - at, ExtentKind.HOLE)
            if end > start:
                yield Extent(start, end - start, ExtentKind.DATA)
            at = max(end, start)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceError(f"a read of [{offset}, {end}) leaves the source {self.name}")
        filled = 0
        try:
            while filled < len(buffer):
                count = pread_into(self._descriptor, buffer[filled:], offset + filled)
                if not count:
                    break
                filled += count
        except OSError as error:
            at = offset + filled
            raise from_os_error(error, SourceError, f"cannot read {self.name} at offset {at}") from error
        if filled < len(buffer):
            if offset + filled < self._bytes:
                raise SourceError(
                    f"the source {self.name} has shrunk to {offset + filled} bytes while it was read",
                    remedy="send it again when nothing resizes it",
                )
            buffer[filled:] = bytes(len(buffer) - filled)

    def descriptor(self) -> int | None:
        return self._descriptor if hasattr(os, "preadv") else None

    def check(self) -> None:
        try:
            now = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot look at {self.name}") from error
        if now != self._bytes:
            raise SourceError(
                f"the source {self.name} changed its size from {self._bytes} to {now} bytes while it was read",
                remedy="send it again when nothing resizes it",
            )

    def in_use(self) -> str:
        return _user_of_file(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


@final
class DeviceSource(Source):
    """A block device, read with O_DIRECT where it allows that, so that production's page cache stays as it is."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._descriptor, direct = _open_direct(path)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot open the source {path}") from error
        try:
            facts = device_facts(self._descriptor)
        except OSError as error:
            os.close(self._descriptor)
            raise from_os_error(error, SourceError, f"cannot ask for the size of {path}") from error
        self.size = facts.size
        self.sector_bytes = facts.sector_bytes
        self.identity = facts.identity
        self.capabilities = SourceCapabilities(
            extents=False, direct=direct, alignment=facts.sector_bytes if direct else 1
        )
        if not self.size:
            os.close(self._descriptor)
            raise SourceError(
                f"the source {path} has no medium or no size", remedy="name a disk that holds something"
            )

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceError(f"a read of [{offset}, {end}) leaves the source {self.name}")
        filled = 0
        try:
            while filled < len(buffer):
                count = os.preadv(self._descriptor, [buffer[filled:]], offset + filled)
                if not count:
                    raise SourceError(f"the source {self.name} ends at {offset + filled} while it was read")
                filled += count
        except OSError as error:
            at = offset + filled
            raise from_os_error(error, SourceError, f"cannot read {self.name} at offset {at}") from error

    def descriptor(self) -> int | None:
        return self._descriptor if hasattr(os, "preadv") else None

    def check(self) -> None:
        try:
            now = device_facts(self._descriptor)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot ask for the size of {self.name}") from error
        if (now.size, now.identity) != (self.size, self.identity):
            raise SourceError(f"the source {self.name} changed its size or its medium while it was read")

    def in_use(self) -> str:
        return _user_of_device(os.fstat(self._descriptor).st_rdev, f"/proc/self/fd/{self._descriptor}")

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open_direct(path: str) -> tuple[int, bool]:
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
    if DIRECT:
        try:
            return os.open(path, flags | DIRECT), True
        except OSError:
            pass  # the device refuses direct reads, or cannot be opened at all: the next line tells
    return os.open(path, flags), False


def _user_of_device(number: int, path: str) -> str:
    if not SEES_MOUNTS:
        return "this system does not tell whether it is mounted"
    places = mounts_of(number)
    if places:
        return f"it is mounted at {places[0]}"
    return "the system holds it: a mount, swap, LVM or MD" if held(path) else ""


def _user_of_file(descriptor: int) -> str:
    for name, number in loops_over(os.fstat(descriptor)):
        places = mounts_of(number)
        if places:
            return f"it is mounted at {places[0]} through {name}"
        if held(name):
            return f"the system holds {name}, which stands on it"
    if locked(descriptor):
        return "another process holds a lock on it, as a running virtual machine does"
    return ""
