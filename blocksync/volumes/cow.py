"""Classic snapshots: the exception store of dm-snapshot, version 1 (``drivers/md/dm-snap-persistent.c``).

Little-endian. The header chunk holds u32 magic, u32 valid, u32 version, u32 chunk size in sectors. Areas of one chunk
follow, each with an entry {u64 chunk of the origin, u64 chunk of the store} for as many chunks as entries fit; an entry
whose second half is 0 ends the table. There are no checksums in this format, so every number is checked against
the sizes of the origin and the store.

Reading a store that is in use needs a reader that bypasses the page cache: the kernel writes it past that cache.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.errors import LayoutDamagedError, LayoutUnknownError, SnapshotInvalidError
from blocksync.volumes.reader import Composite, Reader, Run, read_bounded

_HEADER = struct.Struct("<IIII")
_ENTRY_BYTES = 16
_MAGIC = 0x70416E53
_MOST_EXCEPTIONS = 1 << 22  # 16 GiB of changes in chunks of 4 KiB; about 400 MiB of memory


class CowStore:
    """The exceptions of one snapshot.

    Raises:
        SnapshotInvalidError: it overflowed.
        LayoutUnknownError: it is of another version.
        LayoutDamagedError: it has no header, or an entry is out of bounds.
    """

    def __init__(self, reader: Reader, chunk_bytes: int) -> None:
        magic, valid, version, sectors = _HEADER.unpack(read_bounded(reader, 0, _HEADER.size, "snapshot header"))
        if magic != _MAGIC:
            raise LayoutDamagedError("the snapshot's store has no header", remedy="was it ever activated?")
        if version != 1:
            raise LayoutUnknownError(f"the snapshot's store is of version {version}")
        if not valid:
            raise SnapshotInvalidError("the snapshot is invalid: it overflowed")
        if sectors * 512 != chunk_bytes or chunk_bytes < 512 or chunk_bytes & (chunk_bytes - 1):
            raise LayoutDamagedError(
                f"the snapshot's store has chunks of {sectors} sectors, not {chunk_bytes} bytes"
            )
        self._reader = reader
        self.chunk_bytes = chunk_bytes
        self.exceptions = self._load()
        """From a chunk's number in the origin to its number in the store."""

    def _load(self) -> dict[int, int]:
        per_area = self.chunk_bytes // _ENTRY_BYTES
        chunks = self._reader.size // self.chunk_bytes
        found: dict[int, int] = {}
        area = 1
        while area < chunks:
            raw = read_bounded(self._reader, area * self.chunk_bytes, self.chunk_bytes, "exception table")
            for old, new in struct.iter_unpack("<QQ", raw):
                if not new:
                    return found
                # Chunk 0 is the header; every (per_area + 1)-th from chunk 1 on is a table like this one.
                if new >= chunks or (new - 1) % (per_area + 1) == 0:
                    raise LayoutDamagedError(f"the snapshot's store names its chunk {new} of {chunks}")
                if len(found) >= _MOST_EXCEPTIONS:
                    raise LayoutUnknownError("the snapshot holds more changes than are read here")
                found[old] = new
            area += per_area + 1
        return found

    def run(self, number: int, within: int, length: int) -> Run:
        """Where bytes of a chunk of the store lie."""
        return self._reader, number * self.chunk_bytes + within, length


class SnapshotReader(Composite):
    """The origin as it was, with what was written to the snapshot."""

    kind = "a snapshot"

    def __init__(self, origin: Reader, store: CowStore) -> None:
        self._origin = origin
        self._store = store
        self.size = origin.size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        end = offset + length
        unit = self._store.chunk_bytes
        plain = offset  # the start of a run that is still the origin's
        while offset < end:
            number, within = divmod(offset, unit)
            count = min(unit - within, end - offset)
            new = self._store.exceptions.get(number)
            if new is not None:
                if plain < offset:
                    yield self._origin, plain, offset - plain
                yield self._store.run(new, within, count)
                plain = offset + count
            offset += count
        if plain < end:
            yield self._origin, plain, end - plain
