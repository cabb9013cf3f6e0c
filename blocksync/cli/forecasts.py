"""Predictions beside the truth, for the eye: at the end of ``send``, in ``status`` and in ``receipt show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blocksync.cli.quantities import show_seconds

FORECASTS_SHOWN = 12
_PREDICTORS = {"estimate": "by the estimate", "passes": "by the passes before"}


def beside_the_truth(forecasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a forecast, the newest last.

    Args:
        forecasts: objects with the members of :class:`~blocksync.transfers.record.Forecast`.
    """
    shown = forecasts[-FORECASTS_SHOWN:]
    left = len(forecasts) - len(shown)
    rows = [(_name(each), _told(each), _truth(each)) for each in shown]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
    lines = [f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]}" for row in rows]
    return [*([f"{left} older ones are in --json"] if left else []), *lines]


def _name(forecast: Mapping[str, Any]) -> str:
    what, number = forecast["what"], forecast["number"]
    if what not in ("pass", "pause"):
        return str(what)
    return f"pass {number}, source standing still" if what == "pause" else f"pass {number}"


def _told(forecast: Mapping[str, Any]) -> str:
    interval = f"{show_seconds(forecast['low'])} to {show_seconds(forecast['high'])}"
    return f"predicted {show_seconds(forecast['likely'])} ({interval}) {_PREDICTORS[forecast['by']]}"


def _truth(forecast: Mapping[str, Any]) -> str:
    likely, took = forecast["likely"], forecast["took"]
    off = f"off by {100 * (took / likely - 1):+.0f} %, " if likely else ""
    within = "within" if forecast["low"] <= took <= forecast["high"] else "outside"
    return f"took {show_seconds(took)}: {off}{within} the interval"
