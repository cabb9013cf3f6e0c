"""Reading a target again to find out which claims still hold.

Used when somebody else may have written to the target (rule 9), and to rebuild damaged state.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from blocksync.extents import align
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import SAME_FLAG, scan
from blocksync.manifest.store import SlotStore
from blocksync.targets.base import Target


def withdraw_changed(target: Target, store: SlotStore) -> int:
    """Compare every claimed block with its claim; durably withdraw the claims that do not hold.

    Returns:
        the number of blocks withdrawn.
    """
    geometry = store.geometry
    block = geometry.block_bytes
    # After a sync that failed the cache shows what the disk does not have, as if it were clean.
    target.drop_cached(0, geometry.size)
    buffer = memoryview(mmap.mmap(-1, geometry.chunk_bytes))
    lost: list[tuple[int, int]] = []
    withdrawn = 0
    for first, count in store.map.claimed_runs():
        for at in range(first * block, min((first + count) * block, geometry.size), geometry.chunk_bytes):
            length = min(geometry.chunk_bytes, (first + count) * block - at, geometry.size - at)
            chunk_first, blocks = geometry.blocks_of(at, length)
            target.read_into(at, buffer[:length])
            old = b"".join(bytes(part) for part in _claimed_digests(store, chunk_first, blocks))
            flags, _, _ = _scan(geometry, store, buffer[:length], old)
            lost.extend((chunk_first + i, 1) for i, flag in enumerate(flags) if not flag & SAME_FLAG)
            if len(lost) > 4096:
                withdrawn += len(lost)
                store.withdraw(lost)
                lost = []
    if lost:
        withdrawn += len(lost)
        store.withdraw(lost)
    return withdrawn


def _claimed_digests(store: SlotStore, first: int, count: int) -> list[bytes]:
    # A run may cross a segment's edge; a view may not.
    per_segment = store.geometry.segment_blocks
    parts = []
    while count:
        here = min(count, per_segment - first % per_segment)
        parts.append(bytes(store.map.view(first, here)[1]))
        first, count = first + here, count - here
    return parts


def claim_content(target: Target, store: SlotStore, progress: Callable[[int], None]) -> None:
    """Claim every block with the digest of what the target holds now.

    Args:
        target: synced here first, and its cache dropped, so that what is read is what is durable.
        store: fresh; the caller commits or leaves the pass open.
        progress: called with the bytes done.
    """
    target.sync()
    geometry = store.geometry
    target.drop_cached(0, min(geometry.size, target.size))
    buffer = memoryview(mmap.mmap(-1, geometry.chunk_bytes))
    for extent in align(target.extents(), geometry.block_bytes, target.size):
        end = min(extent.end, geometry.size)
        if extent.offset >= end:
            break
        if extent.reads_as_zeros:
            store.claim_zero(*geometry.blocks_of(extent.offset, end - extent.offset))
            progress(end)
            continue
        at = extent.offset
        while at < end:
            length = min(geometry.chunk_bytes - at % geometry.chunk_bytes, end - at)
            target.read_into(at, buffer[:length])
            _, digests, pages = _scan(geometry, store, buffer[:length], None)
            store.claim(at // geometry.block_bytes, digests, pages)
            at += length
            progress(at)
    store.sync()


def _scan(geometry: Geometry, store: SlotStore, plain: memoryview, old: bytes | None) -> tuple[bytes, bytes, bytes]:
    count = -(-len(plain) // geometry.block_bytes)
    digests = bytearray(DIGEST_BYTES * count)
    pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * count)
    flags = scan(plain, geometry.block_bytes, store.kind, store.key, digests, pages, old)
    return flags, bytes(digests), bytes(pages)
