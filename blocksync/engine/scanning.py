"""What of a step changed: reading and digesting at the sender, for one connection.

Where the receiver holds a range and the source has a descriptor, the range is *swept*: one kernel call reads, digests
and compares many blocks, and comes back with the pages that changed. Everything else goes chunk by chunk: what is
not known yet, zeros, blocks of which much has changed, sources that are more than a file.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from blocksync.engine.delta import Changes, patch_payload, sort_blocks
from blocksync.engine.plan import ScanChunk
from blocksync.engine.tally import Tally
from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan, sweep
from blocksync.manifest.working import BlockMap
from blocksync.protocol.limits import patch_blocks
from blocksync.protocol.wire import BlockPatch, encode_patch_table
from blocksync.sources.base import Source

# Read at once by a sweep: small enough that it is digested in the second-level cache, and for direct reads, which
# have no cache, large enough for a disk's full rate at one read a connection.
CACHED_READ_BYTES = 256 << 10
DIRECT_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRun:
    """Whole blocks to send: a view of their content, valid until the next one is asked for."""

    offset: int
    plain: memoryview
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRun:
    """Blocks that read as zeros."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchRun:
    """Changed pages of known blocks: the plain payload of a PATCH."""

    offset: int
    payload: bytes
    digest: bytes


Finding = DataRun | ZeroRun | PatchRun


class Scanner:
    """Finds out what changed; used by one thread.

    Args:
        source: read from.
        geometry, kind, key: of the manifest.
        known: what the receiver holds; brought up to date once a finding has been taken, that is sent.
        tally: told what was scanned.
    """

    def __init__(
        self, *, source: Source, geometry: Geometry, kind: DigestKind, key: bytes, known: BlockMap, tally: Tally
    ) -> None:
        self._source = source
        self._geometry = geometry
        self._kind = kind
        self._key = key
        self._known = known
        self._tally = tally
        self._slot_bytes = geometry.pages_per_block * PAGE_DIGEST_BYTES
        blocks = geometry.chunk_bytes // geometry.block_bytes
        # Page-aligned, so that direct reads land in it as they are.
        self._buffer = memoryview(mmap.mmap(-1, geometry.chunk_bytes))
        self._digests = memoryview(bytearray(DIGEST_BYTES * blocks))
        self._pages = memoryview(bytearray(self._slot_bytes * blocks))
        self._room = _Room(geometry, direct=source.capabilities.direct) if self._can_sweep() else None
        # Where most of the last chunk had to be sent whole, the next one is not swept first.
        self._dense = False

    def find(self, step: ScanChunk) -> Iterator[Finding]:
        """What of the step must be sent, in order; each is claimed when the next one is asked for."""
        at, end = step.offset, step.offset + step.length
        while at < end:
            known = self._known_run(at, end)
            if known:
                swept = yield from self._sweep(at, known)
                at += swept
                if swept == known:
                    continue
            chunk = self._geometry.chunk_bytes
            length = min(chunk - at % chunk, end - at)
            yield from self._scan(at, length)
            at += length

    def _can_sweep(self) -> bool:
        # Blocks of one page have no sub-digests of their own: they are sent whole.
        return self._source.descriptor() is not None and self._geometry.pages_per_block > 0

    # -- known ranges -----------------------------------------------------------------------------------------

    def _known_run(self, at: int, end: int) -> int:
        """Bytes from ``at`` on that can be swept: known ones, of a source with a descriptor."""
        if self._room is None or self._dense:
            return 0
        first, count = self._geometry.blocks_of(at, end - at)
        known = self._known.view(first, min(count, patch_blocks(self._geometry)))[0]
        unknown = bytes(known).find(0)
        blocks = len(known) if unknown < 0 else unknown
        return min(blocks * self._geometry.block_bytes, end - at)

    def _sweep(self, at: int, length: int) -> Generator[PatchRun, None, int]:
        """Yields at most one finding; returns the bytes from ``at`` on that are dealt with."""
        room = self._room
        descriptor = self._source.descriptor()
        if room is None or descriptor is None:
            return 0
        first, count = self._geometry.blocks_of(at, length)
        _, old_digests, old_pages = self._known.view(first, count)
        began = time.perf_counter()
        done, found, used = sweep(
            descriptor,
            at,
            length,
            room.buffer,
            self._geometry.block_bytes,
            self._kind,
            self._key,
            old_digests,
            old_pages,
            room.digests,
            room.pages,
            room.payload,
        )
        # Digesting in the cache is a small part of it: all of it counts as reading.
        self._tally.scanned(done, time.perf_counter() - began, 0.0)
        if found:
            patches = [BlockPatch(index, tuple(runs)) for index, runs in found]
            digests = room.digests[: len(patches) * DIGEST_BYTES]
            payload = b"".join((encode_patch_table(patches), room.payload[:used]))
            yield PatchRun(offset=at, payload=payload, digest=fold(self._kind, self._key, digests))
            blocks = [first + patch.index for patch in patches]
            self._known.claim_each(blocks, digests, room.pages[: len(blocks) * self._slot_bytes])
        return done

    # -- chunks -----------------------------------------------------------------------------------------------

    def _scan(self, at: int, length: int) -> Iterator[Finding]:
        geometry = self._geometry
        plain = self._buffer[:length]
        began = time.perf_counter()
        self._source.read_into(at, plain)
        read = time.perf_counter()
        first, count = geometry.blocks_of(at, length)
        known, old_digests, old_pages = self._known.view(first, count)
        digests = self._digests[: count * DIGEST_BYTES]
        pages = self._pages[: count * self._slot_bytes]
        flags = scan(plain, geometry.block_bytes, self._kind, self._key, digests, pages, old_digests)
        changes = sort_blocks(flags, known, old_pages, pages, geometry, first)
        self._tally.scanned(length, read - began, time.perf_counter() - read)
        self._dense = changes is not None and sum(blocks for _, blocks in changes.whole_runs) * 2 > count
        if changes is not None:
            yield from self._findings(at, plain, digests, changes)
            for start, blocks in changes.all_runs:
                self._known.claim(
                    first + start,
                    digests[start * DIGEST_BYTES : (start + blocks) * DIGEST_BYTES],
                    pages[start * self._slot_bytes : (start + blocks) * self._slot_bytes],
                )

    def _findings(self, at: int, plain: memoryview, digests: memoryview, changes: Changes) -> Iterator[Finding]:
        block = self._geometry.block_bytes
        for start, count in changes.zero_runs:
            yield ZeroRun(offset=at + start * block, length=min(count * block, len(plain) - start * block))
        for start, count in changes.data_runs:
            yield DataRun(
                offset=at + start * block,
                plain=plain[start * block : (start + count) * block],
                digest=self._fold(digests[start * DIGEST_BYTES : (start + count) * DIGEST_BYTES]),
            )
        if changes.patches:
            indexes = [patch.index for patch in changes.patches]
            folded = b"".join(digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] for index in indexes)
            payload = patch_payload(changes.patches, plain, block)
            yield PatchRun(offset=at, payload=payload, digest=self._fold(folded))

    def _fold(self, digests: bytes | memoryview) -> bytes:
        return fold(self._kind, self._key, digests)


class _Room:
    """What a sweep reads into, and where it puts what patches need: at most a frame's worth."""

    def __init__(self, geometry: Geometry, *, direct: bool) -> None:
        size = DIRECT_READ_BYTES if direct else CACHED_READ_BYTES
        self.buffer = memoryview(mmap.mmap(-1, max(size, geometry.block_bytes)))
        # Each page takes at most eight bytes of the table in front of the pages.
        payload = geometry.chunk_bytes - geometry.chunk_bytes // 256
        patches = min(payload // PAGE_BYTES, patch_blocks(geometry))
        self.payload = memoryview(bytearray(payload))
        self.digests = memoryview(bytearray(patches * DIGEST_BYTES))
        self.pages = memoryview(bytearray(patches * geometry.pages_per_block * PAGE_DIGEST_BYTES))
