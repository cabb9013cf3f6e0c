"""What follows the first pass. Pure.

What differs after ``t`` seconds is taken as ``H (1 - exp(-r t / H))``: at first it grows with the rate ``r``, later it
tends to the hot set ``H``, the pages that are written again and again. Each pass sends what changed while the one
before ran; so the passes get shorter until what changes during one is what one can send.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blocksync.estimate.mapped import ChangeMap
from blocksync.estimate.prediction import Prediction
from blocksync.estimate.rehearsal import Rehearsal
from blocksync.estimate.results import ChangeFigures, PassFigures, Range
from blocksync.estimate.sampling import Sample

MOST_PASSES = 12
# A pass that is not shorter than this share of the one before is as short as passes get.
SETTLED = 0.95
# Hot sets that are tried, between what was seen and the whole disk.
HOT_STEPS = 120
RATE_STEPS = 40
# The first pass's interval knows how busy the machines are; this is for what it does not know.
PAUSE_ERROR = 0.3
# Passes with the source quiet took down to 0.4 of what was told beside its writer.
LESS = 3.0
FASTEST_LINK = 100e9 / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """``rate``: bytes a second at first; ``hot``: bytes that it tends to."""

    rate: float
    hot: float

    def after(self, seconds: float) -> float:
        """Bytes that differ after so long."""
        if not self.hot or not self.rate:
            return 0.0
        return self.hot * -math.expm1(-self.rate * seconds / self.hot)


def fit(points: Sequence[tuple[float, float]], data: int) -> Curve:
    """The curve nearest to what was seen.

    Args:
        points: ``(seconds, bytes)``.
        data: bytes that could change.
    """
    seen = max((changed for _, changed in points), default=0.0)
    if not seen:
        return Curve(rate=0.0, hot=0.0)
    low, high = seen * 1.0005, max(float(data), seen * 1.001)
    curves = (_with_hot(points, low * (high / low) ** (step / HOT_STEPS)) for step in range(HOT_STEPS + 1))
    return min(curves, key=lambda curve: _error(curve, points))


def _with_hot(points: Sequence[tuple[float, float]], hot: float) -> Curve:
    """The best rate for a hot set, by ternary search between what the last look and the first one allow."""
    last = max(seconds for seconds, _ in points)
    first = min(seconds for seconds, _ in points)
    # From a thousandth of the hot set in all the time to all of it well within the first look.
    low, high = math.log(hot / last / 1000), math.log(20 * hot / first)
    for _ in range(RATE_STEPS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        nearer = _error(Curve(rate=math.exp(left), hot=hot), points)
        if nearer < _error(Curve(rate=math.exp(right), hot=hot), points):
            high = right
        else:
            low = left
    return Curve(rate=math.exp((low + high) / 2), hot=hot)


def _error(curve: Curve, points: Sequence[tuple[float, float]]) -> float:
    return sum((curve.after(seconds) - changed) ** 2 for seconds, changed in points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a following pass costs.

    Args:
        fixed: seconds for opening and committing.
        data: bytes to read; scan_rate: at which unchanged ones are read and compared.
        packed: bytes on the wire for each changed byte.
        send_rate: changed bytes a second that both ends can deal with.
        link: bytes a second on the wire.
        floor, spread: where a dirty map says what to read: so many bytes whatever changes, and so many for each
            changed one. No spread: all of ``data`` is read.
    """

    fixed: float
    data: float
    scan_rate: float
    packed: float
    send_rate: float
    link: float
    floor: float = 0.0
    spread: float = 0.0

    def reads(self, changed: float) -> float:
        """Bytes that a pass reads and digests."""
        return min(self.data, self.floor + changed * self.spread) if self.spread else self.data

    def seconds(self, changed: float, link: float | None = None) -> float:
        """Of a pass: it reads and sends at the same time."""
        wire = changed * self.packed / (link or self.link)
        return self.fixed + max(self.reads(changed) / self.scan_rate, changed / self.send_rate, wire)


def pace_of(sample: Sample, rehearsal: Rehearsal, prediction: Prediction, link: float, scanned: float) -> Pace:
    """What the first pass's figures say of the following ones.

    A pass over unchanged blocks only reads and digests them, which is tried: in the rehearsal, what packs and encrypts
    takes the processors from what digests.

    Args:
        scanned: bytes a second that the threads of a pass digest when they do nothing else.
    """
    first, last = rehearsal.tail
    passed = max(last.seconds - first.seconds, 1e-6)
    nonzero = max(1.0 - sample.share(lambda piece: piece.zero), 1e-3)
    wire_rate = (last.wire - first.wire) / passed
    return Pace(
        fixed=prediction.preparation + prediction.commit,
        data=max(sample.picture.data, 1),
        # A thread reads a chunk, then digests it.
        scan_rate=max(1.0, 1.0 / (1.0 / max(scanned, 1.0) + 1.0 / max(sample.read_rate, 1.0))),
        packed=prediction.wire.likely / max(sample.picture.data * nonzero, 1.0),
        send_rate=max(1.0, (last.changed - first.changed) / passed),
        link=max(1.0, wire_rate if prediction.bottleneck == "link" else link),
    )


def by_map(pace: Pace, found: ChangeMap | None, points: Sequence[tuple[float, float]]) -> Pace:
    """The same pace where a dirty map spares the reading of what it does not name."""
    seen = max((changed for _, changed in points), default=0.0)
    if found is None:
        return pace
    return replace(pace, floor=float(found.before), spread=max(1.0, found.named / seen) if seen else 1.0)


def follow(curve: Curve, pace: Pace, first: float, pause: float) -> tuple[tuple[PassFigures, ...], float]:
    """The following passes, and how long the last one takes with the source quiet.

    Args:
        first: seconds of the first pass.
        pause: that was asked for: once the next pass would be that short, it is the last.
    """
    passes: list[PassFigures] = []
    before = first
    while True:
        changed = curve.after(before)
        seconds = pace.seconds(changed)
        settled = seconds >= before * SETTLED
        if seconds <= pause or settled or len(passes) == MOST_PASSES:
            return tuple(passes), seconds
        passes.append(PassFigures(seconds=seconds, changed=changed, wire=changed * pace.packed))
        before = seconds


def needed_link(curve: Curve, pace: Pace, first_wire: float, pause: float) -> float | None:
    """The least wire rate with which the last pass is within the pause; None where no link is enough.

    Args:
        first_wire: bytes of the first pass on the wire.
    """

    def within(link: float) -> bool:
        faster = replace(
            pace,
            send_rate=max(pace.send_rate, link / max(pace.packed, 1e-9)) if link > pace.link else pace.send_rate,
            link=link,
        )
        first = max(first_wire / link, pace.data / pace.scan_rate)
        return follow(curve, faster, first, pause)[1] <= pause

    if not within(FASTEST_LINK):
        return None
    low, high = 1e3, FASTEST_LINK
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if within(middle) else (middle, high)
    return high


def _pause(seconds: float, error: float) -> Range:
    """Shorter by more than longer: who writes to the source stands still, and leaves disk and processors."""
    return Range(likely=seconds, low=seconds / (1 + LESS * error), high=seconds * (1 + error))


def changes(
    points: Sequence[tuple[float, float]],
    watched: float,
    pace: Pace,
    first: float,
    first_wire: float,
    pause: float,
    error: float = 0.0,
    tracker: str = "",
) -> ChangeFigures:
    """All that follows from watching.

    Args:
        points: of the watching, ``watched`` seconds long.
        pace: of following passes.
        first, first_wire: seconds and bytes on the wire of the first pass.
        pause: seconds that the last pass may take.
        error: share by which the first pass may take more than is likely.
        tracker: whose dirty map told the points.
    """
    curve = fit(points, int(pace.data))
    passes, last = follow(curve, pace, first, pause)
    return ChangeFigures(
        watched=watched,
        points=tuple(points),
        rate=curve.rate,
        hot=curve.hot,
        passes=passes,
        converges=last <= pause,
        pause=_pause(last, max(PAUSE_ERROR, error)),
        needed=None if last <= pause else needed_link(curve, pace, first_wire, pause),
        tracker=tracker,
    )
