"""A manifest file as a damaged disk, or somebody who may write to the state folder, gives it back."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.format import ENTRY, HEADER_BYTES
from blocksync.manifest.segments import Templates
from blocksync.manifest.store import SlotStore
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface

REPAIR = 1
GEOMETRY = Geometry((1 << 20) - 512, 65536)
DIGESTS = bytes(range(32))
# Constant segments depend on the geometry and the key alone, and nobody changes them: those last used are kept.
working: Any = importlib.import_module("blocksync.manifest.working")
working.Templates = lru_cache(8)(Templates)


def made(*, commit: bool = True, geometry: Geometry = GEOMETRY, data: bool = True) -> dict[str, bytes]:
    """The files of a slot that holds something."""
    folder = MemoryFolder()
    store = SlotStore.create(folder, geometry, DigestKind.XXH3, source_identity="disk", key=bytes(32))
    store.begin_epoch("peer", "disk")
    per_block = 4 * geometry.pages_per_block
    pages = bytes(at % 251 for at in range(2 * per_block))
    if data:
        store.claim(2, DIGESTS, pages)
        store.claim_zero(5, 3)
    else:
        store.claim_zero(0, geometry.segment_blocks)
    store.sync()
    if commit:
        store.commit(store.map.root(), "mark")
    store.begin_epoch("peer", "disk")
    store.intend([(2, 1)])
    if data:
        store.claim(2, DIGESTS[:16], pages[:per_block])
        store.withdraw([(6, 1)])
    store.close()
    return {name: bytes(content) for name, content in folder.files.items()}


FILES = made()


def repaired(content: bytes) -> bytes:
    """The same with checksums that hold."""
    fixed = bytearray(content)
    if len(fixed) < HEADER_BYTES:
        return content
    size = int.from_bytes(fixed[48:56], "little")
    count = min(-(-size // (256 << 20)), (len(fixed) - HEADER_BYTES) // ENTRY.size)
    fixed[68:72] = zlib.crc32(fixed[HEADER_BYTES : HEADER_BYTES + count * ENTRY.size]).to_bytes(4, "little")
    fixed[HEADER_BYTES - 4 : HEADER_BYTES] = zlib.crc32(fixed[: HEADER_BYTES - 4]).to_bytes(4, "little")
    return bytes(fixed)


def use(folder: MemoryFolder) -> None:
    """Load a slot's state and use it as a session does."""
    store = SlotStore.load_or_none(folder)
    if store is None:
        return
    try:
        geometry = store.geometry
        known = sum(count for _, count in store.map.claimed_runs())
        assert known == store.map.counts().known_blocks <= geometry.block_count
        store.map.root()
        store.map.export_segment(0)
        store.begin_epoch("peer", store.source_identity)
        store.claim_zero(0, 1)
        store.sync()
    finally:
        store.close()


def run(data: bytes) -> None:
    if not data:
        return
    content = data[1:]
    if data[0] & REPAIR:
        content = repaired(content)
    use(MemoryFolder({**FILES, "manifest": content}))


def seeds() -> Iterator[bytes]:
    for mode in (0, REPAIR):
        yield bytes([mode]) + FILES["manifest"]
        yield bytes([mode]) + made(commit=False)["manifest"]
        yield bytes([mode]) + made(geometry=replace(GEOMETRY, size=600 << 20), data=False)["manifest"]


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.manifest", "blocksync.geometry"), most_bytes=12 << 10)
