"""The time by which a transfer passes, waits and keeps its records."""

from __future__ import annotations

import threading
import time


class Clock:
    """Wall time and naps; tests have their own."""

    def __init__(self) -> None:
        self._poked = threading.Event()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Sleep, at most a minute at once, or until poked."""
        # The wall clock may be set while we sleep: whoever waits for a moment asks again.
        self._poked.wait(min(seconds, 60.0))
        self._poked.clear()

    def poke(self) -> None:
        """Wake whoever sleeps, from any thread."""
        self._poked.set()
