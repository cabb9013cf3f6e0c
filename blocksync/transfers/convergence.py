"""How long the next pass will take, and whether passes get short at all. Pure.

A pass walks the whole disk, or what a change tracker names, and sends what changed; both happen at once, so what a pass
takes is a floor that does not depend on the changes, plus the changes over the speed at which they went out. The
next pass has to send what is written while the last one runs: change rate times its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STUCK_PASSES = 5
"""After so many passes none of which came closer, the next will not either."""
WORTH = 0.9
"""A prediction counts as closer when it is below this share of the best one before."""


@dataclass(frozen=True, slots=True)
class PassFigures:
    """One pass of all disks: when it began (seconds, any clock), how long it took, bytes changed and sent."""

    began: float
    seconds: float
    changed: int
    full: bool


def change_rate(passes: Sequence[PassFigures]) -> float | None:
    """Bytes a second that the source changes, by the last incremental pass; None before there is one."""
    if len(passes) < 2 or passes[-1].full:
        return None
    apart = passes[-1].began - passes[-2].began
    return passes[-1].changed / apart if apart > 0 else None


def next_seconds(passes: Sequence[PassFigures]) -> float | None:
    """How long a pass would take that began when the last one ended; None before it can be told.

    After a full pass alone it is not known how much changes: no prediction then.
    """
    rate = change_rate(passes)
    if rate is None:
        return None
    last = passes[-1]
    speed = max((each.changed / each.seconds for each in passes if each.seconds > 0 and each.changed), default=0.0)
    if not speed:
        return last.seconds
    floor = max(0.0, last.seconds - last.changed / speed)
    return floor + rate * last.seconds / speed


def predictions(passes: Sequence[PassFigures]) -> list[float]:
    """What :func:`next_seconds` said after each pass, as far as it said anything."""
    told = (next_seconds(passes[: count + 1]) for count in range(len(passes)))
    return [each for each in told if each is not None]


def is_stuck(passes: Sequence[PassFigures]) -> bool:
    """Whether the last passes came no closer to a short one."""
    told = predictions(passes)
    if len(told) <= STUCK_PASSES:
        return False
    best = min(told[:-STUCK_PASSES])
    return all(each > best * WORTH for each in told[-STUCK_PASSES:])
