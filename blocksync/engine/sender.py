"""One pass at the sender, with its retries.

A pass opens a session, brings its map of the receiver up to date, plans, lets the connections work, takes the
answers, and commits. Whatever breaks on the way ends the session; what is durable stays, and a retry plans anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blocksync.engine.adapt import LevelControl
from blocksync.engine.cancel import Cancel
from blocksync.engine.outbound import Outbound
from blocksync.engine.pace import Pace
from blocksync.engine.plan import Step, plan
from blocksync.engine.sync import sync_map
from blocksync.engine.tally import Tally
from blocksync.errors import BlocksyncError, IncompleteError, IntegrityError, NetworkError, ProtocolError
from blocksync.extents import Extent
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.working import BlockMap
from blocksync.options import Digest, Progress, SendOptions, SendResult
from blocksync.protocol.messages import CONTROL_VERSION, CommitRequest, ControlPort, OpenAnswer, OpenRequest
from blocksync.protocol.wire import Hello
from blocksync.sources.base import Source
from blocksync.transports.link import Link

HEARTBEAT_SECONDS = 1.0
# No answer to a heartbeat for this long: the receiver is taken for dead.
DEAD_AFTER_SECONDS = 25.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
MAX_RESEND_ROUNDS = 3

ConnectData = Callable[[OpenAnswer], Link]


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a receiver: its control port, and a way to open data links to a session."""

    control: ControlPort
    connect: ConnectData
    copy: ManifestCopy


class Sender:
    """Sends one source to one slot.

    Args:
        source: open.
        route: to the receiver.
        options: of the caller.
        cancel: ends everything, resumably, when set.
    """

    def __init__(self, source: Source, route: Route, options: SendOptions, cancel: Cancel) -> None:
        self._source = source
        self._route = route
        self._options = options
        self._cancel = cancel
        self._tally = Tally()
        self._retries = 0
        self._resent = 0
        self._resumed = 0
        self._levels = LevelControl(options.level, options.connections)
        self._pace = Pace(options.bwlimit)

    def run(self) -> SendResult:
        """Make one pass, retrying what can be retried.

        Raises:
            InterruptedTransferError: cancelled.
            BlocksyncError: what a retry cannot mend, or still failed after ``retry_seconds`` without progress.
        """
        backoff = FIRST_BACKOFF_SECONDS
        last_progress = time.monotonic()
        while True:
            before = self._tally.counts().wire
            try:
                return self._attempt()
            except BlocksyncError as error:
                self._cancel.check(error)
                if not error.retryable:
                    raise
                if self._tally.counts().wire > before:
                    last_progress = time.monotonic()
                    backoff = FIRST_BACKOFF_SECONDS
                if time.monotonic() - last_progress >= self._options.retry_seconds:
                    raise
                self._retries += 1
                self._tell("waiting", message=f"{error.message}; trying again in {backoff:.1f} s")
                self._cancel.wait(backoff)
                self._cancel.check(error)
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
                self._tally.restart()

    def _attempt(self) -> SendResult:
        self._tell("connecting")
        source = self._source
        wanted = self._options
        answer = self._route.control.open(
            OpenRequest(
                version=CONTROL_VERSION,
                slot=wanted.slot,
                source_identity=source.identity,
                source_name=source.name,
                size=source.size,
                sector_bytes=source.sector_bytes,
                block_bytes=wanted.block_bytes,
                digest=DigestKind.BLAKE3 if wanted.digest is Digest.BLAKE3 else DigestKind.XXH3,
                connections=wanted.connections,
                replace=wanted.replace,
            )
        )
        try:
            return _Pass(self, answer).run()
        finally:
            try:
                self._route.control.end(answer.session)
            except BlocksyncError:
                pass  # the receiver ends it by itself when it hears nothing more

    def _tell(self, stage: str, answer: OpenAnswer | None = None, durable: int = 0, message: str = "") -> None:
        report = self._options.progress
        if report is None:
            return
        counts = self._tally.counts()
        report(
            Progress(
                stage=stage,
                slot=answer.slot if answer else self._options.slot,
                size=self._source.size,
                done=counts.done,
                durable=durable,
                wire=counts.wire,
                read=counts.read,
                changed=counts.changed,
                seconds=self._tally.seconds,
                bottleneck=self.bottleneck(),
                level=self._levels.level,
                message=message,
            )
        )

    def bottleneck(self) -> str:
        """The stage in which the threads spent most of their time."""
        counts = self._tally.counts()
        stages = {"read": counts.read_seconds, "link": counts.send_seconds, "processor": counts.scan_seconds}
        name = max(stages, key=lambda stage: stages[stage])
        return name if stages[name] else ""


class _Pass:
    """One session of a pass: from OPEN's answer to COMMIT's."""

    def __init__(self, sender: Sender, answer: OpenAnswer) -> None:
        self._s = sender
        self._answer = answer
        self._geometry = Geometry(answer.size, answer.block_bytes, answer.sector_bytes)
        if answer.size != sender._source.size:
            raise ProtocolError(f"the receiver opened a slot of {answer.size} bytes for a source of another size")
        self._kind = DigestKind(answer.digest)
        self._stop = threading.Event()
        self._error: BlocksyncError | None = None
        self._workers: list[Outbound] = []
        self._lock = threading.Lock()
        self._durable = 0

    def run(self) -> SendResult:
        answer = self._answer
        copy = self._s._route.copy
        known = copy.load(answer.manifest_id, self._geometry, self._kind, answer.key)
        self._tell("planning", message=answer.notice)
        control = self._s._route.control
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        try:
            sync_map(control, answer.session, known, answer.root)
            if answer.pass_open:
                self._s._resumed = max(self._s._resumed, answer.known_bytes)
            self._work(self._s._source.extents(), known)
            self._s._source.check()
            self._tell("committing")
            committed = control.commit(answer.session, CommitRequest(root=known.root()))
            if committed.root != known.root():
                raise IntegrityError("the receiver committed another digest tree than the sender's")
            copy.save(known, committed.generation, answer.manifest_id)
            self._tell("done")
            return self._result(committed.generation, committed.root)
        except BlocksyncError as error:
            # A cancelled or dead session shows as all sorts of broken calls: the first cause is the one to tell.
            raise self._error or error from None
        finally:
            self._stop.set()
            heart.join()
            known.close()

    def _work(self, extents: Iterator[Extent], known: BlockMap) -> None:
        for attempt in range(MAX_RESEND_ROUNDS):
            again = self._round(plan(extents, self._geometry, known), known)
            if not again:
                return
            if attempt:
                break
            for offset, length in again:
                known.withdraw(*self._geometry.blocks_of(offset, length))
                self._s._resent += length
            extents = iter([Extent(offset, length) for offset, length in _joined(again)])
        raise IntegrityError("the receiver asked for the same blocks again and again")

    def _round(self, steps: Iterator[Step], known: BlockMap) -> list[tuple[int, int]]:
        source = _SharedSteps(steps)
        answer = self._answer
        workers = [
            Outbound(
                source=self._s._source,
                geometry=self._geometry,
                kind=self._kind,
                key=answer.key,
                known=known,
                connect=lambda: self._s._route.connect(answer),
                hello=Hello(session=answer.session, token=answer.token, ordinal=ordinal),
                epoch=answer.epoch,
                next_step=source.take,
                tally=self._s._tally,
                levels=self._s._levels,
                pace=self._s._pace,
                stop=self._stop,
            )
            for ordinal in range(answer.connections)
        ]
        with self._lock:
            self._workers = workers
        threads = [threading.Thread(target=self._run_worker, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if self._stop.is_set():
            raise IncompleteError("stopped")
        return sorted(again for worker in workers for again in worker.again)

    def _run_worker(self, worker: Outbound) -> None:
        try:
            worker.run()
        except BlocksyncError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a bug in a thread must end the pass, not hang it
            self._fail(IncompleteError(f"unexpected: {type(error).__name__}: {error}"))
            raise

    def _fail(self, error: BlocksyncError) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            workers = self._workers
        self._stop.set()
        for worker in workers:
            worker.abort()

    def _beat(self) -> None:
        """Signs of life, progress, the choice of the level, and cancellation."""
        control = self._s._route.control
        heard = time.monotonic()
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self._s._cancel.is_set():
                self._fail(self._s._cancel.error())
                return
            try:
                beat = control.heartbeat(self._answer.session)
                heard = time.monotonic()
                self._durable = beat.durable
            except NetworkError as error:
                if time.monotonic() - heard > DEAD_AFTER_SECONDS:
                    self._fail(NetworkError(f"the receiver has not answered for {DEAD_AFTER_SECONDS:.0f} s: {error}"))
                    return
            except BlocksyncError as error:
                self._fail(error)
                return
            self._tell("transferring")

    def _tell(self, stage: str, message: str = "") -> None:
        self._s._tell(stage, self._answer, self._durable, message)

    def _result(self, generation: int, root: bytes) -> SendResult:
        sender = self._s
        counts = sender._tally.counts()
        return SendResult(
            slot=self._answer.slot,
            kind="incremental" if self._answer.generation else "full",
            generation=generation,
            size=self._geometry.size,
            read=counts.read,
            changed=counts.changed,
            zero=counts.zero,
            wire=counts.wire,
            resent=sender._resent,
            resumed=sender._resumed,
            retries=sender._retries,
            seconds=sender._tally.seconds,
            level=sender._levels.level,
            bottleneck=sender.bottleneck(),
            root=root.hex(),
            consistency=sender._source.capabilities.consistency,
        )


class _SharedSteps:
    """Gives the plan's steps to several threads."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self._lock = threading.Lock()

    def take(self) -> Step | None:
        with self._lock:
            return next(self._steps, None)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if joined and offset <= sum(joined[-1]):
            first = joined[-1][0]
            joined[-1] = (first, max(sum(joined[-1]), offset + length) - first)
        else:
            joined.append((offset, length))
    return joined
