"""What a journal's records do to the manifest before it, when a slot is opened."""

from __future__ import annotations

import struct

from blocksync.errors import StateDamagedError
from blocksync.geometry import DIGEST_BYTES
from blocksync.manifest.folder import Folder
from blocksync.manifest.format import BEGIN, RUN, Header, RecordKind
from blocksync.manifest.journal import JOURNAL_FILE, Journal, JournalReader, Record
from blocksync.manifest.working import BlockMap


def replayed(folder: Folder, replay: Replay) -> Journal:
    """Apply a slot's journal; it is returned open, to be gone on with."""
    file = folder.open(JOURNAL_FILE)
    try:
        reader = JournalReader(file)
        for record in reader.records():
            replay.apply(record)
        return reader.resume()
    except BaseException:
        file.close()
        raise


class Replay:
    """Applies a journal's records to the map of the manifest before it."""

    def __init__(self, header: Header, blocks: BlockMap) -> None:
        self._header = header
        self._map = blocks
        self.epoch = 0
        self.resting = ""
        self.touched = False
        self.stale = False

    def apply(self, record: Record) -> None:
        """Raises StateDamagedError for a record that cannot be of this manifest."""
        try:
            self._take(record)
        except (ValueError, struct.error) as error:
            raise StateDamagedError(f"a journal record is out of range: {error}") from error

    def _take(self, record: Record) -> None:
        if record.kind is RecordKind.EPOCH:
            self.epoch = max(self.epoch, record.epoch)
        if record.kind is RecordKind.BEGIN:
            manifest_id, _, _ = BEGIN.unpack(record.payload)
            # Only a journal that the manifest already contains may be another's.
            self.stale = record.sequence <= self._header.covered
            if manifest_id != self._header.manifest_id and not self.stale:
                raise StateDamagedError("the journal belongs to another manifest")
            return
        if record.sequence <= self._header.covered:
            return
        if self.stale:
            raise StateDamagedError("the journal goes on behind the manifest that replaced it")
        self._apply(record)

    def _apply(self, record: Record) -> None:
        if record.kind is RecordKind.EPOCH:
            self.resting = ""
        elif record.kind is RecordKind.REST:
            self.resting = record.payload.decode(errors="surrogatepass")
        elif record.kind in (RecordKind.INTENT, RecordKind.WITHDRAW):
            self.touched = True
            for first, count in RUN.iter_unpack(record.payload):
                self._map.withdraw(first, count)
        elif record.kind is RecordKind.CLAIM:
            self.touched = True
            first, count = RUN.unpack_from(record.payload)
            digests_end = RUN.size + count * DIGEST_BYTES
            self._map.claim(first, record.payload[RUN.size : digests_end], record.payload[digests_end:])
        elif record.kind is RecordKind.CLAIM_ZERO:
            self.touched = True
            self._map.claim_zero(*RUN.unpack(record.payload))
