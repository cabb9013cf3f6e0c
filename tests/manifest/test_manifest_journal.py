"""The chain of a journal's records, their bounds, and the bounds of a segment."""

from __future__ import annotations

import zlib

import pytest
from test_manifest_ghosts import CachedFile, CachedFolder

from blocksync.errors import ProtocolError, StateDamagedError
from blocksync.geometry import DIGEST_BYTES, Geometry
from blocksync.manifest.format import MAX_RECORD_BYTES, RUN, RecordKind
from blocksync.manifest.journal import _HEAD, JournalReader, create_journal
from blocksync.manifest.segments import decode_segment

GEOMETRY = Geometry(5 * 4096, 4096)


def written(epochs: int, folder: CachedFolder) -> tuple[CachedFile, list[int]]:
    """A journal with so many records behind BEGIN, and where each of them begins."""
    journal = create_journal(folder, bytes(16), 0, 0)
    file = folder.files["journal"]
    at = [file.size()]
    for epoch in range(1, epochs + 1):
        journal.append(RecordKind.INTENT, epoch, RUN.pack(epoch, 1))
        journal.flush()
        journal.sync(journal.sequence)
        at.append(file.size())
    return file, at


def test_a_record_is_bound_to_the_one_before() -> None:
    file, at = written(3, CachedFolder())
    other, _ = written(3, CachedFolder())
    # The second record of a journal that had another first one: sound by itself, and of the right number.
    strange = CachedFolder()
    journal = create_journal(strange, b"x" * 16, 0, 0)
    for epoch in range(1, 4):
        journal.append(RecordKind.INTENT, epoch, RUN.pack(epoch, 1))
    journal.flush()
    foreign = strange.files["journal"].content
    other.content[at[0] : at[1]] = foreign[at[0] : at[1]]
    assert len(list(JournalReader(file).records())) == 4
    with pytest.raises(StateDamagedError):
        list(JournalReader(other).records())


def test_a_record_that_is_missing_is_damage() -> None:
    file, at = written(3, CachedFolder())
    del file.content[at[1] : at[2]]
    with pytest.raises(StateDamagedError):
        list(JournalReader(file).records())


def test_a_gap_in_the_numbers_is_no_record() -> None:
    """Even where the chain of checksums holds: a writer that skips a number is not ours."""
    folder = CachedFolder()
    journal = create_journal(folder, bytes(16), 0, 0)
    journal.append(RecordKind.INTENT, 1, RUN.pack(1, 1))
    journal.sequence += 1
    journal.append(RecordKind.INTENT, 2, RUN.pack(2, 1))
    journal.flush()
    kept = [record.sequence for record in JournalReader(folder.files["journal"]).records()]
    assert kept == [1, 2]


def test_a_length_is_checked_before_anything_is_read() -> None:
    asked: list[int] = []

    class Counting(CachedFile):
        def pread(self, offset: int, length: int) -> bytes:
            asked.append(length)
            return super().pread(offset, length)

    file = Counting()
    head = _HEAD.pack(0x314A5342, RecordKind.BEGIN, 0, 0, 1, 0, MAX_RECORD_BYTES + 1)
    file.pwrite(0, head + zlib.crc32(head).to_bytes(4, "little") + bytes(8) + bytes(4096))
    with pytest.raises(StateDamagedError):
        list(JournalReader(file).records())
    assert max(asked) <= MAX_RECORD_BYTES


def test_segments_are_canonical() -> None:
    blocks = GEOMETRY.block_count
    digests = b"d" * (2 * DIGEST_BYTES) + bytes((blocks - 2) * DIGEST_BYTES)
    assert bytes(decode_segment(b"\3" + digests, GEOMETRY, blocks).known) == b"\1\1\0\0\0"
    for payload in (
        b"\1" + digests,  # a digest for a block that is not known
        b"\x23" + digests,  # a sixth block of five
        b"\3" + digests[:-1],
        b"\3" + digests + b"\0",
    ):
        with pytest.raises(ProtocolError):
            decode_segment(payload, GEOMETRY, blocks)
