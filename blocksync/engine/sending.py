"""One session of a pass at the sender: from OPEN's answer to COMMIT's.

It brings the map of the receiver up to date, plans, lets the connections work, takes the answers, and commits. The
first error ends the session; what is durable stays.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blocksync.engine.adapt import LevelControl
from blocksync.engine.allocation import Allocated, allocated
from blocksync.engine.cancel import Cancel
from blocksync.engine.dirty import DirtyMap
from blocksync.engine.outbound import Outbound
from blocksync.engine.outlook import Outlooks
from blocksync.engine.pace import Pace
from blocksync.engine.plan import Step, plan, resend
from blocksync.engine.standing import Watch
from blocksync.engine.sync import sync_map
from blocksync.engine.tally import Tally
from blocksync.engine.tracking import Tracking
from blocksync.errors import (
    BlocksyncError,
    IncompleteError,
    IntegrityError,
    NetworkError,
    ProtocolError,
    StateError,
    UsageError,
)
from blocksync.extents import Extent
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.working import BlockMap
from blocksync.options import SendOptions
from blocksync.protocol.messages import CommitRequest, ControlPort, OpenAnswer
from blocksync.protocol.wire import Hello
from blocksync.results import Progress, SendResult
from blocksync.sources.base import Source
from blocksync.transports.link import Link

HEARTBEAT_SECONDS = 1.0
# No answer to a heartbeat for this long: the receiver is taken for dead.
DEAD_AFTER_SECONDS = 25.0

ConnectData = Callable[[OpenAnswer], Link]


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a receiver: its control port, a way to open data links to a session; and what was predicted."""

    control: ControlPort
    connect: ConnectData
    copy: ManifestCopy
    outlooks: Outlooks | None = None


class Transfer:
    """What the sessions of one pass have in common: the caller's wishes, the counters, what was learnt so far.

    Args:
        source: open.
        route: to the receiver.
        options: of the caller.
        cancel: ends everything, resumably, when set.
        pace: shared with other transfers; one for ``options.bwlimit`` when left out.
    """

    def __init__(
        self, source: Source, route: Route, options: SendOptions, cancel: Cancel, pace: Pace | None = None
    ) -> None:
        self.source = source
        self.route = route
        self.options = options
        self.cancel = cancel
        self.run = secrets.token_bytes(16)
        self.tally = Tally()
        self.levels = LevelControl(options.level, options.connections)
        self.pace = pace or Pace(options.bwlimit)
        self.retries = 0
        self.resent = 0
        self.resumed = 0
        self.unused = 0
        # The first sign of life of the receiver, and the last: when, and the seconds of processor it had used by then.
        self.heard: tuple[tuple[float, float], tuple[float, float]] | None = None
        self.view = Allocated(source=source)

    def look(self) -> None:
        """Find out what of the source is used, where that can be told."""
        wanted = self.options
        self.view = allocated(self.source, all_blocks=wanted.all_blocks, exclude=wanted.exclude)
        self.source = self.view.source

    def hear(self, at: float, processor: float) -> float | None:
        """Remember how much processor the receiver has used; how much a second since the last time, once known."""
        now = (at, processor)
        before, self.heard = self.heard, (self.heard[0] if self.heard else now, now)
        return (processor - before[1][1]) / max(at - before[1][0], 0.1) if before else None

    def skip(self, length: int) -> None:
        """Count an unused range."""
        self.unused += length

    def tell(self, stage: str, answer: OpenAnswer | None = None, durable: int = 0, message: str = "") -> None:
        """Report progress to the caller."""
        report = self.options.progress
        if report is None:
            return
        counts = self.tally.counts()
        report(
            Progress(
                stage=stage,
                slot=answer.slot if answer else self.options.slot,
                size=self.source.size,
                done=counts.done,
                durable=durable,
                wire=counts.wire,
                read=counts.read,
                changed=counts.changed,
                seconds=self.tally.seconds,
                bottleneck=self.bottleneck(),
                level=self.levels.level,
                kind=pass_kind(answer) if answer else "",
                message=message,
            )
        )

    def bottleneck(self) -> str:
        """The stage in which the threads spent most of their time."""
        counts = self.tally.counts()
        stages = {"read": counts.read_seconds, "link": counts.send_seconds, "processor": counts.scan_seconds}
        name = max(stages, key=lambda stage: stages[stage])
        if not stages[name]:
            return ""
        return "target" if name == "link" and self.levels.receiver_holds else name


class Pass:
    """One session.

    Args:
        transfer: it belongs to.
        answer: the receiver's, to our OPEN.

    Raises:
        ProtocolError: the answer does not fit the source.
    """

    def __init__(self, transfer: Transfer, answer: OpenAnswer) -> None:
        self._transfer = transfer
        self._answer = answer
        if answer.size != transfer.source.size:
            raise ProtocolError(f"the receiver opened a slot of {answer.size} bytes for a source of another size")
        try:
            self._geometry = Geometry(answer.size, answer.block_bytes, answer.sector_bytes)
            self._kind = DigestKind(answer.digest)
        except (UsageError, ValueError) as error:
            raise ProtocolError(f"the receiver opened a slot in a way that there is not: {error}") from error
        self._stop = threading.Event()
        self._error: BlocksyncError | None = None
        self._workers: list[Outbound] = []
        # Cancelling may come from a signal handler, on top of a frame of this very thread.
        self._lock = threading.RLock()
        self._durable = 0
        self._tracking = Tracking(
            transfer.source, transfer.route.copy, answer, lambda said: self._tell("planning", message=said)
        )

    def run(self) -> SendResult:
        """Bring the receiver up to date and commit.

        Raises:
            BlocksyncError: the first thing that went wrong; what is durable stays.
        """
        transfer = self._transfer
        answer = self._answer
        known = transfer.route.copy.load(answer.manifest_id, self._geometry, self._kind, answer.key)
        self._tell("planning", message=answer.notice)
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        try:
            with transfer.cancel.watching(lambda: self._fail(transfer.cancel.error())):
                return self._run(known)
        except BlocksyncError as error:
            # A cancelled or dead session shows as all sorts of broken calls: the first cause is the one to tell.
            raise self._error or error from None
        finally:
            self._stop.set()
            transfer.route.control.abort()
            heart.join()
            known.close()

    def _run(self, known: BlockMap) -> SendResult:
        transfer = self._transfer
        answer = self._answer
        control = transfer.route.control
        sync_map(control, answer.session, known, answer.root)
        if answer.pass_open:
            transfer.resumed = max(transfer.resumed, answer.known_bytes)
        dirty = self._tracking.dirty(self._geometry, self._kind, known)
        transfer.tally.sampled(self._tracking.sampled_bytes)
        self._work(self._tracking.watch(transfer.source.extents()), known, dirty)
        transfer.source.check()
        self._tell("committing")
        committed = control.commit(answer.session, CommitRequest(root=known.root()))
        if committed.root != known.root():
            raise IntegrityError("the receiver committed another digest tree than the sender's")
        try:
            transfer.route.copy.save(known, committed.generation, answer.manifest_id)
        except StateError as error:
            # The pass is committed all the same; the next one fetches the manifest from the receiver.
            self._tell("done", message=f"the manifest's copy could not be kept: {error.message}")
        else:
            self._tracking.keep(committed.generation, committed.root, self._geometry)
            self._tell("done")
        return self._result(committed.generation, committed.root)

    def _work(self, extents: Iterator[Extent], known: BlockMap, dirty: DirtyMap | None) -> None:
        self._transfer.unused = 0
        steps = plan(
            extents, self._geometry, known, dirty=dirty, fresh=self._answer.fresh, skipped=self._transfer.skip
        )
        again = self._round(_with_gaps(steps, self._geometry.size, self._transfer.tally.passed), known)
        if not again:
            return
        # A patch did not give the block that it should have: the whole block is sent.
        for offset, length in again:
            known.withdraw(*self._geometry.blocks_of(offset, length))
            self._transfer.resent += length
        if self._round(resend(_joined(again), self._geometry), known):
            raise IntegrityError("the receiver asked for the same blocks again")

    def _round(self, steps: Iterator[Step], known: BlockMap) -> list[tuple[int, int]]:
        source = _SharedSteps(steps)
        answer = self._answer
        workers = [
            Outbound(
                source=self._transfer.source,
                geometry=self._geometry,
                kind=self._kind,
                key=answer.key,
                known=known,
                connect=lambda: self._transfer.route.connect(answer),
                hello=Hello(session=answer.session, token=answer.token, ordinal=ordinal),
                epoch=answer.epoch,
                next_step=source.take,
                tally=self._transfer.tally,
                levels=self._transfer.levels,
                pace=self._transfer.pace,
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
        except Exception as error:
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
        self._transfer.route.control.abort()

    def _beat(self) -> None:
        """Signs of life and progress."""
        control = self._transfer.route.control
        heard = time.monotonic()
        watch = Watch()
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                beat = control.heartbeat(self._answer.session)
            except NetworkError as error:
                if time.monotonic() - heard > DEAD_AFTER_SECONDS:
                    self._fail(
                        NetworkError(f"the receiver has not answered for {DEAD_AFTER_SECONDS:.0f} s: {error}")
                    )
                    return
            except BlocksyncError as error:
                self._fail(error)
                return
            else:
                passed, heard = max(time.monotonic() - heard, 0.1), time.monotonic()
                self._durable = beat.durable
                self._transfer.levels.receiver_busy(
                    max(beat.busy - watch.busy, 0) / 1000 / (passed * self._answer.connections),
                    self._transfer.hear(heard, beat.processor / 1000),
                )
                if watch.held([worker.standing() for worker in self._workers], beat.busy, heard):
                    self._fail(
                        NetworkError("the receiver answers, but nothing passes on a data connection any more")
                    )
                    return
            self._tell("transferring")

    def _tell(self, stage: str, message: str = "") -> None:
        self._transfer.tell(stage, self._answer, self._durable, message)

    def _result(self, generation: int, root: bytes) -> SendResult:
        transfer = self._transfer
        counts = transfer.tally.counts()
        result = SendResult(
            slot=self._answer.slot,
            kind=pass_kind(self._answer),
            generation=generation,
            size=self._geometry.size,
            read=counts.read,
            changed=counts.changed,
            zero=counts.zero,
            wire=counts.wire,
            resent=transfer.resent,
            resumed=transfer.resumed,
            retries=transfer.retries,
            seconds=transfer.tally.seconds,
            level=transfer.levels.level,
            bottleneck=transfer.bottleneck(),
            root=root.hex(),
            consistency=transfer.source.capabilities.consistency,
            unused=transfer.unused,
            notes=transfer.view.notes,
            excluded=transfer.view.excluded,
            excluded_files=transfer.view.excluded_files,
            excluded_bytes=transfer.view.excluded_bytes,
            excluded_names=transfer.view.excluded_names,
            unnamed=transfer.view.unnamed,
            tracker=self._tracking.provider,
            unreadable=transfer.source.unreadable(),
        )
        outlooks = transfer.route.outlooks
        return result if outlooks is None else outlooks.compared(result, transfer.source.identity)


def pass_kind(answer: OpenAnswer) -> str:
    """``full`` until the slot has a committed generation, then ``incremental``."""
    return "incremental" if answer.generation else "full"


def _with_gaps(steps: Iterator[Step], size: int, passed: Callable[[int], None]) -> Iterator[Step]:
    """The same steps; tells the lengths between them, where the disk needs nothing done."""
    at = 0
    for step in steps:
        if step.offset > at:
            passed(step.offset - at)
        at = step.offset + step.length
        yield step
    if size > at:
        passed(size - at)


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
