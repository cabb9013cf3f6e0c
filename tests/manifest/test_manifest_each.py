"""Claiming single blocks at once is claiming each of them, in memory and after the journal is read again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_claims import KEY, KIND, claimed

from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.store import SlotStore

# Three segments, the last one short: runs of blocks cross their edges.
GEOMETRY = Geometry(40 * (16 << 20) + 512, 16 << 20)
SUBS = PAGE_DIGEST_BYTES * GEOMETRY.pages_per_block


@settings(max_examples=15, deadline=None)
@given(blocks=st.sets(st.integers(0, GEOMETRY.block_count - 1), min_size=1), before=st.booleans())
def test_as_one_by_one(tmp_path_factory: pytest.TempPathFactory, blocks: set[int], before: bool) -> None:
    chosen = sorted(blocks)
    chance = random.Random(len(chosen))
    digests, pages = chance.randbytes(DIGEST_BYTES * len(chosen)), chance.randbytes(SUBS * len(chosen))
    roots = []
    for at_once in (True, False):
        with OsFolder(tmp_path_factory.mktemp("slot")) as folder:
            store = SlotStore.create(folder, GEOMETRY, KIND, source_identity="disk", key=KEY)
            store.begin_epoch("sender", "disk")
            if before:
                store.claim_zero(0, GEOMETRY.block_count)
            if at_once:
                store.claim_each(chosen, digests, pages)
            else:
                for number, block in enumerate(chosen):
                    digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
                    store.claim(block, digest, pages[number * SUBS : (number + 1) * SUBS])
            store.sync()
            now = claimed(store)
            roots.append(store.map.root())
            store.close()
            again = SlotStore.open(folder)
            assert (claimed(again), again.map.root()) == (now, roots[-1])
            again.close()
    assert roots[0] == roots[1]


@pytest.mark.parametrize(
    ("blocks", "digests", "pages"),
    [
        ([0], bytes(DIGEST_BYTES - 1), bytes(SUBS)),
        ([0], bytes(DIGEST_BYTES), bytes(SUBS + 4)),
        ([GEOMETRY.block_count], bytes(DIGEST_BYTES), bytes(SUBS)),
        ([-1], bytes(DIGEST_BYTES), bytes(SUBS)),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, blocks: list[int], digests: bytes, pages: bytes) -> None:
    with OsFolder(tmp_path) as folder:
        store = SlotStore.create(folder, GEOMETRY, KIND, source_identity="disk", key=KEY)
        with pytest.raises(ValueError, match=r"fit together|within the disk"):
            store.map.claim_each(blocks, digests, pages)
        store.close()
