"""Chooses the compression level: the one at which the disk's changed bytes leave fastest.

A level is bound by the link or by the processor. For a byte of the disk that must be sent, packing at level L costs
``pack(L)`` seconds of processor and leaves ``ratio(L)`` bytes; each of these costs ``send`` seconds of processor
(encryption, TCP); everything else costs ``rest``. So bytes of the disk leave at the smaller of ::

    link / ratio(L)         where the link carries so many bytes a second
    cores / (rest + pack(L) + send * ratio(L))

All of that is measured while the pass runs, in processor time, which waiting does not distort. What a level costs that
was not used lately is scaled from the one in use by :data:`PROFILE`. The cores are those that the threads get when they
all ask: packing does nothing but compute, so as many times as it takes longer than its processor time, so many times
are there too few processors, whoever has the rest: other work, the other end on the same machine, a quota. The
link's rate is seen whenever the threads wait for it. It is not the link that makes us wait where the receiver says that
its connections are at work rather than waiting for us; nor where its receive window was full while its process used a
good part of a processor: what has arrived lies there unread, since its threads wait for each other or for a processor.
Bytes saved on the link gain nothing then. A full window alone says nothing: a tunnel that ends on this machine reads
as slowly as its own link allows.

Trying levels one after the other was the way before: it took seconds to settle, since content that comes in runs
changes the rate more than a level does.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from blocksync.codec import MAX_LEVEL

# From cheap to thorough. None is off.
LADDER: tuple[int | None, ...] = (None, -5, -1, 1, 3, 5, 7, 9, 12, 15)
# What each level costs and leaves, against level 1: zstd 1.5 on text and programs. Only the steps between levels count.
PROFILE: dict[int, tuple[float, float]] = {
    -5: (0.6, 1.30),
    -1: (0.8, 1.10),
    1: (1.0, 1.00),
    3: (1.7, 0.95),
    5: (3.2, 0.92),
    7: (4.8, 0.90),
    9: (7.0, 0.89),
    12: (16.0, 0.88),
    15: (35.0, 0.87),
}
START_LEVEL = 1
# A decision rests on what was measured over so much time and data; on less data where that takes long to come by.
DECIDE_SECONDS = 0.2
DECIDE_BYTES = 8 << 20
PATIENCE_SECONDS = 1.0
LEAST_BYTES = 1 << 20
# While compression is off, one frame in so many is packed all the same: content changes.
SAMPLE_EVERY = 32
# Costs of a level that was not used for so long are scaled from the one in use.
STALE_SECONDS = 20.0
WORTH_MOVING = 1.005
# Up at most so many rungs at a time: what lies far above is known by its profile alone.
STEPS_UP = 2
# Share of the threads' time spent waiting for the socket, above which it is the link that holds them.
WAITING = 0.25
# Share of its connections' time that a receiver spends at work, above which it is what makes us wait.
RECEIVER_BUSY = 0.6
# Share of our waiting in which its receive window was full, and of one processor that it used meanwhile, above which it
# is what makes us wait as well.
WINDOW_FULL = 0.5
RECEIVER_WORKS = 0.5
# Where nobody waits for the link it may be faster than it was: tried now and then, and more rarely when in vain.
PROBE_SECONDS = 2.0
PROBE_AT_LEAST_EVERY_SECONDS = 60.0
# How much of what a decision sees of the processors' shortage is believed: when it grows, and when it ends.
SHORTAGE = 0.7
RELIEF = 0.2
# Less packing than this, in seconds, tells nothing about it.
TELLING_SECONDS = 0.004


@dataclass(slots=True)
class _Cost:
    """Of one level: seconds of processor and bytes left, a byte packed; when that was last seen."""

    seconds: float
    ratio: float
    seen: float


@dataclass(slots=True)
class _Span:
    """What has been counted since the last decision; seconds of processor unless said otherwise."""

    plain: int = 0
    wire: int = 0
    offered: int = 0  # bytes that were to be packed
    shrank: int = 0  # and of these what did shrink
    sending: float = 0.0
    waiting: float = 0.0  # of wall clock, in all threads
    refused: float = 0.0  # of that: the receive window was full
    packing: float = 0.0
    packing_wall: float = 0.0  # of wall clock
    packed: dict[int, list[float]] = field(default_factory=dict)  # level: bytes in, bytes out, seconds


@dataclass(frozen=True, slots=True)
class Clocks:
    """Where time comes from; tests bring their own."""

    now: Callable[[], float] = time.monotonic
    process: Callable[[], float] = time.process_time


class LevelControl:
    """Thread-safe; shared by the connections of a session.

    Args:
        wanted: a level from the user, 0 for never; the lowest and the highest to choose from; None adapts freely.
        threads: connections that work at once.
        processors: of the machine; None to ask it.
    """

    def __init__(
        self,
        wanted: int | tuple[int, int] | None,
        threads: int,
        clocks: Clocks | None = None,
        processors: int | None = None,
    ) -> None:
        bounds = wanted if isinstance(wanted, tuple) else (0, MAX_LEVEL)
        self._fixed = wanted if isinstance(wanted, int) else None
        self._threads = threads
        self._clocks = clocks or Clocks()
        self._processors = processors or os.cpu_count() or 1
        self._stretch = 1.0
        self._computed = (0.0, 0.0)
        self._ladder = tuple(level for level in LADDER if bounds[0] <= _rank(level) <= bounds[1])
        if not self._ladder:
            # Above the ladder's end, or between two of its rungs.
            self._ladder, self._fixed = (START_LEVEL,), bounds[0]
        self._lock = threading.Lock()
        start = START_LEVEL if START_LEVEL in self._ladder else self._ladder[-1]
        self._level = start
        self._costs: dict[int, _Cost] = {}
        self._reference: int | None = None
        self._share = 1.0
        self._link = math.inf
        self._probed = 0.0
        self._probing = False
        self._probe_every = PROBE_SECONDS
        self._receiver_busy = 0.0
        self._receiver_works = True  # until it said something else
        self._refused = False
        self._span = _Span()
        self._began: tuple[float, float] | None = None
        self._frames = 0

    @property
    def level(self) -> int | None:
        """The level in use; None for none."""
        return (self._fixed or None) if self._fixed is not None else self._level

    def next_level(self) -> int | None:
        """The level for the next frame: the one in use, but for a sample now and then while it is off."""
        level = self.level
        if level is not None or self._fixed is not None:
            return level
        with self._lock:
            self._frames += 1
            sample = self._frames % SAMPLE_EVERY == 0
        packing = [rung for rung in self._ladder if rung is not None]
        return (self._reference or packing[0]) if sample and packing else None

    # -- what the connections tell ------------------------------------------------------------------------------

    def packed(self, level: int, before: int, after: int | None, seconds: float, wall: float) -> None:
        """A frame was to be packed: bytes, None after it where it does not shrink; seconds of processor and clock."""
        with self._lock:
            self._span.packing_wall += wall
            self._span.packing += seconds
            self._span.offered += before
            if after is None:
                return
            self._span.shrank += before
            sums = self._span.packed.setdefault(level, [0.0, 0.0, 0.0])
            for at, value in enumerate((before, after, seconds)):
                sums[at] += value

    def sent(self, plain: int, wire: int, seconds: float, waited: float, refused: float = 0.0) -> None:
        """A frame was sent.

        Args:
            plain, wire: bytes of the disk, and on the wire.
            seconds: of processor.
            waited: seconds.
            refused: of these, as far as the system tells, the receive window was full.
        """
        if self._fixed is not None:
            return
        with self._lock:
            span = self._span
            span.plain += plain
            span.wire += wire
            span.sending += seconds
            span.waiting += waited
            span.refused += refused
            now = self._clocks.now()
            if self._began is None:
                self._begin(now)
            elif span.plain >= self._enough(now - self._began[0]):
                self._decide(now)

    def receiver_busy(self, share: float, processor: float | None = None) -> None:
        """The receiver gave a sign of life.

        Args:
            share: of their time that its connections spent at work instead of waiting for us.
            processor: seconds of processor that it used a second; None where that is not known yet.
        """
        with self._lock:
            self._receiver_busy = share
            self._receiver_works = processor is None or processor > RECEIVER_WORKS

    @property
    def receiver_holds(self) -> bool:
        """Whether it is the receiver's own work that lets the connections wait, and not the link."""
        return self._receiver_busy > RECEIVER_BUSY or (self._refused and self._receiver_works)

    # -- deciding, under the lock -------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._began = (now, self._clocks.process())
        self._span = _Span()

    @staticmethod
    def _enough(passed: float) -> float:
        if passed < DECIDE_SECONDS:
            return math.inf
        return DECIDE_BYTES if passed < PATIENCE_SECONDS else LEAST_BYTES

    def _decide(self, now: float) -> None:
        assert self._began is not None
        then, process = self._began
        span, passed = self._span, now - then
        used = (self._clocks.process() - process) / passed
        waits = span.waiting > WAITING * passed * self._threads
        self._refused = waits and span.refused > WINDOW_FULL * span.waiting
        self._begin(now)
        self._learn(span, now)
        self._watch_link(span.wire / passed, now, waits=waits)
        cores = self._cores(span)
        rest = max(used * passed - span.packing - span.sending, 0.0) / span.plain
        send = span.sending / max(span.wire, 1)
        link = math.inf if self.receiver_holds else self._link
        speeds = {level: self._speed(level, link, cores, rest, send) for level in self._ladder}
        self._level = self._choose(speeds)

    def _cores(self, span: _Span) -> float:
        """Processors that the threads get when all of them compute."""
        self._computed = (self._computed[0] + span.packing, self._computed[1] + span.packing_wall)
        if self._computed[0] > TELLING_SECONDS:
            stretch = max(self._computed[1] / self._computed[0], 1.0)
            self._stretch += (stretch - self._stretch) * (SHORTAGE if stretch > self._stretch else RELIEF)
            self._computed = (0.0, 0.0)
        return min(self._threads / self._stretch, self._processors)

    def _learn(self, span: _Span, now: float) -> None:
        if span.offered >= LEAST_BYTES / 4:
            # Only a part of what is sent can be packed; the rest was found not to shrink.
            self._share = (self._share + span.shrank / span.offered) / 2
        for level, (before, after, seconds) in span.packed.items():
            if before < LEAST_BYTES / 4:
                continue
            new = _Cost(seconds / before, after / before, now)
            old = self._costs.get(level)
            if old is not None and now - old.seen < STALE_SECONDS:
                new.seconds = (new.seconds + old.seconds) / 2
                new.ratio = (new.ratio + old.ratio) / 2
            self._costs[level] = new
            self._reference = level

    def _watch_link(self, seen: float, now: float, *, waits: bool) -> None:
        if waits:
            if self._probing:
                self._probe_every = min(self._probe_every * 2, PROBE_AT_LEAST_EVERY_SECONDS)
            self._probing, self._probed = False, now
            # Waiting for the link and for the processor by turns looks slower than the link is.
            slower = math.isfinite(self._link) and seen < self._link
            self._link = (self._link + seen) / 2 if slower else seen
        elif math.isfinite(self._link):
            self._link = max(self._link, seen)
            if now - self._probed > self._probe_every:
                self._link, self._probing = math.inf, True
        elif self._probing:
            self._probe_every, self._probing = PROBE_SECONDS, False

    def _speed(self, level: int | None, link: float, cores: float, rest: float, send: float) -> float:
        """Bytes of the disk a second at a level."""
        share = self._share
        pack, ratio = (0.0, 1.0) if level is None else self._cost(level)
        wire = 1.0 - share + share * ratio
        return min(link / wire, cores / max(rest + share * pack + send * wire, 1e-12))

    def _cost(self, level: int) -> tuple[float, float]:
        """Seconds and bytes left, for a byte packed at a level."""
        reference = self._costs.get(self._reference) if self._reference is not None else None
        known = self._costs.get(level)
        if reference is None or self._reference is None:
            # Nothing was packed yet: what a core of these years does.
            seconds, ratio = PROFILE[level]
            return seconds * 3e-9, min(ratio * 0.5, 1.0)
        if known is not None and reference.seen - known.seen < STALE_SECONDS:
            return known.seconds, known.ratio
        (seconds, ratio), (from_seconds, from_ratio) = PROFILE[level], PROFILE[self._reference]
        # What does not shrink at one level does not at another.
        saved = (1.0 - reference.ratio) / (1.0 - from_ratio * 0.5) * (1.0 - ratio * 0.5)
        return reference.seconds * seconds / from_seconds, 1.0 - saved

    def _choose(self, speeds: dict[int | None, float]) -> int | None:
        at = self._ladder.index(self._level)
        reachable = self._ladder[: at + STEPS_UP + 1]
        best = max(speeds[level] for level in reachable)
        if speeds[self._level] * WORTH_MOVING >= best:
            return self._level
        # The cheapest of those that are as good.
        return next(level for level in reachable if speeds[level] * WORTH_MOVING >= best)


def _rank(level: int | None) -> float:
    """Where a level lies between a user's bounds, of which 0 is off: the negative ones come before 1."""
    if level is None:
        return 0
    return level if level > 0 else 0.5
