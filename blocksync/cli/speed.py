"""How fast a pass goes and when it will be done, from what was seen in the last seconds."""

from __future__ import annotations

import itertools
from collections import deque

from blocksync.results import Progress

WINDOW_SECONDS = 15.0


class Speed:
    """Feed it the moments of one pass; it knows the rate over a sliding window.

    The window makes a rate that follows the link within seconds and yet does not jump with every chunk.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._stages: deque[tuple[float, int, int]] = deque()

    def saw_stages(self, now: float, read: int, wire: int) -> None:
        """Note what was read from the source and sent on the wire until ``now``."""
        if self._stages and (read < self._stages[-1][1] or wire < self._stages[-1][2]):
            self._stages.clear()  # another pass
        self._stages.append((now, read, wire))
        while len(self._stages) > 2 and now - self._stages[1][0] >= WINDOW_SECONDS:
            self._stages.popleft()

    def stages(self) -> tuple[float, float]:
        """Bytes a second that are read and sent; 0 until they are known."""
        if len(self._stages) < 2 or self._stages[-1][0] <= self._stages[0][0]:
            return 0.0, 0.0
        (first, read, wire), (last, has_read, has_sent) = self._stages[0], self._stages[-1]
        return (has_read - read) / (last - first), (has_sent - wire) / (last - first)

    def spread(self, left: int) -> float | None:
        """How far off :meth:`remaining` may be, seconds: the standard deviation of the rates within the window.

        None before there are four of them.
        """
        seen = list(self._seen)
        rates = [(done - had) / (at - then) for (then, had), (at, done) in itertools.pairwise(seen) if at > then]
        if len(rates) < 4 or self.rate <= 0:
            return None
        mean = sum(rates) / len(rates)
        deviation = (sum((each - mean) ** 2 for each in rates) / len(rates)) ** 0.5
        # Of the mean of so many seconds, not of one second: the rest of the pass evens out as the window does.
        share = min(deviation / len(rates) ** 0.5 / mean, 1.0) if mean else 1.0
        return left / self.rate * share

    def saw(self, now: float, done: int) -> None:
        """Note that at ``now`` (seconds, any clock that never goes back) ``done`` bytes were dealt with."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()  # a retry began the walk anew
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Bytes of the disk a second; 0 until it is known."""
        if len(self._seen) < 2:
            return 0.0
        (first, had), (last, has) = self._seen[0], self._seen[-1]
        return (has - had) / (last - first) if last > first else 0.0

    def remaining(self, left: int) -> float | None:
        """Seconds until ``left`` more bytes are done; None where nothing moves."""
        return left / self.rate if self.rate > 0 else None


def ratio(progress: Progress) -> float | None:
    """How many changed bytes went into one on the wire; None before there are any."""
    return progress.changed / progress.wire if progress.wire and progress.changed else None
