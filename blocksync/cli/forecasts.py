"""Predictions beside the truth, for the eye: at the end of ``send``, in ``status`` and in ``receipt show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blocksync.cli.quantities import show_seconds

FORECASTS_SHOWN = 12
_PREDICTORS = {"estimate": "the estimate", "passes": "the passes before"}
_HEAD = ("", "predicted", "took", "off by", "predicted by")


def beside_the_truth(forecasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A head and a line a forecast, the newest last; nothing where there are none.

    Of many, what the estimate said is shown in any case, and the newest of the others.

    Args:
        forecasts: objects with the members of :class:`~blocksync.transfers.record.Forecast`.
    """
    if not forecasts:
        return []
    others = [at for at, each in enumerate(forecasts) if each["by"] != "estimate"]
    left = min(len(others), max(0, len(forecasts) - FORECASTS_SHOWN))
    hidden = set(others[:left])
    shown = [each for at, each in enumerate(forecasts) if at not in hidden]
    rows = [_HEAD, *(_row(each) for each in shown)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*([f"not shown here, but with --json: {left} older"] if left else []), *lines]


def _row(forecast: Mapping[str, Any]) -> tuple[str, ...]:
    likely, took = forecast["likely"], forecast["took"]
    interval = f"{show_seconds(forecast['low'])} to {show_seconds(forecast['high'])}"
    off = [f"{100 * (took / likely - 1):+.0f} %"] if likely else []
    if not forecast["low"] <= took <= forecast["high"]:
        off.append("outside")
    return (
        _name(forecast),
        f"{show_seconds(likely)} ({interval})",
        show_seconds(took),
        ", ".join(off),
        _PREDICTORS[forecast["by"]],
    )


def _name(forecast: Mapping[str, Any]) -> str:
    what, number = forecast["what"], forecast["number"]
    if what not in ("pass", "pause"):
        return str(what)
    return f"pass {number}, standstill" if what == "pause" else f"pass {number}"
