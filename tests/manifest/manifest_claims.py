"""Claims made from real content, as tests use them."""

from __future__ import annotations

import random

from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, scan
from blocksync.manifest.store import SlotStore

KEY = bytes(range(32))
KIND = DigestKind.XXH3


def digests_of(geometry: Geometry, content: bytes) -> tuple[bytes, bytes]:
    count = -(-len(content) // geometry.block_bytes)
    digests = bytearray(DIGEST_BYTES * count)
    pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * count)
    scan(content, geometry.block_bytes, KIND, KEY, digests, pages)
    return bytes(digests), bytes(pages)


def random_claims(geometry: Geometry, blocks: int, seed: int) -> tuple[bytes, bytes]:
    return digests_of(geometry, random.Random(seed).randbytes(blocks * geometry.block_bytes))


def claimed(store: SlotStore) -> dict[int, tuple[bytes, bytes]]:
    """Every claimed block with its digest and sub-digests."""
    found: dict[int, tuple[bytes, bytes]] = {}
    for first, count in store.map.claimed_runs():
        for block in range(first, first + count):
            _, digest, pages = store.map.view(block, 1)
            found[block] = (bytes(digest), bytes(pages))
    return found
