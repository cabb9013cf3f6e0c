"""Predictions beside the truth, made when the truth is known. Pure.

Two ends predict: the estimate, before anything moved, and the passes that were made, for the next one. Only what was
predicted of this pass is compared: the estimate's following passes suppose that one begins when the other has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from blocksync.transfers.convergence import PassFigures, expectation
from blocksync.transfers.record import Forecast

Span = tuple[float, ...]
KEPT_FORECASTS = 400
# A pass that began this much later than the one before it ended, in its own length and in seconds, had more to send.
LATE_SHARE, LATE_SECONDS = 0.5, 2.0
# The estimate gives following passes without an interval; it gives the pause one of this share.
FOLLOWING_SHARE = 0.25


def of_pass(
    passes: Sequence[PassFigures],
    *,
    number: int,
    began: float,
    took: float,
    final: bool,
    first: Span = (),
    following: Sequence[float] = (),
    pause: Span = (),
) -> tuple[Forecast, ...]:
    """What was predicted of a pass that is committed now.

    Args:
        passes: those before it, oldest first.
        number: of the pass; began: on their clock; took: seconds.
        final: the source stood still.
        first, following, pause: what an estimate said of the first pass, those after it, and the final one: seconds,
            as ``(likeliest, least, most)`` but for ``following``; empty where it said nothing.
    """
    what = "pause" if final else "pass"
    found: list[tuple[str, Span]] = []
    if final and pause:
        found.append(("estimate", pause))
    elif first:
        found.append(("estimate", first))
    elif number - 2 in range(len(following)) and passes and _at_once(passes[-1], began):
        likely = following[number - 2]
        found.append(("estimate", (likely, likely * (1 - FOLLOWING_SHARE), likely * (1 + FOLLOWING_SHARE))))
    told = expectation(passes, at=began)
    if told is not None:
        found.append(("passes", _quiet(told) if final else told))
    return tuple(_forecast(what, number, by, span, took) for by, span in found)


def of_verify(span: Span, *, number: int, took: float) -> tuple[Forecast, ...]:
    """What an estimate said of a verify; nothing where it said nothing."""
    return of_work("verify", span, number=number, took=took)


def of_work(what: str, span: Span, *, number: int, took: float) -> tuple[Forecast, ...]:
    """What an estimate said of what is done beside the passes; nothing where it said nothing."""
    return (_forecast(what, number, "estimate", span, took),) if span else ()


def _quiet(span: tuple[float, float, float]) -> Span:
    """Of a final pass: who wrote to the source meanwhile stands still, and leaves disk and processors to it."""
    likely, low, high = span
    return (likely, likely / (1 + 2 * (likely / low - 1)) if low else low, high)


def _at_once(before: PassFigures, began: float) -> bool:
    return began - before.began - before.seconds <= max(LATE_SECONDS, LATE_SHARE * before.seconds)


def _forecast(what: str, number: int, by: str, span: Span, took: float) -> Forecast:
    likely, low, high = span
    return Forecast(what=what, number=number, by=by, likely=likely, low=low, high=high, took=took)
