"""How fast a pass goes and when it will be done, from what was seen in the last seconds."""

from __future__ import annotations

from collections import deque

from blocksync.options import Progress

WINDOW_SECONDS = 15.0


class Speed:
    """Feed it the moments of one pass; it knows the rate over a sliding window.

    The window makes a rate that follows the link within seconds and yet does not jump with every chunk.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

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
