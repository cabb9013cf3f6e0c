"""``--bwlimit``: a token bucket that all connections of a session share."""

from __future__ import annotations

import threading
import time

# How much may go out at once after a pause: enough for one frame, little enough not to fill a router's queue.
BURST_SECONDS = 0.25


class Pace:
    """Args: bytes_per_second: 0 for no limit."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, size: int, stop: threading.Event) -> None:
        """Wait until ``size`` more bytes may be sent, or until ``stop`` is set."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS)
            self._free_at += size / self._rate
            delay = self._free_at - now - BURST_SECONDS
        if delay > 0:
            stop.wait(delay)
