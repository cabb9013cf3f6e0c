"""The one way in which layouts are read: bytes at an offset, all of them or an error.

Everything in this room stands on :class:`Reader`, so a partition, a logical volume and a whole disk are the same kind
of thing, and each can hold the next: a reader over readers. No parser here trusts a length it has read: offsets and
lengths are checked against ``size`` before anything is allocated.
"""

from __future__ import annotations

import abc
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import Protocol, TypeAlias

from blocksync.errors import LayoutDamagedError, SourceError, from_os_error

MOST_AT_ONCE_BYTES = 64 << 20  # the largest single structure that is read here: an LVM metadata area
_PIECE_BYTES = 1 << 20


class Reader(Protocol):
    """A readable, unchanging run of bytes.

    Obligations: :meth:`pread` may be called from several threads at once; it answers exactly ``length`` bytes or raises
    :class:`~blocksync.errors.BlocksyncError` (:class:`~blocksync.errors.SourceError` for a fault of the medium,
    :class:`~blocksync.errors.LayoutError` for a range outside ``[0, size)`` or a layout that cannot be followed).
    """

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def pread(self, offset: int, length: int, /) -> bytes: ...


def check_range(size: int, offset: int, length: int, what: str) -> None:
    """Raise :class:`LayoutDamagedError` unless ``[offset, offset + length)`` lies within ``size`` bytes."""
    if offset < 0 or length < 0 or offset + length > size:
        raise LayoutDamagedError(f"{what}: [{offset}, {offset + length}) lies outside its {size} bytes")


def read_bounded(reader: Reader, offset: int, length: int, what: str) -> bytes:
    """Read a structure whose place came from the disk itself: refuse what is out of bounds or out of proportion."""
    check_range(reader.size, offset, length, what)
    if length > MOST_AT_ONCE_BYTES:
        raise LayoutDamagedError(f"{what}: a length of {length} bytes is out of proportion")
    return reader.pread(offset, length)


class BytesReader:
    """Bytes in memory as a reader."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def pread(self, offset: int, length: int, /) -> bytes:
        check_range(self.size, offset, length, "a read of memory")
        return self._data[offset : offset + length]


Run: TypeAlias = "tuple[Reader | None, int, int]"
"""A reader, an offset in it and a length; no reader means zeros."""


class Composite(abc.ABC):
    """A reader over other readers: where each byte lies is known without reading it.

    That is what lets a logical volume be read straight into a caller's buffer, and its holes be those of the image
    that it lies in; see :func:`resolve`.
    """

    size: int
    kind = "a volume"

    @abc.abstractmethod
    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """What ``[offset, offset + length)``, which lies within ``size``, is made of, in order and without a gap."""

    def pread(self, offset: int, length: int, /) -> bytes:
        check_range(self.size, offset, length, f"a read of {self.kind}")
        pieces = [
            bytes(count) if reader is None else reader.pread(at, count)
            for reader, at, count in self.runs(offset, length)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def resolve(reader: Reader, offset: int, length: int) -> Iterator[Run]:
    """What a range of a reader is made of in the end: runs of readers that are no composites, and zeros.

    Raises:
        LayoutError: the range, or one it leads to, lies outside its reader.
    """
    check_range(reader.size, offset, length, "a range of a volume")
    if not isinstance(reader, Composite):
        yield reader, offset, length
        return
    for inner, at, count in reader.runs(offset, length):
        if inner is None:
            yield None, at, count
        else:
            yield from resolve(inner, at, count)


class Window(Composite):
    """A part of another reader: a partition, a metadata area."""

    kind = "a part"

    def __init__(self, base: Reader, offset: int, size: int) -> None:
        check_range(base.size, offset, size, "a part of a disk")
        self._base = base
        self.offset = offset
        self.size = size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        yield self._base, self.offset + offset, length


class FileReader:
    """A file descriptor of a disk image or device, opened without O_DIRECT; it stays the caller's to close.

    Args:
        size: bytes; the descriptor's end when left out.
    """

    def __init__(self, descriptor: int, size: int | None = None) -> None:
        self._descriptor = descriptor
        try:
            self.size = os.lseek(descriptor, 0, os.SEEK_END) if size is None else size
        except OSError as error:
            raise from_os_error(error, SourceError, "cannot ask for the size of the disk") from error

    def pread(self, offset: int, length: int, /) -> bytes:
        check_range(self.size, offset, length, "a read of the disk")
        pieces: list[bytes] = []
        done = 0
        while done < length:
            try:
                piece = os.pread(self._descriptor, length - done, offset + done)
            except OSError as error:
                raise from_os_error(error, SourceError, f"cannot read at offset {offset + done}") from error
            if not piece:
                raise SourceError(f"the disk ends at {offset + done} while it was read")
            pieces.append(piece)
            done += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Capabilities(Protocol):
    @property
    def alignment(self) -> int: ...


class ReadsInto(Protocol):
    """The part of a source (``blocksync.sources.base.Source``) that is needed to read layouts from it.

    It is named here by its shape, since rooms of one level do not import each other.
    """

    @property
    def size(self) -> int: ...
    @property
    def capabilities(self) -> _Capabilities: ...
    def read_into(self, offset: int, buffer: memoryview) -> None: ...


class SourceReader:
    """A source as a reader: unaligned reads become aligned ones, in page-aligned memory, as O_DIRECT wants them."""

    def __init__(self, source: ReadsInto) -> None:
        self.source = source
        self.size = source.size

    def pread(self, offset: int, length: int, /) -> bytes:
        check_range(self.size, offset, length, "a read of the disk")
        if not length:
            return b""
        unit = max(1, self.source.capabilities.alignment)
        start = offset // unit * unit
        end = min(-(-(offset + length) // unit) * unit, self.size)
        pieces: list[bytes] = []
        # Anonymous memory starts on a page. Not closed here: a read that fails leaves views of it in its traceback.
        room = memoryview(mmap.mmap(-1, min(end - start, _PIECE_BYTES + unit)))
        while start < end:
            count = min(end - start, len(room) // unit * unit or len(room))
            view = room[:count]
            self.source.read_into(start, view)
            first = max(offset - start, 0)
            last = min(offset + length - start, count)
            pieces.append(bytes(view[first:last]))
            start += count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Concatenated(Composite):
    """Several runs of other readers, one after the other, as one reader; gaps read as zeros.

    Args:
        parts: ``(offset here, length, reader, offset there)``, sorted, without overlap.
        size: bytes.
    """

    def __init__(self, parts: list[tuple[int, int, Reader, int]], size: int) -> None:
        at = 0
        for offset, length, reader, there in parts:
            if offset < at or length <= 0:
                raise LayoutDamagedError("the runs of a volume overlap")
            check_range(reader.size, there, length, "a run of a volume")
            at = offset + length
        if at > size:
            raise LayoutDamagedError("a run of a volume passes its end")
        self._parts = parts
        self._starts = [part[0] for part in parts]
        self.size = size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        index = max(bisect_right(self._starts, offset) - 1, 0)
        while offset < end:
            if index >= len(self._parts):
                yield None, 0, end - offset
                return
            start, count, reader, there = self._parts[index]
            if offset < start:
                stop = min(start, end)
                yield None, 0, stop - offset
                offset = stop
            elif offset < start + count:
                stop = min(start + count, end)
                yield reader, there + offset - start, stop - offset
                offset = stop
            else:
                index += 1
