"""The journal: an append-only log of claims made and withdrawn since the manifest was written.

Records are chained: each one's checksum is seeded with the one before, and each names the last sequence number that was
known to be durable when it was appended. So a torn tail can be told from a damaged middle: damage is a torn tail
unless a later, sound header says that the damaged record had been durable. A tail may be dropped; a middle is an
error.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from blocksync.errors import StateDamagedError
from blocksync.manifest.folder import DurableFile, Folder
from blocksync.manifest.format import BEGIN, JOURNAL_MAGIC, MAX_COUNTER, MAX_RECORD_BYTES, RECORD, RecordKind

JOURNAL_FILE = "journal"
TEMPORARY_FILE = "journal.new"
# Appended records are handed to the file in pieces of about this size, and at each sync.
BUFFER_BYTES = 1 << 20
_HEAD = struct.Struct("<IHHQQQI")
_MAGIC = JOURNAL_MAGIC.to_bytes(4, "little")
assert _HEAD.size == RECORD.size - 12
_KINDS = frozenset(RecordKind)


@dataclass(frozen=True, slots=True)
class Record:
    """A sound record."""

    kind: RecordKind
    epoch: int
    sequence: int
    payload: bytes


class Journal:
    """An open journal at its end. Appending is for one thread at a time; :meth:`sync` may run beside it.

    Args:
        file: closed with this.
        position: where the next record goes, bytes.
        sequence: of the last record.
        checksum: of the last record.
    """

    def __init__(self, file: DurableFile, position: int, sequence: int, checksum: int) -> None:
        self._file = file
        self._position = position
        self._checksum = checksum
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._syncing = threading.Lock()
        self.sequence = sequence
        self.durable = sequence

    @property
    def size(self) -> int:
        """Bytes, with what is still buffered."""
        return self._position + self._buffered

    def append(self, kind: RecordKind, epoch: int, payload: bytes) -> None:
        """Add a record; it is durable after the next :meth:`sync`."""
        if len(payload) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(payload)} bytes")
        record, self._checksum = _encode(kind, epoch, self.sequence + 1, self.durable, payload, self._checksum)
        self.sequence += 1
        self._buffer.append(record)
        self._buffered += len(record)
        if self._buffered >= BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand buffered records to the file."""
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            self._file.pwrite(self._position, data)
            self._position += len(data)

    def sync(self, upto: int) -> None:
        """Make records up to a sequence number durable; the caller has flushed them.

        Several threads share one sync: who finds its records covered returns at once.
        """
        with self._syncing:
            if self.durable >= upto:
                return
            self._file.sync()
            self.durable = max(self.durable, upto)

    def close(self) -> None:
        self._file.close()


def create_journal(folder: Folder, manifest_id: bytes, generation: int, sequence: int) -> Journal:
    """Start a journal durably in place of the old one; its first record is BEGIN."""
    file = folder.open(TEMPORARY_FILE, create=True)
    record, checksum = _encode(
        RecordKind.BEGIN, 0, sequence + 1, sequence, BEGIN.pack(manifest_id, generation, sequence), 0
    )
    try:
        file.pwrite(0, record)
        file.sync()
    except BaseException:
        file.close()
        raise
    file.close()
    folder.replace(TEMPORARY_FILE, JOURNAL_FILE)
    folder.sync()
    return Journal(folder.open(JOURNAL_FILE), len(record), sequence + 1, checksum)


class JournalReader:
    """Replays a journal with bounded memory; afterwards :meth:`resume` goes on behind the last sound record.

    Args:
        file: becomes the journal's.
    """

    def __init__(self, file: DurableFile) -> None:
        self._file = file
        self._size = file.size()
        self._position = 0
        self._sequence = 0
        self._checksum = 0
        # (sequence, position) of the records that no later one calls durable.
        self._unsure: deque[tuple[int, int]] = deque()
        self.dropped_bytes = 0
        """Of a torn tail, once all records were read."""

    def records(self) -> Iterator[Record]:
        """Yield the sound records in order; the first is BEGIN.

        Raises:
            StateDamagedError: a record that had been durable is damaged.
        """
        while self._position < self._size:
            record = self._read(self._position)
            if record is None:
                if not self._position or self._had_been_durable():
                    raise StateDamagedError(
                        f"the journal is damaged at byte {self._position}: a record that was durable does not match "
                        "its checksum"
                    )
                self.dropped_bytes = self._size - self._position
                return
            yield record
        if not self._sequence:
            raise StateDamagedError("the journal is empty")

    def _read(self, at: int) -> Record | None:
        head = self._file.pread(at, RECORD.size)
        fields = _decode_head(head)
        if fields is None:
            return None
        kind, epoch, sequence, durable, length = fields
        if (self._sequence and sequence != self._sequence + 1) or durable >= sequence:
            return None
        payload = self._file.pread(at + RECORD.size, length)
        checksum = int.from_bytes(head[-8:], "little")
        if len(payload) != length or _checksum(head[:-8], payload, self._checksum) != checksum:
            return None
        self._sequence, self._checksum, self._position = sequence, checksum, at + RECORD.size + length
        self._unsure.append((sequence, at))
        while self._unsure and self._unsure[0][0] <= durable:
            self._unsure.popleft()
        return Record(kind, epoch, sequence, payload)

    def _had_been_durable(self) -> bool:
        """Whether a sound header behind the damage says that what is damaged was once synced."""
        step = 1 << 20
        # From here on, not behind it: where records are missing, a sound one of a later number begins right here.
        at = self._position
        while at < self._size:
            part = self._file.pread(at, step + RECORD.size)
            found = part.find(_MAGIC)
            while found >= 0:
                fields = _decode_head(part[found : found + RECORD.size])
                if fields is not None and fields[2] > self._sequence and fields[3] > self._sequence:
                    return True
                found = part.find(_MAGIC, found + 1)
            at += step
        return False

    def resume(self) -> Journal:
        """Cut a torn tail off, durably, and continue."""
        if self._size != self._position:
            self._file.truncate(self._position)
        # Also without a torn tail: a record that was read from the cache may never have reached the disk, and what is
        # built on it from now on must not outlive it. After a sync that failed the cache shows such records as clean,
        # and another sync would not write them (rule 3): so they are written again.
        at = self._unsure[0][1] if self._unsure else self._position
        while at < self._position:
            part = self._file.pread(at, min(BUFFER_BYTES, self._position - at))
            self._file.pwrite(at, part)
            at += len(part)
        self._file.sync()
        return Journal(self._file, self._position, self._sequence, self._checksum)


def _encode(
    kind: RecordKind, epoch: int, sequence: int, durable: int, payload: bytes, previous: int
) -> tuple[bytes, int]:
    head = _HEAD.pack(JOURNAL_MAGIC, kind, 0, epoch, sequence, durable, len(payload))
    head += zlib.crc32(head).to_bytes(4, "little")
    checksum = _checksum(head, payload, previous)
    return b"".join((head, checksum.to_bytes(8, "little"), payload)), checksum


def _checksum(head: bytes, payload: bytes, previous: int) -> int:
    digest = xxhash.xxh3_64(head, seed=previous)
    digest.update(payload)
    return int(digest.intdigest())


def _decode_head(head: bytes) -> tuple[RecordKind, int, int, int, int] | None:
    if len(head) != RECORD.size:
        return None
    magic, kind, flags, epoch, sequence, durable, length = _HEAD.unpack_from(head)
    crc = int.from_bytes(head[_HEAD.size : _HEAD.size + 4], "little")
    if magic != JOURNAL_MAGIC or zlib.crc32(head[: _HEAD.size]) != crc:
        return None
    if flags or length > MAX_RECORD_BYTES or kind not in _KINDS or max(epoch, sequence) > MAX_COUNTER:
        return None
    return RecordKind(kind), epoch, sequence, durable, length
