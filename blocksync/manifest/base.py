"""Manifest files: written whole to a temporary name and renamed, read a segment at a time."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from blocksync.errors import StateDamagedError
from blocksync.manifest.folder import DurableFile, Folder
from blocksync.manifest.format import (
    ENTRY,
    HEADER_BYTES,
    HEADER_VERSIONS,
    Header,
    SegmentState,
    claimed_in,
    entry,
    payload_bytes,
)

if TYPE_CHECKING:
    from blocksync.manifest.working import BlockMap

TEMPORARY_FILE = "manifest.new"
_ENTRIES_AT_ONCE = 4096
_STATES = bytes(SegmentState)
# 255 for a state whose entry may not count claims, 0 for one whose entry does.
_COUNTLESS = bytes(0 if state == SegmentState.STORED else 255 for state in range(256))


def surviving_header(file: DurableFile) -> Header | None:
    """What a manifest was for, also where its table is damaged or of an older format; closes the file."""
    try:
        return Header.decode(file.pread(0, HEADER_BYTES), HEADER_VERSIONS)
    except StateDamagedError:
        return None
    finally:
        file.close()


class ManifestFile:
    """An open manifest file; any segment is one read away. Thread-safe, read-only.

    Args:
        file: closed with this.

    Raises:
        StateDamagedError: the header or the table is damaged.
    """

    def __init__(self, file: DurableFile) -> None:
        self._file = file
        try:
            self.header = Header.decode(file.pread(0, HEADER_BYTES))
            self._size = file.size()
            length = self.header.geometry.segment_count * ENTRY.size
            if HEADER_BYTES + length > self._size:
                raise StateDamagedError("the manifest ends within its segment table")
            self._table = file.pread(HEADER_BYTES, length)
            if len(self._table) != length or zlib.crc32(self._table) != self.header.table_checksum:
                raise StateDamagedError("the manifest's segment table is damaged: its checksum does not match")
            # A checksum that holds proves who wrote, not what: nobody else may find a state that there is not.
            if self._table[:: ENTRY.size].translate(None, _STATES):
                raise StateDamagedError("the manifest's segment table names a state that there is not")
            if self._miscounted():
                raise StateDamagedError("the manifest's segment table counts claims where its state says them")
        except BaseException:
            file.close()
            raise

    def states(self) -> bytes:
        """One byte a segment."""
        # The state is the entry's first byte.
        return self._table[:: ENTRY.size]

    def _miscounted(self) -> bool:
        """Whether an entry that is not STORED counts claims; all entries at once, a large disk has many."""
        countless = int.from_bytes(self.states().translate(_COUNTLESS), "little")
        columns = (self._table[1 + place :: ENTRY.size] for place in range(3))
        return any(int.from_bytes(column, "little") & countless for column in columns)

    def digest(self, index: int) -> bytes:
        return self._table[(index + 1) * ENTRY.size - 16 : (index + 1) * ENTRY.size]

    def payload(self, index: int) -> bytes:
        """The canonical payload of a STORED segment, unchecked: the caller compares its digest.

        Raises:
            StateDamagedError: the table's entry is out of range.
        """
        offset, length = self._place(index)
        payload = self._file.pread(offset, length)
        if len(payload) != length:
            raise StateDamagedError(f"segment {index} of the manifest is damaged: the file ends before it")
        return payload

    def _place(self, index: int) -> tuple[int, int]:
        """Offset and length of a STORED segment's payload, within the file."""
        state, _, length, offset, _ = ENTRY.unpack_from(self._table, index * ENTRY.size)
        expected = payload_bytes(self.header.geometry, self.header.geometry.blocks_in_segment(index))
        if state != SegmentState.STORED or length != expected or offset + length > self._size:
            raise StateDamagedError(f"segment {index} of the manifest is damaged: its entry is out of range")
        return offset, length

    def known_count(self, index: int) -> int:
        """Claimed blocks of a STORED segment; 0 of others, whose state says it."""
        return int.from_bytes(self._table[index * ENTRY.size + 1 : index * ENTRY.size + 4], "little")

    def known_counts(self) -> int:
        """Claimed blocks of all STORED segments together, without a loop: a large disk has hundreds of thousands."""
        return sum(sum(self._table[1 + place :: ENTRY.size]) << 8 * place for place in range(3))

    def digests(self) -> bytearray:
        """16 bytes a segment, of all segments."""
        found = bytearray(len(self._table) // 2)
        # An entry ends with its digest: four words of four bytes, taken column by column.
        words, out = memoryview(self._table).cast("I"), memoryview(found).cast("I")
        for word in range(4):
            out[word::4] = words[4 + word :: 8]
        return found

    def close(self) -> None:
        self._file.close()


def write_manifest(folder: Folder, name: str, header: Header, blocks: BlockMap) -> None:
    """Write a manifest durably in place of ``name``: all of the new one or all of the old one survives a crash.

    Args:
        folder: of the slot or copy.
        name: of the file.
        header: its table checksum is filled in here.
        blocks: the claims.
    """
    count = blocks.geometry.segment_count
    file = folder.open(TEMPORARY_FILE, create=True)
    try:
        table_at = HEADER_BYTES
        payload_at = HEADER_BYTES + count * ENTRY.size
        checksum = 0
        entries: list[bytes] = []
        for index in range(count):
            state, payload = blocks.export_segment(index)
            offset = payload_at if payload else 0
            known = claimed_in(payload, blocks.geometry.blocks_in_segment(index)) if payload else 0
            entries.append(entry(state, payload, offset, blocks.segment_digest(index), known))
            if payload:
                file.pwrite(payload_at, payload)
                payload_at += len(payload)
            if len(entries) == _ENTRIES_AT_ONCE or index == count - 1:
                part = b"".join(entries)
                checksum = zlib.crc32(part, checksum)
                file.pwrite(table_at, part)
                table_at += len(part)
                entries.clear()
        file.pwrite(0, replace(header, table_checksum=checksum).encode())
        file.sync()
    finally:
        file.close()
    folder.replace(TEMPORARY_FILE, name)
    folder.sync()
