"""A state folder that fails once: what was claimed is not forgotten, and afterwards everything works.

Each of these was found by a seed of ``tests.simulation`` before it was mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_folder import FaultyFolder
from manifest_claims import KEY, KIND, claimed, random_claims

from blocksync.errors import StateError
from blocksync.geometry import Geometry
from blocksync.manifest import working
from blocksync.manifest.journal import JOURNAL_FILE
from blocksync.manifest.store import SlotStore
from blocksync.manifest.working import BlockMap

SEGMENTS = 3
GEOMETRY = Geometry(SEGMENTS * (256 << 20), 1 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FaultyFolder]:
    with FaultyFolder(tmp_path / "slot") as made:
        yield made


def test_a_segment_that_cannot_be_put_aside_is_not_forgotten(
    folder: FaultyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "CACHED_SEGMENTS", 1)
    blocks = BlockMap(GEOMETRY, KIND, KEY, folder=folder)
    digests, pages = random_claims(GEOMETRY, 1, 7)
    folder.failing = {("write", "scratch")}
    blocks.claim(0, digests, pages)
    with pytest.raises(StateError):
        blocks.claim(256, digests, pages)
    assert bytes(blocks.view(0, 1)[1]) == digests
    folder.failing = set()
    blocks.claim(512, digests, pages)
    assert bytes(blocks.view(0, 1)[1]) == digests
    blocks.close()


def test_a_store_whose_map_fell_behind_its_journal_is_not_used_any_more(
    folder: FaultyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "CACHED_SEGMENTS", 1)
    store = SlotStore.create(folder, GEOMETRY, KIND, source_identity="disk", key=KEY)
    digests, pages = random_claims(GEOMETRY, 1, 7)
    folder.failing = {("create", "scratch")}
    store.claim(0, digests, pages)
    with pytest.raises(StateError):
        store.claim(256, digests, pages)
    assert not store.usable
    with pytest.raises(StateError, match="cannot be used any more"):
        store.sync()
    store.close()
    folder.failing = set()
    again = SlotStore.open(folder)
    assert claimed(again) == {}
    again.close()


def test_a_store_whose_journal_could_not_be_synced_is_not_used_any_more(folder: FaultyFolder) -> None:
    """A sync that succeeds after one that failed says nothing of what the failed one lost (rule 3)."""
    store = SlotStore.create(folder, GEOMETRY, KIND, source_identity="disk", key=KEY)
    store.claim(0, *random_claims(GEOMETRY, 1, 7))
    folder.failing = {("sync", JOURNAL_FILE)}
    with pytest.raises(StateError, match="simulated"):
        store.sync()
    folder.failing = set()
    assert not store.usable
    for call in (store.sync, lambda: store.claim_zero(1, 1), lambda: store.commit(store.map.root(), "")):
        with pytest.raises(StateError, match="cannot be used any more"):
            call()
    store.close()


def test_a_scratch_file_that_cannot_be_removed_does_not_spoil_a_commit(
    folder: FaultyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "CACHED_SEGMENTS", 1)
    store = SlotStore.create(folder, GEOMETRY, KIND, source_identity="disk", key=KEY)
    for segment in range(SEGMENTS):
        store.claim(256 * segment, *random_claims(GEOMETRY, 1, segment))
    store.sync()
    folder.failing = {("remove", "scratch")}
    assert store.commit(store.map.root(), "") == 1
    assert sorted(claimed(store)) == [0, 256, 512]
    store.begin_epoch("sender", "disk")
    store.close()
