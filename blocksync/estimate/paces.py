"""The fastest and the slowest that something went for a while. Pure.

A machine may have two paces, and what one sees of it in seconds may be either. What was fast for a moment can be fast
for longer; a moment of standstill says nothing of a whole pass, so the slow side is looked at for longer.
"""

from __future__ import annotations

from collections.abc import Sequence

FAST_SECONDS = 1.0
SLOW_SECONDS = 2.0

Marks = Sequence[tuple[float, float]]
"""``(seconds, bytes)``: so much was done by then; both grow."""


def extremes(marks: Marks, mean: float) -> tuple[float, float]:
    """The least and the most bytes a second that held for a while.

    Args:
        mean: of all; it lies between them, and is both where the marks are too short to tell.
    """
    return min([mean, *rates(marks, SLOW_SECONDS)]), max([mean, *rates(marks, FAST_SECONDS)])


def rates(marks: Marks, stretch: float) -> list[float]:
    """Bytes a second in every stretch of at least so many seconds; at least 1."""
    found: list[float] = []
    end = 0
    for began, before in marks:
        while end < len(marks) and marks[end][0] - began < stretch:
            end += 1
        if end == len(marks):
            break
        found.append(max((marks[end][1] - before) / (marks[end][0] - began), 1.0))
    return found
