"""Where frames land: the order of writes, syncs and claims of one session on one slot (section 6 of the design).

Every byte passes one *window*. A window collects writes; its *checkpoint* makes them durable and claims them::

    fill:        fresh blocks (no claim in the manifest) are written at once
                 claimed blocks are held back in memory, bounded
    checkpoint:  INTENT for what was held back → journal sync     rule 2: withdraw before overwriting
                 held-back writes
                 target sync                                      rule 1: durable before
                 CLAIM for all of the window → journal sync       the claim, durable before
                 durable count rises                              the acknowledgement

Holding overwrites back costs one journal sync a window instead of one a frame. While one window is being made
durable the next one fills; a frame that touches a block of a window that is not yet durable waits for it, so no
claim can ever be written for content that is already being replaced.

The class does no threading of its own beyond locking: frames are applied by the connections' threads and
:meth:`Landing.checkpoint` is called by whoever decides that it is time. A simulator can step it from one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from blocksync.engine.budget import Budget, Share
from blocksync.engine.standing import WorkTime
from blocksync.errors import BlocksyncError, IncompleteError, ProtocolError
from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import fold, scan
from blocksync.manifest.store import SlotStore
from blocksync.protocol.wire import BlockPatch
from blocksync.targets.base import Target

# Two windows can be unclaimed at a crash: this keeps what must be sent again below 256 MiB.
WINDOW_BYTES = 64 << 20
WINDOW_BLOCKS = 32 << 10
# Overwrites held back in memory, a window; two windows may hold that much. Less where many senders share the memory.
HELD_BYTES = 16 << 20


@dataclass(slots=True)
class _Claim:
    """One run of blocks that a window will claim; ``digests`` empty for zeros."""

    first: int
    count: int
    digests: bytes = b""
    pages: bytes = b""


@dataclass(slots=True)
class _EachClaim:
    """Single blocks that a window will claim; digests and sub-digests are theirs, one after the other."""

    blocks: list[int]
    digests: bytes
    pages: bytes


@dataclass(slots=True)
class _Window:
    plain_bytes: int = 0
    held_bytes: int = 0
    writers: int = 0
    blocks: set[int] = field(default_factory=set)
    zero_runs: list[tuple[int, int]] = field(default_factory=list)
    claims: list[_Claim | _EachClaim] = field(default_factory=list)
    held: list[tuple[int, bytes]] = field(default_factory=list)  # (offset, content)
    held_zeros: list[tuple[int, int]] = field(default_factory=list)  # (offset, length)
    intents: list[tuple[int, int]] = field(default_factory=list)  # block runs

    def touches(self, first: int, count: int, only: list[int] | None = None) -> bool:
        """Whether it has any of a run of blocks, or of those of the run that ``only`` names."""
        if only is not None:
            return not self.blocks.isdisjoint(only) or any(
                f <= block < f + c for f, c in self.zero_runs for block in only
            )
        run = range(first, first + count)
        if len(run) < len(self.blocks):
            hit = not self.blocks.isdisjoint(run)
        else:
            hit = any(block in run for block in self.blocks)
        return hit or any(f < first + count and first < f + c for f, c in self.zero_runs)

    @property
    def empty(self) -> bool:
        return not self.blocks and not self.zero_runs

    def full(self, share: Share) -> bool:
        return (
            self.plain_bytes >= WINDOW_BYTES
            or self.held_bytes >= min(HELD_BYTES, share.window_bytes)
            or len(self.blocks) + len(self.zero_runs) >= WINDOW_BLOCKS
        )


class Landing:
    """Applies the frames of one session.

    Args:
        target: written to.
        store: the slot's durable state; its epoch is the session's.
        share: of the receiver's memory; one that nobody else shares when left out.
    """

    def __init__(self, target: Target, store: SlotStore, share: Share | None = None) -> None:
        self._target = target
        self._store = store
        self._geometry: Geometry = store.geometry
        self._share = share or Budget().admit(store.geometry, 1)
        self._state = threading.Condition()
        self._checkpointing = threading.Lock()
        self._filling = _Window()
        self._settling: _Window | None = None
        self._failure: BlocksyncError | None = None
        self._active = 0
        self._again: list[tuple[int, int]] = []
        self.durable_bytes = 0
        self.work = WorkTime()
        """Of the connections, instead of waiting for the sender."""
        self.due = threading.Event()
        """Set when the filling window is full: somebody should call :meth:`checkpoint`."""

    # -- frames ---------------------------------------------------------------------------------------------

    def data(self, offset: int, plain: memoryview, digest: bytes) -> None:
        """A run of whole blocks.

        Raises:
            ProtocolError: the content does not have the digest that the sender declared.
        """
        digests, pages = self._digest(plain)
        if fold(self._store.kind, self._store.key, digests) != digest:
            raise ProtocolError(f"the data for offset {offset} does not have the digest its frame declares")
        first, count = self._geometry.blocks_of(offset, len(plain))
        claim = _Claim(first, count, digests, pages)
        self._apply([claim], [(offset, plain)], len(plain))

    def zero(self, offset: int, length: int) -> None:
        """A range that reads as zeros."""
        first, count = self._geometry.blocks_of(offset, length)
        window = self._enter(first, count, 0)
        try:
            if self._store.map.any_claimed(first, count):
                with self._state:
                    window.held_zeros.append((offset, length))
                    window.intents.append((first, count))
            else:
                self._target.zero(offset, length)
            with self._state:
                window.claims.append(_Claim(first, count))
        except BlocksyncError as error:
            self.fail(error)
            raise
        finally:
            self._leave(window)

    def patch(self, offset: int, patches: list[BlockPatch], pages: memoryview, digest: bytes) -> None:
        """Changed pages of known blocks.

        The old blocks are read and patched in memory, and their digests folded. Where the fold is not what the sender
        declared, the target did not hold what it was thought to hold: nothing is written, the claims are withdrawn,
        and :meth:`take_again` names the blocks.
        """
        geometry = self._geometry
        first = offset // geometry.block_bytes
        span = patches[-1].index + 1
        if first + span > geometry.block_count:
            raise ProtocolError("a PATCH leaves the slot")
        window = self._enter(first, span, len(pages), only=[first + patch.index for patch in patches])
        held = 0
        try:
            blocks = [first + patch.index for patch in patches]
            claim, writes, used = self._patched(blocks, patches, pages)
            if used != len(pages):
                raise ProtocolError("a PATCH carries more pages than its table names")
            runs = [(block, 1) for block in blocks]
            with self._state:
                window.intents.extend(runs)
                if fold(self._store.kind, self._store.key, claim.digests) != digest:
                    self._again.extend((b * geometry.block_bytes, geometry.block_length(b)) for b in blocks)
                    return
                window.claims.append(claim)
                window.held.extend(writes)
                held = sum(len(data) for _, data in writes)
                window.held_bytes += held
                window.plain_bytes += held
        except BlocksyncError as error:
            self.fail(error)
            raise
        finally:
            self._leave(window, len(pages) - held)

    def _patched(
        self, blocks: list[int], patches: list[BlockPatch], pages: memoryview
    ) -> tuple[_EachClaim, list[tuple[int, bytes]], int]:
        geometry = self._geometry
        digests, subdigests = bytearray(), bytearray()
        writes: list[tuple[int, bytes]] = []
        used = 0
        old = bytearray(geometry.block_bytes)
        for block, patch in zip(blocks, patches, strict=True):
            start = block * geometry.block_bytes
            length = geometry.block_length(block)
            view = memoryview(old)[:length]
            self._target.read_into(start, view)
            for page, count in patch.runs:
                at = page * PAGE_BYTES
                size = min(at + count * PAGE_BYTES, length) - at
                piece = pages[used : used + size]
                if size <= 0 or len(piece) != size:
                    raise ProtocolError("a PATCH carries fewer pages than its table names")
                view[at : at + size] = piece
                writes.append((start + at, bytes(piece)))
                used += size
            digest, subs = self._digest(view)
            digests += digest
            subdigests += subs
        return _EachClaim(blocks, bytes(digests), bytes(subdigests)), writes, used

    def _apply(self, claims: list[_Claim], writes: Iterable[tuple[int, memoryview]], size: int) -> None:
        first, count = claims[0].first, claims[0].count
        window = self._enter(first, count, size)
        held = 0
        try:
            claimed = self._store.map.any_claimed(first, count)
            for offset, data in writes:
                if claimed:
                    with self._state:
                        window.held.append((offset, bytes(data)))
                        window.held_bytes += len(data)
                        held += len(data)
                        window.intents.append((first, count))
                else:
                    self._target.write(offset, data)
            with self._state:
                window.claims.extend(claims)
                window.plain_bytes += size
        except BlocksyncError as error:
            self.fail(error)
            raise
        finally:
            self._leave(window, size - held)

    def _digest(self, plain: memoryview) -> tuple[bytes, bytes]:
        geometry = self._geometry
        count = -(-len(plain) // geometry.block_bytes)
        digests = bytearray(DIGEST_BYTES * count)
        pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * count)
        scan(plain, geometry.block_bytes, self._store.kind, self._store.key, digests, pages)
        return bytes(digests), bytes(pages)

    # -- windows --------------------------------------------------------------------------------------------

    def _enter(self, first: int, count: int, size: int, only: list[int] | None = None) -> _Window:
        """Wait for room in the filling window and for blocks that are not yet durable; then count as a writer.

        ``size`` bytes of the receiver's memory are reserved, in case that they must be held back.
        """
        with self._state:
            while True:
                if self._failure is not None:
                    raise self._failure
                settling = self._settling
                filling = self._filling
                touches = filling.touches(first, count, only) or (
                    settling is not None and settling.touches(first, count, only)
                )
                # What is missing is in this session's own windows: settling them makes room, whatever others hold.
                if not touches and not filling.full(self._share) and self._share.take(size):
                    break
                self.due.set()
                self._state.wait(timeout=60)
            filling.writers += 1
            self._active += 1
            # Reserved now, so that two connections that carry the same block never write it at once.
            if only is not None:
                filling.blocks.update(only)
            elif count <= WINDOW_BLOCKS // 2:
                filling.blocks.update(range(first, first + count))
            else:
                filling.zero_runs.append((first, count))
            return filling

    def _leave(self, window: _Window, unused: int = 0) -> None:
        self._share.give(unused)
        with self._state:
            window.writers -= 1
            self._active -= 1
            if window.full(self._share):
                self.due.set()
            self._state.notify_all()

    def checkpoint(self) -> None:
        """Make everything written so far durable and claimed.

        Raises:
            TargetSyncError: nothing of the open windows may be trusted; the session has failed and the
                target must be reopened (rule 3).
            BlocksyncError: the session had failed before, or fails now.
        """
        with self._checkpointing:
            with self._state:
                self.due.clear()
                if self._failure is not None:
                    raise self._failure
                window = self._filling
                if window.empty:
                    return
                self._filling = _Window()
                self._settling = window
                while window.writers:
                    self._state.wait()
                if self._failure is not None:
                    raise self._failure
            try:
                self._settle(window)
            except BlocksyncError as error:
                self.fail(error)
                raise
            window.held.clear()
            self._share.give(window.held_bytes)
            with self._state:
                self._settling = None
                self.durable_bytes += sum(self._bytes_of(claim) for claim in window.claims)
                self._state.notify_all()

    def _settle(self, window: _Window) -> None:
        if window.intents:
            self._store.intend(window.intents)
            self._store.sync()
        for offset, data in sorted(window.held, key=lambda write: write[0]):
            self._target.write(offset, memoryview(data))
        for offset, length in window.held_zeros:
            self._target.zero(offset, length)
        self._target.sync()
        for claim in window.claims:
            if isinstance(claim, _EachClaim):
                self._store.claim_each(claim.blocks, claim.digests, claim.pages)
            elif claim.digests:
                self._store.claim(claim.first, claim.digests, claim.pages)
            else:
                self._store.claim_zero(claim.first, claim.count)
        self._store.sync()

    def _bytes_of(self, claim: _Claim | _EachClaim) -> int:
        block = self._geometry.block_bytes
        if isinstance(claim, _EachClaim):
            return sum(map(self._geometry.block_length, claim.blocks))
        return min(claim.count * block, self._geometry.size - claim.first * block)

    # -- ends -----------------------------------------------------------------------------------------------

    def take_again(self) -> list[tuple[int, int]]:
        """``(offset, length)`` of blocks whose patches did not fit, each told once; their claims are withdrawn."""
        with self._state:
            again, self._again = sorted(self._again), []
        return again

    def fail(self, error: BlocksyncError) -> None:
        """Stop the session: the first error counts, everybody who waits gets it."""
        with self._state:
            if self._failure is None:
                self._failure = error
            self.due.set()
            self._state.notify_all()

    @property
    def failure(self) -> BlocksyncError | None:
        return self._failure

    def drain(self) -> None:
        """End the session for good: after this no frame of it writes to the target any more (rule 4)."""
        self.fail(IncompleteError("the session has ended"))
        with self._state:
            while self._active:
                self._state.wait()
        with self._checkpointing:
            self._share.close()
