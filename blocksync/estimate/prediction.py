"""From figures to a prediction. Pure: no IO, no clock.

The rehearsal tells at what rate this engine, on these machines and this link, deals with this kind of data; the
samples tell how much of it there is and what it holds. Time is then amount over rate, plus what a pass loses until it
has found its pace, and the interval comes from the errors of both: how much neighbouring samples differ, how much the
rate varied, and, where the bottleneck is one that others use too, how far such rates wander from minute to minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from blocksync.estimate.rehearsal import WINDOWS, Rehearsal
from blocksync.estimate.results import Range
from blocksync.estimate.sampling import Picture, relative_error

# Half the width of an interval, in standard errors: nine of ten cases, with a reserve.
WIDTH = 2.0
# What was seen for seconds says no more than that of the minutes or hours after them: a link's rate is its own, while
# processors and disks are shared with whatever else comes up (docs/ESTIMATE.md).
UNSEEN = {"link": 0.03, "processor": 0.12, "read": 0.12, "target": 0.12}
# Starting a process's threads and its first connections is not the same twice.
RESTLESS_SECONDS = 0.5
# A rate this near to what the bare link carried is the link's.
LINK_SHARE = 0.8
BUSY_SHARE = 0.85
# What the levels in use make of the same data differs by no more than this while only the link holds them back.
STEADY_LEVELS = 0.1
# A link is full while its connections have something under way nearly all the time, and the other end reads it.
WAITING_SHARE = 0.7
STARVED_SHARE = 0.3
# Other work may end, or be twice as much: within two standard errors.
SHARED_ERROR = 0.5
# A link that was full while all processors were busy is full for as long as others let it be. That counts most where
# this pass and the others had half of them each: who needs little is given it.
CROWDED_ERROR = 0.12
# TLS and its records, over what is counted as sent.
RECORD_SHARE = 0.003
# A manifest has 80 bytes a block of 64 KiB; both ends write theirs at the commit, at the pace of a slow disk.
MANIFEST_SHARE = 80 / (64 << 10)
MANIFEST_RATE = 100e6
# A commit waits for the last window's sync, which takes what the disk has to do at that moment.
LEAST_COMMIT = 0.3
MOST_COMMIT = 1.7
# What is under way when a pass begins and ends, in buffers and queues, is not the same twice.
EDGE_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What the sampled pieces become on the wire.

    Args:
        lengths: of the pieces, bytes.
        wires: of the same pieces, at the levels that the rehearsal used, in the shares it used them.
        levels: relative standard deviation of what the levels make of the same data: the pass may use others.
        shares: the least and the most that levels which a pass may choose as well leave of a byte; none where the
            caller fixed one.
    """

    lengths: Sequence[int]
    wires: Sequence[float]
    levels: float = 0.0
    shares: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """Bytes on the wire for each byte that is read."""
        return sum(self.wires) / max(sum(self.lengths), 1)

    @property
    def error(self) -> float:
        """Relative standard error of :attr:`share`."""
        return math.hypot(self.sampled, self.levels)

    @property
    def sampled(self) -> float:
        """The part of :attr:`error` that comes from how the samples differ, and not the levels."""
        return relative_error([wire / length for wire, length in zip(self.wires, self.lengths, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The first pass."""

    seconds: Range
    preparation: float
    transfer: Range
    commit: float
    wire: Range
    rate: float
    bottleneck: str
    error: float


def predict(picture: Picture, packed: Packed, rehearsal: Rehearsal, *, read_rate: float, link: float) -> Prediction:
    """Predict a first pass.

    Args:
        picture: of the source.
        packed: its samples.
        rehearsal: of the pass.
        read_rate: of the source, bytes a second.
        link: what the bare link carries at most, bytes a second; 0 where that is not known.
    """
    wire_rate = rehearsal.wire_rate
    bottleneck = _bottleneck(rehearsal, wire_rate, link)
    if bottleneck == "link" and packed.levels > STEADY_LEVELS:
        # The engine went to and fro between packing and not: it was short of processors for a link as fast as this.
        bottleneck = "processor"
    rate = rehearsal.done_rate
    if bottleneck == "link" and wire_rate and packed.share:
        # The link's rate is exact, the mixture that the rehearsal happened to send is not.
        rate = wire_rate / (packed.share * (1 + RECORD_SHARE))
    if read_rate < rate:
        bottleneck = "read"
    rate = (rate**-4 + read_rate**-4) ** -0.25
    likely = _transfer_seconds(picture.data, rehearsal, bottleneck, rate, read_rate)
    # What levels leave differs, what a pass takes at them does not: it chooses them so. The rate's variation has it.
    error = _error(bottleneck, packed.error if bottleneck == "link" else packed.sampled, rehearsal)
    transfer = around(likely, error, 0.0)
    if bottleneck != "link":
        transfer = _with_extremes(transfer, picture.data, rehearsal, read_rate)
    if rehearsal.target != "file" and bottleneck != "link":
        # Nobody knows how fast the target writes: it can only be slower than what was measured.
        transfer = Range(likely=transfer.likely, low=transfer.low, high=transfer.high * 1.5)
    commit = rehearsal.committing + 2 * picture.size * MANIFEST_SHARE / MANIFEST_RATE
    return Prediction(
        seconds=_together(transfer, rehearsal.opening, commit),
        preparation=rehearsal.opening,
        transfer=transfer,
        commit=commit,
        wire=_wire(picture.data, packed, bottleneck),
        rate=rate,
        bottleneck=bottleneck,
        error=error,
    )


def _with_extremes(transfer: Range, data: int, rehearsal: Rehearsal, read_rate: float) -> Range:
    """As fast, or as slow, as it was for a while: there are machines with two paces.

    Memory is one reason. A virtual machine fills pages that its host has still to find at half the pace of those that
    it has just given back, and which of them a pass meets hangs on what ran before it.
    """
    slowest, fastest = rehearsal.extremes()
    return Range(
        likely=transfer.likely,
        low=min(transfer.low, max(data / fastest, data / read_rate)),
        high=max(transfer.high, data / slowest),
    )


def _wire(data: int, packed: Packed, bottleneck: str) -> Range:
    """Bytes on the wire; where the link is not what holds a pass back, whether it packs at all hangs on little."""
    likely = data * packed.share
    others = () if bottleneck == "link" else packed.shares
    error = WIDTH * packed.error + 0.02
    return Range(
        likely=likely,
        low=min((likely, *(data * share for share in others))) * max(0.0, 1 - error),
        # What does not shrink is sent as it is.
        high=min(max((likely, *(data * share for share in others))) * (1 + error), data * 1.01) + 4096,
    )


def _transfer_seconds(data: int, rehearsal: Rehearsal, bottleneck: str, rate: float, read_rate: float) -> float:
    """Of so many bytes of the disk, at the rate to which the pass tends."""
    if bottleneck == "link":
        return data / rate + rehearsal.late
    short = rehearsal.reached(data)
    if short is not None:
        # The rehearsal did as much: its own beginning says how long that takes, before caches were full.
        return max(short, data / read_rate)
    # The beginning was slower than the rest, or faster.
    lost = rehearsal.drained - rehearsal.moments[-1].done / rehearsal.done_rate
    return data / rate + max(lost, -0.5 * data / rate)


def around(likely: float, error: float, restless: float = RESTLESS_SECONDS) -> Range:
    """An interval of so much relative error, with room for what every start costs."""
    return Range(
        likely=likely,
        low=max(0.0, likely / (1 + WIDTH * error) - restless / 2),
        high=likely * (1 + WIDTH * error) + restless,
    )


def _together(transfer: Range, opening: float, commit: float) -> Range:
    """The whole pass: its parts go wrong independently, so their errors add up as squares."""
    low = math.hypot(transfer.likely - transfer.low, opening / 2, commit * (1 - LEAST_COMMIT), EDGE_SECONDS)
    high = math.hypot(transfer.high - transfer.likely, opening, commit * (MOST_COMMIT - 1), EDGE_SECONDS)
    likely = transfer.likely + opening + commit
    return Range(likely=likely, low=max(0.0, likely - low), high=likely + high)


def _bottleneck(rehearsal: Rehearsal, wire_rate: float, link: float) -> str:
    """What the connections were waiting for, as the kernel counts it, else what the rates suggest."""
    near = bool(link) and wire_rate >= LINK_SHARE * link
    if rehearsal.waiting:
        if near and rehearsal.waiting >= WAITING_SHARE and rehearsal.starved < STARVED_SHARE:
            return "link"
        if rehearsal.starved >= STARVED_SHARE and rehearsal.target == "file" and rehearsal.busy < BUSY_SHARE:
            return "target"
        return "processor"
    if near:
        return "link"
    first, last = rehearsal.tail
    sending, working = last.sending - first.sending, last.scanning - first.scanning
    return "target" if sending > working and rehearsal.busy < BUSY_SHARE else "processor"


def _error(bottleneck: str, sampled: float, rehearsal: Rehearsal) -> float:
    """Relative standard error: of the amount, of the rate as it was seen, and of what was not seen."""
    if bottleneck == "link":
        # Windows of a full link differ by what its queue happens to hold: its mean is better known than one of them.
        varied = rehearsal.wire_spread() / WINDOWS**0.5
        ours = max(0.0, rehearsal.busy - rehearsal.foreign)
        shared = CROWDED_ERROR * 4 * rehearsal.foreign * ours if rehearsal.busy >= BUSY_SHARE else 0.0
    else:
        varied, shared = rehearsal.spread() / WINDOWS**0.5, SHARED_ERROR * rehearsal.foreign
    return math.hypot(sampled, varied, shared, UNSEEN[bottleneck])
