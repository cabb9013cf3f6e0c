"""One data connection at the sender: read, scan, pack, send, all by one thread.

The pipeline is a replicated one: instead of a thread a stage with queues between, each connection's thread does all
stages for the chunk it took from the plan. While one thread waits for the socket or the disk the others compute, so
stages overlap without handing buffers over; what is in flight is one chunk a connection, whatever the disk's size.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable

from blocksync.codec import Packer
from blocksync.engine.adapt import LevelControl
from blocksync.engine.delta import Changes, patch_payload, sort_blocks
from blocksync.engine.pace import Pace
from blocksync.engine.plan import ScanChunk, SendZeros, Step
from blocksync.engine.tally import Tally
from blocksync.errors import BlocksyncError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.working import BlockMap
from blocksync.protocol.limits import ROTATE_AFTER_BYTES
from blocksync.protocol.sender import DataSender
from blocksync.protocol.states import State
from blocksync.protocol.wire import Codec, Hello
from blocksync.sources.base import Source
from blocksync.transports.link import Link

Connect = Callable[[], Link]
NextStep = Callable[[], Step | None]


class Outbound:
    """The worker of one connection.

    Args:
        source: read from.
        geometry, kind, key: of the manifest.
        known: what the receiver holds; brought up to date with what is sent.
        connect: opens a fresh TLS link, proven as far as TLS goes.
        hello: what the connection says of itself.
        epoch: of the session.
        next_step: gives out the plan's steps; None when there are none left. Thread-safe.
        tally, levels, pace: shared between the connections.
        stop: set when the pass is over for all.
    """

    def __init__(
        self,
        *,
        source: Source,
        geometry: Geometry,
        kind: DigestKind,
        key: bytes,
        known: BlockMap,
        connect: Connect,
        hello: Hello,
        epoch: int,
        next_step: NextStep,
        tally: Tally,
        levels: LevelControl,
        pace: Pace,
        stop: threading.Event,
    ) -> None:
        self._source = source
        self._geometry = geometry
        self._kind = kind
        self._key = key
        self._known = known
        self._connect = connect
        self._hello = hello
        self._epoch = epoch
        self._next_step = next_step
        self._tally = tally
        self._levels = levels
        self._pace = pace
        self._stop = stop
        self._packer = Packer()
        blocks = geometry.chunk_bytes // geometry.block_bytes
        # Page-aligned, so that direct reads land in it as they are.
        self._buffer = memoryview(mmap.mmap(-1, geometry.chunk_bytes))
        self._digests = bytearray(DIGEST_BYTES * blocks)
        self._pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block * blocks)
        self._core = DataSender(epoch)
        self._link: Link | None = None
        self.again: list[tuple[int, int]] = []

    def run(self) -> None:
        """Work until the plan is empty; END and its DONE included.

        Raises:
            BlocksyncError: the first thing that went wrong on this connection.
        """
        try:
            self._open()
            while not self._stop.is_set():
                step = self._next_step()
                if step is None:
                    self._finish()
                    return
                if isinstance(step, ScanChunk):
                    self._chunk(step)
                else:
                    self._zeros(step)
                assert self._link is not None
                if self._link.bytes_sent > ROTATE_AFTER_BYTES:
                    self._finish()
                    self._open()
        finally:
            if self._link is not None:
                self._link.close()

    def abort(self) -> None:
        """Make blocked calls of the worker fail; from any thread."""
        link = self._link
        if link is not None:
            link.abort()

    # -- the connection ---------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._core = DataSender(self._epoch)
        self._link = self._connect()
        self._link.send(self._core.hello(self._hello))
        self._answer()

    def _finish(self) -> None:
        self._send(self._core.end())
        self._answer()
        assert self._core.state is State.CLOSED
        assert self._link is not None
        self._link.close()

    def _answer(self) -> None:
        assert self._link is not None
        reader = self._core.reader
        while True:
            complete = reader.filled(self._link.recv_into(reader.want()))
            if complete is not None:
                self.again.extend(self._core.heard(*complete))
                return

    def _send(self, *parts: bytes | memoryview) -> None:
        assert self._link is not None
        size = sum(len(part) for part in parts)
        # Held back by --bwlimit is held back by the link: it counts for the level and for what is the bottleneck.
        began = time.perf_counter()
        self._pace.wait(size, self._stop)
        try:
            self._link.send(*parts)
        except BlocksyncError as error:
            self._explain(error)
        self._tally.sent(size, time.perf_counter() - began)
        counts = self._tally.counts()
        self._levels.observe(time.monotonic(), counts.changed, counts.send_seconds)

    def _explain(self, error: BlocksyncError) -> None:
        # A receiver that refuses says why before it closes: look for that before blaming the network.
        try:
            self._answer()
        except BlocksyncError as reason:
            if reason.code != error.code:
                raise reason from error
        raise error

    # -- steps --------------------------------------------------------------------------------------------------

    def _zeros(self, step: SendZeros) -> None:
        self._send(self._core.zero(step.offset, step.length))
        self._known.claim_zero(*self._geometry.blocks_of(step.offset, step.length))
        self._tally.zeros(step.length)
        self._tally.passed(step.length)

    def _chunk(self, step: ScanChunk) -> None:
        geometry = self._geometry
        plain = self._buffer[: step.length]
        began = time.perf_counter()
        self._source.read_into(step.offset, plain)
        read = time.perf_counter()
        first, count = geometry.blocks_of(step.offset, step.length)
        known, old_digests, old_pages = self._known.view(first, count)
        digests = memoryview(self._digests)[: count * DIGEST_BYTES]
        pages = memoryview(self._pages)[: count * geometry.pages_per_block * PAGE_DIGEST_BYTES]
        flags = scan(plain, geometry.block_bytes, self._kind, self._key, digests, pages, old_digests)
        changes = sort_blocks(flags, known, old_pages, pages, geometry, first)
        self._tally.scanned(step.length, read - began, time.perf_counter() - read)
        if changes is not None:
            self._send_changes(step.offset, first, plain, digests, pages, changes)

    def _send_changes(
        self, offset: int, first: int, plain: memoryview, digests: memoryview, pages: memoryview, changes: Changes
    ) -> None:
        block = self._geometry.block_bytes
        for start, count in changes.zero_runs:
            length = min(count * block, len(plain) - start * block)
            self._send(self._core.zero(offset + start * block, length))
            self._tally.zeros(length)
        for start, count in changes.data_runs:
            piece = plain[start * block : (start + count) * block]
            run_digest = fold(self._kind, self._key, digests[start * DIGEST_BYTES : (start + count) * DIGEST_BYTES])
            codec, payload = self._pack(piece)
            header = self._core.data(offset + start * block, len(piece), len(payload), codec, run_digest)
            self._send(header, payload)
            self._tally.changed_data(len(piece))
        if changes.patches:
            body = patch_payload(changes.patches, plain, block)
            indexes = [patch.index for patch in changes.patches]
            folded = b"".join(bytes(digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]) for i in indexes)
            codec, payload = self._pack(memoryview(body))
            header = self._core.patch(offset, len(body), len(payload), codec, fold(self._kind, self._key, folded))
            self._send(header, payload)
            self._tally.changed_data(len(body))
        per_block = self._geometry.pages_per_block * PAGE_DIGEST_BYTES
        for start, count in changes.all_runs:
            self._known.claim(
                first + start,
                digests[start * DIGEST_BYTES : (start + count) * DIGEST_BYTES],
                pages[start * per_block : (start + count) * per_block],
            )

    def _pack(self, plain: memoryview) -> tuple[Codec, bytes | memoryview]:
        level = self._levels.level
        if level is None:
            return Codec.RAW, plain
        packed = self._packer.pack(plain, level) if self._packer.shrinks(plain) else None
        return (Codec.RAW, plain) if packed is None else (Codec.ZSTD, packed)
