"""Testing a tracker's word: a few blocks that it calls unchanged are read and compared with their digests."""

from __future__ import annotations

import mmap
import random

from blocksync.engine.dirty import DirtyMap
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import SAME_FLAG, DigestKind, scan
from blocksync.manifest.working import BlockMap
from blocksync.sources.base import Source

# Reading what is sampled must stay small beside reading what changed, and be worth something where little did.
LEAST_SAMPLES = 16
MOST_SAMPLES = 256
DIRTY_BLOCKS_A_SAMPLE = 8
_TRIES_A_SAMPLE = 16


class Sampler:
    """Reads a few blocks that are called unchanged, and compares them with their digests.

    Args:
        source: read from.
        geometry, kind, key: of the manifest.
        known: claims of the receiver.
        chance: picks the blocks.
    """

    def __init__(
        self,
        source: Source,
        geometry: Geometry,
        kind: DigestKind,
        key: bytes,
        known: BlockMap,
        chance: random.Random | None = None,
    ) -> None:
        self._source = source
        self._geometry = geometry
        self._kind = kind
        self._key = key
        self._known = known
        self._chance = chance or random.SystemRandom()
        self._buffer = memoryview(mmap.mmap(-1, geometry.block_bytes))
        self.read_bytes = 0

    def first_lie(self, dirty: DirtyMap, changed: int) -> int | None:
        """The number of a block that changed and is not in the map; None where the sample has none.

        Args:
            dirty: blocks that are compared anyway.
            changed: how many of them the tracker named; the sample's size goes by it.

        Raises:
            SourceError: a block cannot be read.
        """
        for block in sorted(self._pick(dirty, changed)):
            if not self._same(block):
                return block
        return None

    def _pick(self, dirty: DirtyMap, changed: int) -> set[int]:
        wanted = min(max(changed // DIRTY_BLOCKS_A_SAMPLE, LEAST_SAMPLES), MOST_SAMPLES)
        picked: set[int] = set()
        for _ in range(wanted * _TRIES_A_SAMPLE):
            if len(picked) >= wanted:
                break
            block = self._chance.randrange(self._geometry.block_count)
            if block not in dirty and self._known.view(block, 1)[0][0]:
                picked.add(block)
        return picked

    def _same(self, block: int) -> bool:
        geometry = self._geometry
        plain = self._buffer[: geometry.block_length(block)]
        self._source.read_into(block * geometry.block_bytes, plain)
        self.read_bytes += len(plain)
        digests = bytearray(DIGEST_BYTES)
        pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block)
        old = bytes(self._known.view(block, 1)[1])
        flags = scan(plain, geometry.block_bytes, self._kind, self._key, digests, pages, old)
        return bool(flags[0] & SAME_FLAG)
