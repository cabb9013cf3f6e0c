"""What a slot's state says after it was closed, cut, flipped, or held by another."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from manifest_claims import KEY, KIND, claimed, random_claims

from blocksync.errors import BlocksyncError, IntegrityError, StateBusyError, StateDamagedError, StateError
from blocksync.geometry import Geometry
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import Folder, OsFolder
from blocksync.manifest.format import ENTRY, HEADER_BYTES, fitted
from blocksync.manifest.journal import JOURNAL_FILE
from blocksync.manifest.store import MANIFEST_FILE, SlotStore
from fuzz.memory import MemoryFolder

GEOMETRY = Geometry(20 * (64 << 10) + 512)


def begin(folder: OsFolder, geometry: Geometry = GEOMETRY) -> SlotStore:
    return SlotStore.create(folder, geometry, KIND, source_identity="disk", key=KEY)


def filled(folder: OsFolder) -> SlotStore:
    """Eight claimed blocks, six of zeros, one withdrawn; nothing committed."""
    store = begin(folder)
    store.begin_epoch("sender", "disk")
    store.claim(0, *random_claims(GEOMETRY, 8, 1))
    store.claim_zero(10, 6)
    store.intend([(3, 1)])
    store.sync()
    return store


def test_claims_survive_being_closed(folder: OsFolder) -> None:
    store = filled(folder)
    before = claimed(store)
    assert sorted(before) == [0, 1, 2, 4, 5, 6, 7, *range(10, 16)]
    root = store.map.root()
    store.close()
    again = SlotStore.open(folder)
    assert claimed(again) == before
    assert again.map.root() == root
    assert (again.generation, again.complete, again.epoch) == (0, False, 1)
    again.close()


def test_epochs_only_rise_whatever_else_is_durable(folder: OsFolder) -> None:
    for expected in range(1, 5):
        store = begin(folder) if expected == 1 else SlotStore.open(folder)
        assert store.begin_epoch("sender", "disk") == expected
        store.close()


def test_a_commit_needs_the_senders_root(folder: OsFolder) -> None:
    store = filled(folder)
    with pytest.raises(IntegrityError):
        store.commit(bytes(16), "mark")
    assert store.generation == 0
    assert store.commit(store.map.root(), "mark") == 1
    before = claimed(store)
    store.close()
    again = SlotStore.open(folder)
    assert (again.generation, again.complete, again.write_mark) == (1, True, "mark")
    assert claimed(again) == before
    again.withdraw([(0, 1)])
    assert not again.complete
    again.close()


def test_a_mark_holds_from_the_end_of_a_session_to_the_next_epoch(folder: OsFolder) -> None:
    store = filled(folder)
    assert store.write_mark == ""
    store.rest("first")
    store.withdraw([(0, 1)])
    assert store.write_mark == "first"
    store.close()
    again = SlotStore.open(folder)
    assert (again.write_mark, again.complete) == ("first", False)
    again.begin_epoch("sender", "disk")
    assert again.write_mark == ""
    again.close()
    killed = SlotStore.open(folder)
    assert killed.write_mark == "", "what was written in a session that was killed is its own"
    killed.commit(killed.map.root(), "second")
    killed.begin_epoch("sender", "disk")
    # Nothing was written in it: the commit's mark stands.
    assert killed.write_mark == "second"
    killed.rest("third")
    assert (killed.write_mark, killed.complete) == ("third", True)
    killed.close()


def test_a_reset_forgets_every_claim_and_changes_the_manifest(folder: OsFolder) -> None:
    store = filled(folder)
    old, key = store.manifest_id, store.key
    store.reset(Geometry(1 << 20), KIND, source_identity="other")
    assert claimed(store) == {}
    assert store.manifest_id != old
    assert store.key != key
    store.close()
    again = SlotStore.open(folder)
    assert (again.geometry.size, again.source_identity, again.generation) == (1 << 20, "other", 0)
    assert claimed(again) == {}
    again.close()


def test_a_journal_cut_anywhere_loses_its_tail_and_nothing_else(folder: OsFolder, tmp_path: Path) -> None:
    store = begin(folder)
    path = tmp_path / "slot" / JOURNAL_FILE
    states = [(path.stat().st_size, claimed(store))]
    for first in range(0, 12, 3):
        store.begin_epoch("sender", "disk")
        states.append((path.stat().st_size, claimed(store)))
        store.claim(first, *random_claims(GEOMETRY, 2, first))
        store.claim_zero(first + 2, 1)
        store.sync()
        states.append((path.stat().st_size, claimed(store)))
    store.close()
    files = files_of(tmp_path / "slot")
    content = files[JOURNAL_FILE]
    for length in range(states[0][0], len(content) + 1):
        store = SlotStore.open(MemoryFolder({**files, JOURNAL_FILE: content[:length]}))
        found = claimed(store)
        store.close()
        whole = [claims for size, claims in states if size <= length][-1]
        following = next(claims for size, claims in states if size >= length)
        # Between two syncs some of the records may be whole: all of what is claimed was claimed at the next sync.
        assert whole.items() <= found.items() <= {**whole, **following}.items()


def test_every_flipped_bit_of_the_journal_is_an_error_or_a_shorter_truth(folder: OsFolder, tmp_path: Path) -> None:
    store = begin(folder)
    for first in (0, 4):
        store.begin_epoch("sender", "disk")
        store.claim(first, *random_claims(GEOMETRY, 1, first))
        store.sync()
    truth = claimed(store)
    store.close()
    files = files_of(tmp_path / "slot")
    content = files[JOURNAL_FILE]
    damaged = 0
    for bit in range(8 * len(content)):
        try:
            store = SlotStore.open(MemoryFolder({**files, JOURNAL_FILE: with_flipped(content, bit)}))
        except StateDamagedError:
            damaged += 1
            continue
        assert claimed(store).items() <= truth.items()
        assert claimed(store) != truth
        store.close()
    # The last record had never been followed by one that calls it durable: it may pass for a torn tail.
    assert damaged > 8 * len(content) // 2


def test_every_flipped_bit_of_the_manifest_is_an_error_before_a_claim_is_believed(
    folder: OsFolder, tmp_path: Path
) -> None:
    small = Geometry(3 * 4096, 4096)
    store = begin(folder, small)
    store.begin_epoch("sender", "disk")
    store.claim(0, *random_claims(small, 2, 1))
    store.commit(store.map.root(), "mark")
    truth = claimed(store)
    store.close()
    files = files_of(tmp_path / "slot")
    read_all(MemoryFolder(files), truth)
    for bit in range(8 * len(files[MANIFEST_FILE])):
        flipped = MemoryFolder({**files, MANIFEST_FILE: with_flipped(files[MANIFEST_FILE], bit)})
        with pytest.raises(StateDamagedError):
            read_all(flipped, truth)


def test_a_flipped_bit_of_the_table_is_told_when_it_is_opened(folder: OsFolder, tmp_path: Path) -> None:
    """Not by the segment that it concerns, which may be looked at hours later."""
    store = begin(folder, Geometry(3 * 4096, 4096))
    store.begin_epoch("sender", "disk")
    store.claim(0, *random_claims(store.geometry, 2, 1))
    store.commit(store.map.root(), "mark")
    store.close()
    files = files_of(tmp_path / "slot")
    for bit in range(8 * HEADER_BYTES, 8 * (HEADER_BYTES + ENTRY.size)):
        flipped = MemoryFolder({**files, MANIFEST_FILE: with_flipped(files[MANIFEST_FILE], bit)})
        with pytest.raises(StateDamagedError, match="table is damaged"):
            SlotStore.open(flipped)


def with_flipped(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def files_of(slot: Path) -> dict[str, bytes]:
    """For a folder in memory: on a disk, tens of thousands of damaged states take minutes."""
    return {path.name: path.read_bytes() for path in slot.iterdir()}


def read_all(folder: Folder, truth: dict[int, tuple[bytes, bytes]]) -> None:
    store = SlotStore.open(folder)
    try:
        assert claimed(store) == truth
    finally:
        store.close()


@pytest.mark.parametrize("name", [MANIFEST_FILE, JOURNAL_FILE])
def test_an_empty_file_is_damage(folder: OsFolder, tmp_path: Path, name: str) -> None:
    filled(folder).close()
    (tmp_path / "slot" / name).write_bytes(b"")
    with pytest.raises(StateDamagedError) as told:
        SlotStore.open(folder)
    assert "rebuild" in told.value.remedy


def test_a_missing_journal_is_damage_and_a_missing_manifest_a_beginning(folder: OsFolder, tmp_path: Path) -> None:
    filled(folder).close()
    (tmp_path / "slot" / JOURNAL_FILE).unlink()
    with pytest.raises(StateDamagedError, match="no journal"):
        SlotStore.open(folder)
    (tmp_path / "slot" / MANIFEST_FILE).unlink()
    assert SlotStore.load_or_none(folder) is None


def test_a_journal_of_another_manifest_is_damage(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with OsFolder(tmp_path / name) as folder:
            filled(folder).close()
    (tmp_path / "a" / JOURNAL_FILE).write_bytes((tmp_path / "b" / JOURNAL_FILE).read_bytes())
    with OsFolder(tmp_path / "a") as folder, pytest.raises(StateDamagedError, match="another manifest"):
        SlotStore.open(folder)


def test_a_folder_is_held_by_one_process_and_says_by_which(folder: OsFolder, tmp_path: Path) -> None:
    with pytest.raises(StateBusyError, match=str(os.getpid())):
        OsFolder(tmp_path / "slot")


def test_a_closed_store_takes_no_more_work(folder: OsFolder) -> None:
    store = filled(folder)
    store.close()
    store.close()
    with pytest.raises(StateError):
        store.claim_zero(0, 1)


def test_a_copy_is_used_for_its_own_manifest_only_and_damage_only_costs_it(
    folder: OsFolder, tmp_path: Path
) -> None:
    store = filled(folder)
    copy_folder = OsFolder(tmp_path / "copy")
    with copy_folder:
        copy = ManifestCopy(copy_folder)
        copy.save(store.map, 1, store.manifest_id)
        root = store.map.root()
        loaded = copy.load(store.manifest_id, GEOMETRY, KIND, KEY)
        assert loaded.root() == root
        loaded.close()
        for other in (
            copy.load(bytes(16), GEOMETRY, KIND, KEY),
            copy.load(store.manifest_id, GEOMETRY, KIND, bytes(32)),
        ):
            assert list(other.claimed_runs()) == []
            other.close()
        path = tmp_path / "copy" / "manifest"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        empty = copy.load(store.manifest_id, GEOMETRY, KIND, KEY)
        assert list(empty.claimed_runs()) == []
        empty.close()
    store.close()


def test_a_large_disk_of_zeros_takes_little_room(folder: OsFolder, tmp_path: Path) -> None:
    huge = Geometry(1 << 40)
    store = begin(folder, huge)
    store.begin_epoch("sender", "disk")
    store.claim_zero(0, huge.block_count)
    store.commit(store.map.root(), "")
    assert store.map.counts().known_blocks == huge.block_count
    store.close()
    assert (tmp_path / "slot" / MANIFEST_FILE).stat().st_size < 1 << 20
    again = SlotStore.open(folder)
    assert again.map.counts().known_blocks == huge.block_count
    again.close()


def test_segments_are_kept_in_the_file_when_memory_is_given_to_others(folder: OsFolder) -> None:
    large = Geometry(20 * (256 << 20), 16 << 20)
    store = begin(folder, large)
    store.begin_epoch("sender", "disk")
    truth: dict[int, bytes] = {}
    for segment in [*range(20), *range(0, 20, 3)]:
        block = segment * large.segment_blocks + 5
        digest = bytes([len(truth) + 1]) * 16
        pages = bytes([segment]) * 4 * large.pages_per_block
        store.claim(block, digest, pages)
        truth[block] = digest
    assert {block: digests for block, (digests, _) in claimed(store).items()} == truth
    store.commit(store.map.root(), "")
    store.close()
    again = SlotStore.open(folder)
    assert {block: digests for block, (digests, _) in claimed(again).items()} == truth
    again.close()


def test_errors_of_the_world_are_state_errors(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StateError):
        OsFolder(blocked / "slot")
    with OsFolder(tmp_path / "slot") as folder, pytest.raises(BlocksyncError):
        folder.open("nothing")


@pytest.mark.parametrize(
    "identity",
    ["file:/data/\udcff.img", "é" * 1024, "x" * 5000, "é" * 512 + "\udc80"],
    ids=["bytes", "cut", "long", "both"],
)
def test_an_identity_of_any_bytes_and_length_stays_itself(folder: OsFolder, identity: str) -> None:
    SlotStore.create(folder, GEOMETRY, KIND, source_identity=identity, key=KEY).close()
    store = SlotStore.open(folder)
    assert store.source_identity == fitted(identity)
    assert len(store.source_identity.encode(errors="surrogatepass")) <= 1024
    assert fitted(store.source_identity) == store.source_identity
    assert fitted(identity + "y") != fitted(identity)
    store.begin_epoch(identity, identity)
    store.close()
    SlotStore.open(folder).close()


@pytest.mark.parametrize("field", [32, 56, 72], ids=["generation", "covered", "epoch"])
def test_a_counter_that_could_not_rise_is_damage(folder: OsFolder, tmp_path: Path, field: int) -> None:
    begin(folder).close()
    path = next(tmp_path.rglob(MANIFEST_FILE))
    page = bytearray(path.read_bytes())
    page[field : field + 8] = b"\xff" * 8
    page[4092:4096] = zlib.crc32(page[:4092]).to_bytes(4, "little")
    path.write_bytes(page)
    with pytest.raises(StateDamagedError):
        SlotStore.open(folder)
