"""A pass to a scratch slot, watched closely.

It is the engine's own pass over the real link to the real receiver: what it measures is what a pass does, whatever the
engine, its levels or its connections become. This module only supplies the disk and looks at the counters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blocksync.engine.cancel import Cancel
from blocksync.engine.sending import Pass, Route, Transfer
from blocksync.errors import BlocksyncError
from blocksync.estimate.paces import extremes
from blocksync.estimate.proof import Proof, prove
from blocksync.estimate.trial import TrialDisk
from blocksync.kernels import DigestKind
from blocksync.options import SendOptions
from blocksync.platforms import processor_seconds
from blocksync.platforms.likeness import marks_of_machine
from blocksync.platforms.tcp import LinkWaits
from blocksync.protocol.messages import CONTROL_VERSION, OpenAnswer, OpenRequest
from blocksync.results import Progress
from blocksync.transports.link import Link

LOOK_SECONDS = 0.05
# Parts of the tail whose rates are compared.
WINDOWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The counters at one time: bytes, and seconds since the first chunk was read.

    ``acknowledged`` is what the other end's kernel has, exact to the packet; 0 where the kernel does not tell.
    """

    seconds: float
    acknowledged: int = 0
    done: int
    changed: int
    wire: int
    level: int | None
    reading: float
    scanning: float
    sending: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a rehearsal showed.

    Args:
        moments: while it sent.
        connections: that were used.
        opening, committing: seconds.
        drained: seconds until all that was sent had been received.
        size: of the trial disk, bytes.
        busy: share of this machine's processors that was busy; foreign: that was busy with other work than this
            pass's: the receiver's part is none where it is on this machine too.
        waiting: share of the time in which the connections had something under way.
        starved: of that, the receiver did not read fast enough.
        target: ``file`` or ``nowhere``.
        slot: the name that the receiver gave.
        proof: a verify of what was sent, where that was tried.
    """

    moments: tuple[Moment, ...]
    connections: int
    opening: float
    committing: float
    drained: float
    size: int
    busy: float
    foreign: float
    waiting: float
    starved: float
    target: str
    slot: str
    proof: Proof | None = None

    @property
    def tail(self) -> tuple[Moment, Moment]:
        """Two moments between which it had found its pace: the second half."""
        last = self.moments[-1]
        first = next(moment for moment in self.moments if moment.seconds >= last.seconds / 2 or moment is last)
        return (self.moments[0] if first is last else first), last

    @property
    def link_rate(self) -> float:
        """Bytes a second on the wire over all, with the filling and the draining of buffers."""
        return self.moments[-1].wire / max(self.drained, 1e-3)

    @property
    def done_rate(self) -> float:
        """Bytes of the disk a second in the tail; at least 1."""
        first, last = self.tail
        return max((last.done - first.done) / max(last.seconds - first.seconds, 1e-3), 1.0)

    @property
    def wire_rate(self) -> float:
        """Bytes a second on the wire in the tail: acknowledged ones where the kernel tells, else those handed to it."""
        first, last = self.tail
        return (_on_wire(last) - _on_wire(first)) / max(last.seconds - first.seconds, 1e-3)

    @property
    def late(self) -> float:
        """Seconds that the link took until it was full: by so much what was sent lags behind its later rate."""
        last = self.moments[-1]
        rate = self.wire_rate
        return max(0.0, last.seconds - _on_wire(last) / rate) if rate else 0.0

    def reached(self, done: float) -> float | None:
        """Seconds until so many bytes of the disk were done; None where they never were."""
        for earlier, later in itertools.pairwise(self.moments):
            if later.done >= done:
                share = (done - earlier.done) / max(later.done - earlier.done, 1)
                return earlier.seconds + max(share, 0.0) * (later.seconds - earlier.seconds)
        return None

    def extremes(self) -> tuple[float, float]:
        """The least and the most bytes of the disk a second that held for a while."""
        return extremes([(moment.seconds, moment.done) for moment in self.moments], self.done_rate)

    def rates(self, windows: int, of: Callable[[Moment], int] = lambda moment: moment.done) -> list[float]:
        """Bytes of the disk, or what ``of`` counts, a second in as many equal parts of the tail."""
        first, last = self.tail
        step = (last.seconds - first.seconds) / windows
        edges = [self.at(first.seconds + step * index) for index in range(windows + 1)]
        return [
            (of(later) - of(earlier)) / max(later.seconds - earlier.seconds, 1e-3)
            for earlier, later in itertools.pairwise(edges)
        ]

    def at(self, seconds: float) -> Moment:
        """The moment nearest to a time."""
        return min(self.moments, key=lambda moment: abs(moment.seconds - seconds))

    def spread(self) -> float:
        """How much the rate varies within the tail, relative to it."""
        return _spread(self.rates(WINDOWS))

    def wire_spread(self) -> float:
        """How much the rate on the wire varies within the tail, relative to it."""
        return _spread(self.rates(WINDOWS, _on_wire))


def _on_wire(moment: Moment) -> int:
    return moment.acknowledged or moment.wire


def _spread(rates: list[float]) -> float:
    mean = statistics.fmean(rates)
    return statistics.pstdev(rates) / mean if mean else 1.0


class _Watch:
    """Takes the stages of a pass with their times."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        self.at.setdefault(progress.stage, time.monotonic())


def rehearse(
    route: Route, disk: TrialDisk, options: SendOptions, cancel: Cancel, *, verify: bool = False
) -> Rehearsal:
    """Send the trial disk to a scratch slot.

    Args:
        route: for a rehearsal.
        disk: that is sent.
        options: of the pass; its progress callback is not used.
        cancel: stops it.
        verify: try a verify of it too.

    Raises:
        InterruptedTransferError: cancelled.
        BlocksyncError: the first thing that went wrong.
    """
    watch = _Watch()
    links: list[Link] = []

    def connect(answer: OpenAnswer) -> Link:
        links.append(route.connect(answer))
        return links[-1]

    transfer = Transfer(disk, dataclasses.replace(route, connect=connect), _watched(options, watch), cancel)
    began = time.monotonic()
    with cancel.watching(route.control.abort):
        answer = route.control.open(_request(transfer, disk))
    opened = time.monotonic()
    moments: list[Moment] = []
    load = _Load(links, transfer if answer.together else None)
    proof = None
    try:
        with _looking(transfer, disk, moments, load):
            Pass(transfer, answer).run()
        if verify:
            proof = prove(route.control, answer, disk, moments[-1].done if moments else 0, cancel)
    except BlocksyncError as error:
        cancel.check(error)
        # What was to be seen has been seen when only the rest of zeros did not get through in time.
        if not (disk.over and error.retryable and moments and moments[-1].wire):
            raise
    finally:
        _end(route, answer)
    seen = tuple(_from_first_byte(moments))
    sent_all = watch.at.get("committing")
    drained = seen[-1].seconds if sent_all is None else sent_all - opened - _before_first_byte(moments)
    return Rehearsal(
        moments=seen,
        connections=min(options.connections, answer.connections),
        opening=watch.at["planning"] - began,
        committing=watch.at["done"] - watch.at["committing"] if "done" in watch.at else 0.0,
        drained=drained,
        size=disk.size,
        busy=load.busy,
        foreign=load.foreign,
        waiting=load.waiting,
        starved=load.starved,
        target=answer.rehearsal,
        slot=answer.slot,
        proof=proof,
    )


def _watched(options: SendOptions, watch: _Watch) -> SendOptions:
    return dataclasses.replace(options, progress=watch)


def _request(transfer: Transfer, disk: TrialDisk) -> OpenRequest:
    return OpenRequest(
        version=CONTROL_VERSION,
        run=transfer.run,
        slot=transfer.options.slot,
        source_identity=disk.identity,
        source_name=disk.name,
        size=disk.size,
        sector_bytes=disk.sector_bytes,
        block_bytes=transfer.options.block_bytes,
        digest=DigestKind.XXH3,
        connections=transfer.options.connections,
        replace=False,
        rehearsal=True,
        marks=marks_of_machine(),
    )


def _end(route: Route, answer: OpenAnswer) -> None:
    with contextlib.suppress(BlocksyncError):
        route.control.end(answer.session)


@contextlib.contextmanager
def _looking(transfer: Transfer, disk: TrialDisk, moments: list[Moment], load: _Load) -> Iterator[None]:
    ended = threading.Event()
    arguments = (transfer, disk, moments, load, ended)
    looker = threading.Thread(target=_look, args=arguments, name="rehearsal-looks", daemon=True)
    looker.start()
    try:
        yield
    finally:
        ended.set()
        looker.join()


def _look(transfer: Transfer, disk: TrialDisk, moments: list[Moment], load: _Load, ended: threading.Event) -> None:
    began = time.monotonic()
    while not disk.over:
        acknowledged = load.look()
        counts = transfer.tally.counts()
        moments.append(
            Moment(
                seconds=time.monotonic() - began,
                acknowledged=acknowledged,
                done=counts.done,
                changed=counts.changed,
                wire=counts.wire,
                level=transfer.levels.level,
                reading=counts.read_seconds,
                scanning=counts.scan_seconds,
                sending=counts.send_seconds,
            )
        )
        if ended.wait(LOOK_SECONDS):
            return


class _Load:
    """What the machine and the connections were busy with, from the first look to the last.

    Args:
        links: those opened so far.
        together: the pass, where its receiver is on this machine.
    """

    def __init__(self, links: list[Link], together: Transfer | None) -> None:
        self._links = links
        self._together = together
        self._first: tuple[float, float, float] | None = None
        self._last = (0.0, 0.0, 0.0)
        self._began = time.monotonic()
        self._ended = self._began
        self._waits: dict[int, LinkWaits] = {}

    def look(self) -> int:
        """Take the counters; returns the bytes that the other end has acknowledged, 0 where nobody knows."""
        busy, passed = processor_seconds()
        self._last = (busy, passed, time.process_time())
        if self._first is None:
            self._first = self._last
        self._ended = time.monotonic()
        for number, link in enumerate(self._links):
            waits = link.waits()
            if waits is not None:
                self._waits[number] = waits
        return sum(waits.acknowledged for waits in self._waits.values())

    def _gone(self) -> tuple[float, float, float]:
        first = self._first or self._last
        busy, passed, own = (last - earlier for last, earlier in zip(self._last, first, strict=True))
        return busy, max(passed, 1e-6), own

    @property
    def busy(self) -> float:
        busy, passed, _ = self._gone()
        return busy / passed

    @property
    def foreign(self) -> float:
        busy, passed, own = self._gone()
        return max(0.0, busy - own - self._receivers()) / passed

    def _receivers(self) -> float:
        """Seconds of processor that the receiver had of this machine meanwhile."""
        heard = self._together.heard if self._together is not None else None
        if heard is None or heard[1][0] <= heard[0][0]:
            return 0.0
        (first, before), (last, after) = heard
        return (after - before) / (last - first) * (self._ended - self._began)

    @property
    def waiting(self) -> float:
        seconds = (self._ended - self._began) * len(self._waits)
        return sum(waits.busy for waits in self._waits.values()) / seconds if seconds else 0.0

    @property
    def starved(self) -> float:
        busy = sum(waits.busy for waits in self._waits.values())
        return sum(waits.peer for waits in self._waits.values()) / busy if busy else 0.0


def _before_first_byte(moments: list[Moment]) -> float:
    """When the pass was still catching up and connecting: the last look at which nothing was done."""
    return max((moment.seconds for moment in moments if not moment.done and not moment.wire), default=0.0)


def _from_first_byte(moments: list[Moment]) -> list[Moment]:
    start = _before_first_byte(moments)
    return [
        dataclasses.replace(moment, seconds=moment.seconds - start) for moment in moments if moment.seconds >= start
    ]
