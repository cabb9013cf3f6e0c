"""Telling a receiver that works from a way to it that carries nothing any more.

A connection that dies is noticed by TCP. One that something on the way holds open, acknowledging what it does not pass
on, is not: the sender waits for room, or for an answer, for ever. The receiver's heartbeats say how much it has
worked; when that stands still, and so does a connection that the sender waits for, nobody is about to end the wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

# Longer than whatever TCP itself would mend, and than a receiver takes to come to a frame that has arrived.
HELD_SECONDS = 60.0

Standing = tuple[str, int, int]
"""What a connection waits for, the bytes that it sent, and those that were acknowledged."""


class WorkTime:
    """The time in which connections are at work, of all of them together; what is under way counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._seconds = 0.0
        self._until = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """One more is at work inside."""
        self._turn(1)
        try:
            yield
        finally:
            self._turn(-1)

    @property
    def seconds(self) -> float:
        """Until now."""
        self._turn(0)
        return self._seconds

    def _turn(self, more: int) -> None:
        with self._lock:
            now = time.perf_counter()
            self._seconds += self._at_work * (now - self._until)
            self._until = now
            self._at_work += more


class Watch:
    """Of one session: each heartbeat is told to it."""

    def __init__(self) -> None:
        self.busy = 0
        """What the receiver said last of its work, milliseconds."""
        self._seen: list[tuple[Standing | None, float]] = []

    def held(self, standings: Sequence[Standing | None], busy: int, now: float) -> bool:
        """Whether a connection, and the receiver's work, have stood still for too long.

        Args:
            standings: of the connections, in the same order each time; None for one that waits for nothing.
            busy: what the receiver says of its work, milliseconds.
            now: seconds of a clock that does not jump.
        """
        moved = busy != self.busy or len(standings) != len(self._seen)
        self.busy = busy
        self._seen = [
            (each, now) if moved or each is None or each != self._seen[index][0] else self._seen[index]
            for index, each in enumerate(standings)
        ]
        return any(now - since > HELD_SECONDS for _, since in self._seen)
