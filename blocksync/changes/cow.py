"""What changed since a classic snapshot was taken: its exception table, read past the page cache."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator

from blocksync.errors import ChangesUnknownError, LayoutError, from_os_error
from blocksync.extents import Extent
from blocksync.platforms import DIRECT, device_facts
from blocksync.volumes.cow import CowStore

_UNIT = 4096


class DirectReader:
    """A device as bytes, read with O_DIRECT: a buffered second reading shows the table of the first one.

    Raises:
        ChangesUnknownError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | DIRECT | os.O_CLOEXEC)
            self.size = device_facts(self._descriptor).size
        except OSError as error:
            raise from_os_error(error, ChangesUnknownError, f"cannot open {path}") from error

    def pread(self, offset: int, length: int, /) -> bytes:
        start = offset // _UNIT * _UNIT
        stop = min(-(-(offset + length) // _UNIT) * _UNIT, self.size)
        with mmap.mmap(-1, stop - start) as room:  # anonymous memory starts on a page
            filled = 0
            try:
                while filled < stop - start:
                    with memoryview(room) as whole, whole[filled:] as rest:
                        count = os.preadv(self._descriptor, [rest], start + filled)
                    if not count:
                        raise ChangesUnknownError(f"{self._path} ends at {start + filled}")
                    filled += count
            except OSError as error:
                raise from_os_error(error, ChangesUnknownError, f"cannot read {self._path}") from error
            return room[offset - start : offset - start + length]

    def close(self) -> None:
        os.close(self._descriptor)


def changed_chunks(path: str, chunk_bytes: int, size: int) -> Iterator[Extent]:
    """Ranges of the origin that were written since the snapshot; what was written to the snapshot counts too.

    Args:
        path: of the snapshot's store (``VG-NAME-cow``).
        chunk_bytes: of the snapshot.
        size: of the origin, bytes.

    Raises:
        ChangesUnknownError: it overflowed, or cannot be read.
    """
    reader = DirectReader(path)
    try:
        store = CowStore(reader, chunk_bytes)
    except LayoutError as error:
        raise ChangesUnknownError(f"the table of changes cannot be read: {error.message}") from error
    finally:
        reader.close()
    return ranges(sorted(store.exceptions), chunk_bytes, size)


def ranges(chunks: Iterable[int], chunk_bytes: int, size: int) -> Iterator[Extent]:
    """Sorted numbers of chunks as joined ranges.

    Raises:
        ChangesUnknownError: one lies beyond the disk.
    """
    start = end = -1
    for chunk in chunks:
        if chunk * chunk_bytes >= size:
            raise ChangesUnknownError(f"the table of changes names chunk {chunk}, which is beyond the disk")
        if chunk == end:
            end += 1
            continue
        if end > start:
            yield _extent(start, end, chunk_bytes, size)
        start, end = chunk, chunk + 1
    if end > start:
        yield _extent(start, end, chunk_bytes, size)


def _extent(first: int, end: int, unit: int, size: int) -> Extent:
    return Extent(first * unit, min(end * unit, size) - first * unit)
