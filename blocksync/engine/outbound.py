"""One data connection at the sender: read, scan, pack, send, all by one thread.

The pipeline is a replicated one: instead of a thread a stage with queues between, each connection's thread does all
stages for the chunk it took from the plan. While one thread waits for the socket or the disk the others compute, so
stages overlap without handing buffers over; what is in flight is one chunk a connection, whatever the disk's size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from blocksync.codec import Packer
from blocksync.engine.adapt import LevelControl
from blocksync.engine.pace import Pace
from blocksync.engine.plan import ScanChunk, SendZeros, Step
from blocksync.engine.scanning import DataRun, Scanner, ZeroRun
from blocksync.engine.standing import Standing
from blocksync.engine.tally import Tally
from blocksync.errors import BlocksyncError, ProtocolError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.working import BlockMap
from blocksync.protocol.limits import ROTATE_AFTER_BYTES
from blocksync.protocol.sender import DataSender
from blocksync.protocol.states import State
from blocksync.protocol.wire import Codec, Hello
from blocksync.sources.base import Source
from blocksync.transports.link import Link

# What a receiver said before it closed is here within a round trip.
REASON_SECONDS = 5.0

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
        self._geometry = geometry
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
        self._scanner = Scanner(source=source, geometry=geometry, kind=kind, key=key, known=known, tally=tally)
        self._core = DataSender(epoch)
        self._link: Link | None = None
        self._waiting = ""
        self.again: list[tuple[int, int]] = []

    def run(self) -> None:
        """Work until the plan is empty; END and its DONE included.

        Raises:
            BlocksyncError: the first thing that went wrong on this connection.
        """
        try:
            while not self._stop.is_set():
                step = self._next_step()
                if step is None:
                    self._finish()
                    return
                if isinstance(step, ScanChunk):
                    self._step(step)
                else:
                    self._zeros(step)
                if self._link is not None and self._link.bytes_sent > ROTATE_AFTER_BYTES:
                    self._finish()
        finally:
            if self._link is not None:
                self._link.close()

    def abort(self) -> None:
        """Make blocked calls of the worker fail; from any thread."""
        link = self._link
        if link is not None:
            link.abort()

    def standing(self) -> Standing | None:
        """What would change if anything passed on the link; None where nothing is waited for. From any thread."""
        link, waiting = self._link, self._waiting
        if link is None or not waiting:
            return None
        waits = link.waits()
        if waits is None:
            # How far a frame has come on its way is not told: only an answer can be missed.
            return (waiting, link.bytes_sent, 0) if waiting == "answer" else None
        return waiting, link.bytes_sent, waits.acknowledged

    # -- the connection ---------------------------------------------------------------------------------------

    def _linked(self) -> Link:
        """The link; it is made when there is first something to say, so a pass without changes makes none."""
        if self._link is None:
            self._core = DataSender(self._epoch)
            self._link = self._connect()
            self._link.send(self._core.hello(self._hello))
            self._answer()
        return self._link

    def _finish(self) -> None:
        link = self._link
        if link is None:
            return
        self._send(link, self._core.end())
        self._answer()
        assert self._core.state is State.CLOSED
        link.close()
        self._link = None

    def _answer(self) -> None:
        assert self._link is not None
        reader = self._core.reader
        self._waiting = "answer"
        complete = None
        while complete is None:
            complete = reader.filled(self._link.recv_into(reader.want()))
        self._waiting = ""
        for offset, length in self._core.heard(*complete):
            try:
                self._geometry.blocks_of(offset, length)
            except ValueError as error:
                raise ProtocolError(f"the receiver asks again for what is no range of blocks: {error}") from error
            self.again.append((offset, length))

    def _send(self, link: Link, *parts: bytes | memoryview, plain: int = 0) -> None:
        size = sum(len(part) for part in parts)
        # Held back by --bwlimit is held back by the link: it counts for the level and for what is the bottleneck.
        began, worked = time.perf_counter(), time.thread_time()
        self._pace.wait(size, self._stop)
        refused = _refused(link)
        self._waiting = "room"
        try:
            link.send(*parts)
        except BlocksyncError as error:
            self._explain(error)
        self._waiting = ""
        took, work = time.perf_counter() - began, time.thread_time() - worked
        self._tally.sent(size, took)
        self._levels.sent(plain, size, work, max(took - work, 0.0), _refused(link) - refused)

    def _explain(self, error: BlocksyncError) -> None:
        # A receiver that refuses says why before it closes: look for that before blaming the network. Not for long: a
        # connection may fail at this end alone, and then the other end waits for us.
        assert self._link is not None
        self._link.hurry(REASON_SECONDS)
        try:
            self._answer()
        except BlocksyncError as reason:
            if reason.code != error.code:
                raise reason from error
        raise error

    # -- steps --------------------------------------------------------------------------------------------------

    def _zeros(self, step: SendZeros) -> None:
        self._send_zeros(step.offset, step.length)
        self._known.claim_zero(*self._geometry.blocks_of(step.offset, step.length))
        self._tally.passed(step.length)

    def _step(self, step: ScanChunk) -> None:
        for finding in self._scanner.find(step):
            if self._stop.is_set():
                return
            if isinstance(finding, ZeroRun):
                self._send_zeros(finding.offset, finding.length)
                continue
            plain = finding.plain if isinstance(finding, DataRun) else memoryview(finding.payload)
            codec, payload = self._pack(plain)
            link = self._linked()
            head = self._core.data if isinstance(finding, DataRun) else self._core.patch
            self._send(
                link,
                head(finding.offset, len(plain), len(payload), codec, finding.digest),
                payload,
                plain=len(plain),
            )
            self._tally.changed_data(len(plain))

    def _send_zeros(self, offset: int, length: int) -> None:
        link = self._linked()
        self._send(link, self._core.zero(offset, length))
        self._tally.zeros(length)

    def _pack(self, plain: memoryview) -> tuple[Codec, bytes | memoryview]:
        level = self._levels.next_level()
        if level is None:
            return Codec.RAW, plain
        began, worked = time.perf_counter(), time.thread_time()
        packed = self._packer.pack(plain, level) if self._packer.shrinks(plain) else None
        after = None if packed is None else len(packed)
        took, work = time.perf_counter() - began, time.thread_time() - worked
        self._levels.packed(level, len(plain), after, work, took)
        self._tally.packed(took)
        return (Codec.RAW, plain) if packed is None else (Codec.ZSTD, packed)


def _refused(link: Link) -> float:
    """Seconds in which the other end's receive window was full; 0 where the system does not count them."""
    waits = link.waits()
    return waits.peer if waits is not None else 0.0
