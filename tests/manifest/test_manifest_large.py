"""A disk of 64 TiB: its manifest is opened and read without being loaded. Counted in reads, not in seconds."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_claims import KEY, KIND

from blocksync.errors import StateDamagedError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import fold
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import DurableFile, OsFolder
from blocksync.manifest.format import ENTRY, HEADER_BYTES, Header, SegmentState, payload_bytes
from blocksync.manifest.journal import create_journal
from blocksync.manifest.store import MANIFEST_FILE, SlotStore
from blocksync.manifest.working import BlockMap, Counts

MIB = 1 << 20
LARGE = Geometry(64 << 40)


class Counting(OsFolder):
    """A folder that counts what is read from its manifest."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[int] = []

    def open(self, name: str, *, create: bool = False) -> DurableFile:
        file = super().open(name, create=create)
        if name == MANIFEST_FILE:
            plain = file.pread

            def pread(offset: int, length: int) -> bytes:
                self.reads.append(length)
                return plain(offset, length)

            file.pread = pread  # type: ignore[method-assign]
        return file


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Counting]:
    """Each segment stored, of which the file holds the table; the payloads are a hole, and so all alike."""
    count, size = LARGE.segment_count, payload_bytes(LARGE, LARGE.segment_blocks)
    digest = fold(KIND, KEY, bytes(size))
    at = HEADER_BYTES + count * ENTRY.size
    table = b"".join(ENTRY.pack(SegmentState.STORED, bytes(3), size, at + i * size, digest) for i in range(count))
    header = Header(
        manifest_id=bytes(16), generation=1, complete=True, covered=1, epoch=1, geometry=LARGE, kind=KIND, key=KEY,
        root=bytes(DIGEST_BYTES), table_checksum=zlib.crc32(table), source_identity="disk", write_mark="",
    )  # fmt: skip
    with Counting(tmp_path / "slot") as folder:
        create_journal(folder, header.manifest_id, 1, 1).close()
        with open(tmp_path / "slot" / MANIFEST_FILE, "wb") as file:
            file.write(header.encode() + table)
            file.truncate(at + count * size)
        yield folder


def test_opening_reads_the_table_and_a_view_one_segment(large: Counting) -> None:
    tracemalloc.start()
    store = SlotStore.open(large)
    table = LARGE.segment_count * ENTRY.size
    assert large.reads == [HEADER_BYTES, table]
    large.reads.clear()
    chance = random.Random(1)
    segments = [chance.randrange(LARGE.segment_count) for _ in range(40)]
    for segment in segments:
        known, _, _ = store.map.view(segment * LARGE.segment_blocks + 7, 9)
        assert bytes(known) == bytes(9)
    assert len(large.reads) <= len(segments)
    assert set(large.reads) == {payload_bytes(LARGE, LARGE.segment_blocks)}
    large.reads.clear()
    # The root and the counts need the table alone.
    assert store.map.counts() == Counts(LARGE.block_count, 0)
    assert len(store.map.segment_digests()) == LARGE.segment_count * DIGEST_BYTES
    store.map.root()
    assert large.reads == []
    store.map.claim_zero(5 * LARGE.segment_blocks - 3, LARGE.segment_blocks)
    assert store.map.counts().known_blocks == LARGE.segment_blocks
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The table of 8 MiB, copies of its digests, and the few segments that are kept at a time.
    assert peak < 48 * MIB
    store.close()


def test_claims_all_over_it_stay_within_bounds(large: Counting) -> None:
    store = SlotStore.open(large)
    tracemalloc.start()
    digest, pages = b"d" * DIGEST_BYTES, b"p" * PAGE_DIGEST_BYTES * LARGE.pages_per_block
    for segment in range(0, 60 * 1000, 1000):
        store.map.claim(segment * LARGE.segment_blocks, digest, pages)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MIB
    assert bytes(store.map.view(0, 2)[0]) == b"\1\0"
    store.close()


# Nineteen segments of sixteen blocks and a short one.
SMALL = Geometry(19 * (256 << 20) + (16 << 20) + 512, 16 << 20)


@settings(max_examples=40, deadline=None)
@given(
    before=st.lists(st.tuples(st.integers(0, SMALL.block_count - 1), st.integers(1, 60)), max_size=4),
    after=st.lists(st.tuples(st.integers(0, SMALL.block_count - 1), st.integers(1, 60), st.booleans()), max_size=4),
    single=st.sets(st.integers(0, SMALL.block_count - 1), max_size=3),
)
def test_all_digests_at_once_are_those_of_the_segments(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[int, int]],
    after: list[tuple[int, int, bool]],
    single: set[int],
) -> None:
    with OsFolder(tmp_path_factory.mktemp("copy")) as folder:
        copy = ManifestCopy(folder)
        known = copy.load(bytes(16), SMALL, KIND, KEY)
        for first, count in before:
            known.claim_zero(first, min(count, SMALL.block_count - first))
        claim_each(known, single)
        assert at_once(known)
        assert known.counts().known_blocks == sum(count for _, count in known.claimed_runs())
        copy.save(known, 1, bytes(16))
        known.close()
        again = copy.load(bytes(16), SMALL, KIND, KEY)
        assert at_once(again)
        for first, count, zero in after:
            change = again.claim_zero if zero else again.withdraw
            change(first, min(count, SMALL.block_count - first))
        claim_each(again, {SMALL.block_count - 1 - block for block in single})
        assert at_once(again)
        assert again.counts().known_blocks == sum(count for _, count in again.claimed_runs())
        again.close()


def claim_each(known: BlockMap, blocks: set[int]) -> None:
    pages = b"p" * PAGE_DIGEST_BYTES * SMALL.pages_per_block
    known.claim_each(sorted(blocks), b"d" * DIGEST_BYTES * len(blocks), pages * len(blocks))


def at_once(known: BlockMap) -> bool:
    each = b"".join(known.segment_digest(index) for index in range(SMALL.segment_count))
    return known.segment_digests() == each


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("state", list(SegmentState))
def test_a_table_that_counts_other_claims_than_its_segments_have_is_refused(
    tmp_path: Path, state: SegmentState, place: int
) -> None:
    """With checksums that hold: the sums over the table are then wrong, and so is what they say of a transfer."""
    disk = Geometry(3 * 256 * MIB)
    at = HEADER_BYTES + int(state) * ENTRY.size + 1 + place
    with OsFolder(tmp_path / "slot") as folder:
        store = SlotStore.create(folder, disk, KIND, source_identity="disk", key=KEY)
        store.begin_epoch("peer", "disk")
        store.claim_zero(disk.segment_blocks, disk.segment_blocks)
        store.claim_zero(2 * disk.segment_blocks, 7)
        store.commit(store.map.root(), "mark")
        store.close()
        content = bytearray((tmp_path / "slot" / MANIFEST_FILE).read_bytes())
        assert [content[HEADER_BYTES + ENTRY.size * index] for index in range(3)] == list(SegmentState)
        content[at] ^= 1
        table = zlib.crc32(content[HEADER_BYTES : HEADER_BYTES + 3 * ENTRY.size])
        head = replace(Header.decode(bytes(content[:HEADER_BYTES])), table_checksum=table)
        (tmp_path / "slot" / MANIFEST_FILE).write_bytes(head.encode() + content[HEADER_BYTES:])
        with pytest.raises(StateDamagedError, match="counts"):
            use_all_claims(folder)


def use_all_claims(folder: OsFolder) -> None:
    loaded = SlotStore.load_or_none(folder)
    assert loaded is not None
    try:
        list(loaded.map.claimed_runs())
    finally:
        loaded.close()
