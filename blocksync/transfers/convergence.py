"""How long the next pass will take, and whether passes get short at all. Pure.

A pass walks the whole disk, or what a change tracker names, and sends what changed; both happen at once, so what a pass
takes is a floor that does not depend on the changes, plus the changes over the speed at which they went out. The
next pass has to send what is written while the last one runs: change rate times its length. How far from the truth
such a prediction may be is taken from how far off those of the passes before were: a machine that has other work now
and then misses by more than an idle one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STUCK_PASSES = 5
"""After so many passes none of which came closer, the next will not either."""
WORTH = 0.9
"""A prediction counts as closer when it is below this share of the best one before."""

RECENT_PASSES = 5
"""So many say what a pass takes: more smooth out other work on the machines, and older ones knew another machine."""
SENDING_SHARE = 0.5
"""A pass that spent more than this on sending says little of what it takes without: its sending is told too roughly."""
UNTRIED, TRIED, PROVEN = 2.5, 1.8, 1.3
"""The truth is at most so many times the prediction, or that part of it: before one was compared, then, proven."""
PROOFS = 3
MISSES = 1.15
"""A miss that was seen may be exceeded by this factor: of five, one in six is the largest yet when the next comes."""


@dataclass(frozen=True, slots=True)
class PassFigures:
    """One pass of all disks: when it began (seconds, any clock), how long it took, bytes changed and sent.

    A ``broken`` one was resumed, begun again on the way, or came after one that was stopped when it was committed: how
    long it took says nothing of the next, and nor does what it sent.
    """

    began: float
    seconds: float
    changed: int
    full: bool
    broken: bool = False


def change_rate(passes: Sequence[PassFigures]) -> float | None:
    """Bytes a second that the source changes, by the last incremental pass; None before there is one.

    One that sent only a part of what had changed counts where there is no other.
    """
    if len(passes) < 2 or passes[-1].full:
        return None
    following = [at for at in range(1, len(passes)) if not passes[at].full]
    at = next((each for each in reversed(following) if not passes[each].broken), following[-1])
    apart = passes[at].began - passes[at - 1].began
    return passes[at].changed / apart if apart > 0 else None


def next_seconds(
    passes: Sequence[PassFigures], *, at: float | None = None, most: int | None = None
) -> float | None:
    """How long a pass would take; None before it can be told.

    After a full pass alone it is not known how much changes: no prediction then.

    Args:
        at: when it begins, on the clock of the passes; None for the moment at which the last one ended.
        most: bytes that can change: those of all disks.
    """
    rate = change_rate(passes)
    if rate is None:
        return None
    last = passes[-1]
    speed = max((each.changed / each.seconds for each in passes if each.seconds > 0 and each.changed), default=0.0)
    if not speed:
        return _floor(passes, float("inf"))
    apart = last.seconds if at is None else max(0.0, at - last.began)
    changes = rate * apart
    return _floor(passes, speed) + (changes if most is None else min(changes, most)) / speed


def _floor(passes: Sequence[PassFigures], speed: float) -> float:
    """What a pass takes without changes: the middle one of the last passes that had few of them."""
    walks = [each for each in passes if not each.full]
    walks = ([each for each in walks if not each.broken] or walks)[-RECENT_PASSES:]
    few = [each for each in walks if each.changed / speed <= SENDING_SHARE * each.seconds] or walks[-1:]
    return statistics.median(max(0.0, each.seconds - each.changed / speed) for each in few)


def expectation(
    passes: Sequence[PassFigures], *, at: float | None = None, most: int | None = None
) -> tuple[float, float, float] | None:
    """:func:`next_seconds` with its interval: likeliest, least, most seconds."""
    likely = next_seconds(passes, at=at, most=most)
    if likely is None:
        return None
    factor = _factor(passes)
    return likely, likely / factor, likely * factor


def _factor(passes: Sequence[PassFigures]) -> float:
    """How many times the prediction the truth may be, as the last passes and their predictions tell."""
    misses = []
    for count in range(len(passes) - RECENT_PASSES, len(passes)):
        # What broke is no measure, and nor is what was predicted from it alone.
        told = next_seconds(passes[:count], at=passes[count].began) if _whole(passes[: max(count, 0)]) else None
        if told and passes[count].seconds > 0 and not passes[count].broken:
            misses.append(max(told / passes[count].seconds, passes[count].seconds / told))
    if not misses:
        return UNTRIED
    return max(PROVEN if len(misses) >= PROOFS else TRIED, max(misses) * MISSES)


def _whole(passes: Sequence[PassFigures]) -> bool:
    """Whether there is a following pass among them that went through in one piece."""
    return any(not each.full and not each.broken for each in passes)


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
