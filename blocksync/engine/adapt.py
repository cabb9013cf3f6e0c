"""Chooses the compression level by what a pass gains from it.

Whether compressing pays depends on the link, the content and on who else wants the processor; on one machine's loopback
even a waiting socket means a busy processor. So the level is found by trying: what counts is the rate at which
changed bytes of the disk leave, whatever their size on the wire. How long the threads sit in ``send`` says in which
direction to try first: mostly sending → a higher level; hardly → a lower one. A try that brings less is taken back,
and tried again only after a while, since links and disks change.
"""

from __future__ import annotations

import threading

# From cheap to thorough. None is off.
LADDER: tuple[int | None, ...] = (None, -5, -1, 1, 3, 5, 7, 9, 12, 15)
START_RUNG = 1
# A rate measured over less time or less data says little.
DECIDE_SECONDS = 0.4
DECIDE_BYTES = 2 << 20
# What was measured longer ago than this many decisions is measured again.
STALE_DECISIONS = 12
WORTH_MOVING = 1.04
MOSTLY_SENDING = 0.5


class LevelControl:
    """Thread-safe; shared by the connections of a session.

    Args:
        fixed: a level from the user, 0 for never; None adapts.
        threads: connections that work at once.
    """

    def __init__(self, fixed: int | None, threads: int) -> None:
        self._fixed = fixed
        self._threads = threads
        self._lock = threading.Lock()
        self._rung = START_RUNG
        self._rates: dict[int, tuple[float, int]] = {}
        self._decisions = 0
        self._last = (0.0, 0, 0.0)
        self._started = False

    @property
    def level(self) -> int | None:
        """The level to use now; None for none."""
        if self._fixed is not None:
            return self._fixed or None
        return LADDER[self._rung]

    def observe(self, now: float, changed: int, send_seconds: float) -> None:
        """Look at the totals so far (they only grow) and decide.

        Args:
            now: a monotonic clock, seconds.
            changed: plain bytes sent.
            send_seconds: that all threads together spent in sending.
        """
        if self._fixed is not None:
            return
        with self._lock:
            if not self._started:
                self._started, self._last = True, (now, changed, send_seconds)
                return
            then, had, had_sent = self._last
            passed, gained = now - then, changed - had
            if passed < DECIDE_SECONDS:
                return
            self._last = (now, changed, send_seconds)
            if gained < DECIDE_BYTES:
                return
            self._decisions += 1
            rate = gained / passed
            self._rates[self._rung] = (rate, self._decisions)
            sending = (send_seconds - had_sent) / (passed * self._threads)
            self._rung = self._choose(rate, 1 if sending > MOSTLY_SENDING else -1)

    def _choose(self, rate: float, direction: int) -> int:
        best, best_rate = self._rung, rate * WORTH_MOVING
        for rung in (self._rung + direction, self._rung - direction):
            if not 0 <= rung < len(LADDER):
                continue
            seen = self._rates.get(rung)
            fresh = seen is not None and self._decisions - seen[1] < STALE_DECISIONS
            if not fresh and rung == self._rung + direction:
                return rung
            if fresh and seen is not None and seen[0] > best_rate:
                best, best_rate = rung, seen[0]
        return best
