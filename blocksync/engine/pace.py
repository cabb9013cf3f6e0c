"""A rate that several threads keep to together, and that may change while they wait: a token bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# How much may go out at once after a pause: enough for one frame, little enough not to fill a router's queue.
BURST_SECONDS = 0.25
# Longest nap, so that a rate that was raised meanwhile is felt at once.
NAP_SECONDS = 0.25
LEAST_NAP_SECONDS = 0.001


class Pace:
    """Args: rate: bytes a second, or what tells them each time; 0 for no limit."""

    def __init__(self, rate: int | Callable[[], int]) -> None:
        self._rate = rate if callable(rate) else lambda: rate
        self._lock = threading.Lock()
        self._then = time.monotonic()
        # What may be taken now, in bytes; below zero it is owed.
        self._tokens = 0.0

    def wait(self, size: int, stop: threading.Event) -> None:
        """Wait until ``size`` more bytes may pass, or until ``stop`` is set."""
        while True:
            with self._lock:
                rate = self._rate()
                if not rate:
                    self._then, self._tokens = time.monotonic(), 0.0
                    return
                now = time.monotonic()
                self._tokens = min(self._tokens + (now - self._then) * rate, BURST_SECONDS * rate)
                self._then = now
                if self._tokens >= 0:
                    self._tokens -= size
                    return
                owed = -self._tokens / rate
            if stop.wait(min(max(owed, LEAST_NAP_SECONDS), NAP_SECONDS)):
                return
