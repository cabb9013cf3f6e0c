"""One pass of the real :class:`Landing` and :class:`SlotStore` on a simulated machine, stepped from one thread.

The sender's part is played by its own code too: the plan is what its kernels and :func:`sort_blocks` say about the
source and the receiver's claims, exactly as in ``engine/outbound.py``, without the connection between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blocksync.engine.delta import patch_payload, sort_blocks
from blocksync.engine.landing import Landing
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.folder import Folder
from blocksync.manifest.store import SlotStore
from blocksync.protocol.wire import decode_patch_table
from tests.simulation.disks import Image, Machine, SimFolder

KEY = bytes(range(32))
KIND = DigestKind.XXH3


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass(slots=True)
class Acknowledged:
    """What a sender may rely on at one moment: blocks that were told to be durable and not touched since."""

    blocks: set[int] = field(default_factory=set)


def open_store(folder: Folder, geometry: Geometry) -> SlotStore:
    store = SlotStore.load_or_none(folder)
    if store is None:
        store = SlotStore.create(folder, geometry, KIND, source_identity="simulated", key=KEY)
    return store


def run_pass(
    machine: Machine, geometry: Geometry, source: bytes, acknowledged: Acknowledged, window_blocks: int
) -> bool:
    """Make one pass; returns whether it was committed.

    Args:
        machine: the receiver's.
        source: the sender's disk.
        acknowledged: kept up to date.
        window_blocks: a checkpoint is made after this many blocks.
    """
    store = open_store(machine.folder, geometry)
    store.begin_epoch("sender", "simulated")
    landing = Landing(machine.target, store)
    again = list(range(geometry.block_count))
    for _ in range(2):
        for at in range(0, len(again), window_blocks):
            for block in again[at : at + window_blocks]:
                _send_block(landing, store, geometry, source, block, acknowledged)
            landing.checkpoint()
            acknowledged.blocks = {block for run in store.map.claimed_runs() for block in range(run[0], sum(run))}
        again = [offset // geometry.block_bytes for offset, _ in landing.take_again()]
        if not again:
            break
    store.commit(digest_root(geometry, source), "")
    store.close()
    return True


def digest_root(geometry: Geometry, content: bytes) -> bytes:
    """The root of the tree of a whole disk, computed from its bytes."""
    from blocksync.manifest.working import BlockMap

    blocks = BlockMap(geometry, KIND, KEY)
    digests, pages, _ = _scan(geometry, memoryview(content))
    blocks.claim(0, digests, pages)
    return blocks.root()


def _scan(
    geometry: Geometry, plain: memoryview, old: bytes | memoryview | None = None
) -> tuple[bytes, bytes, bytes | bytearray]:
    count = -(-len(plain) // geometry.block_bytes)
    digests = bytearray(DIGEST_BYTES * count)
    pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * count)
    flags = scan(plain, geometry.block_bytes, KIND, KEY, digests, pages, old)
    return bytes(digests), bytes(pages), flags


def _send_block(
    landing: Landing, store: SlotStore, geometry: Geometry, source: bytes, block: int, acknowledged: Acknowledged
) -> None:
    offset = block * geometry.block_bytes
    plain = memoryview(source)[offset : offset + geometry.block_length(block)]
    known, old_digests, old_pages = store.map.view(block, 1)
    digests, pages, flags = _scan(geometry, plain, bytes(old_digests))
    changes = sort_blocks(flags, bytes(known), bytes(old_pages), memoryview(pages), geometry, block)
    if changes is None:
        return
    acknowledged.blocks.discard(block)
    for _ in changes.zero_runs:
        landing.zero(offset, len(plain))
    for _ in changes.data_runs:
        landing.data(offset, plain, fold(KIND, KEY, digests))
    if changes.patches:
        body = memoryview(patch_payload(changes.patches, plain, geometry.block_bytes))
        patches, at = decode_patch_table(body, blocks=1, pages_per_block=geometry.pages_per_block)
        landing.patch(offset, patches, body[at:], fold(KIND, KEY, digests))


def check(image: Image, geometry: Geometry, sector: int, acknowledged: frozenset[int]) -> SlotStore | None:
    """Open what a crash left, as a restarted receiver does, and hold it against the promises.

    Raises:
        ViolationError: a claim that is not on the target, an acknowledged block without a claim, or state that
            cannot be read after a mere crash.
    """
    machine = Machine(image, sector)
    try:
        store = SlotStore.load_or_none(SimFolder(machine))
    except Exception as error:
        raise ViolationError(f"after a crash the state cannot be read: {error}") from error
    claimed: set[int] = set()
    if store is not None:
        for first, count in store.map.claimed_runs():
            claimed.update(range(first, first + count))
    lost = acknowledged - claimed
    if lost:
        raise ViolationError(f"acknowledged blocks {sorted(lost)} were lost")
    if store is None:
        return None
    for block in claimed:
        at = block * geometry.block_bytes
        content = memoryview(image.target)[at : at + geometry.block_length(block)]
        digests, pages, _ = _scan(geometry, content)
        _, said, said_pages = store.map.view(block, 1)
        if bytes(said) != digests or bytes(said_pages) != pages:
            raise ViolationError(
                f"block {block} is claimed with a digest that is not that of what is on the target"
            )
    return store
