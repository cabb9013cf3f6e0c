"""What a pass has done so far, counted when it is complete, added up over connections and retries."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Bytes and seconds of a pass; seconds are summed over threads."""

    done: int
    read: int
    changed: int
    zero: int
    wire: int
    read_seconds: float
    scan_seconds: float
    send_seconds: float


class Tally:
    """Thread-safe counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = self._read = self._changed = self._zero = self._wire = 0
        self._read_seconds = self._scan_seconds = self._send_seconds = 0.0
        self.began = time.monotonic()

    def scanned(self, length: int, read_seconds: float, scan_seconds: float) -> None:
        with self._lock:
            self._done += length
            self._read += length
            self._read_seconds += read_seconds
            self._scan_seconds += scan_seconds

    def sampled(self, length: int) -> None:
        """Read to test a tracker's word; the range counts as done when its turn comes."""
        with self._lock:
            self._read += length

    def packed(self, seconds: float) -> None:
        """Compressing is the processor's work as digesting is."""
        with self._lock:
            self._scan_seconds += seconds

    def passed(self, length: int) -> None:
        """A range that needed no reading: a hole, told to the receiver or known to it."""
        with self._lock:
            self._done += length

    def zeros(self, length: int) -> None:
        """A hole, or blocks found to be zero, that were told to the receiver."""
        with self._lock:
            self._zero += length

    def changed_data(self, length: int) -> None:
        with self._lock:
            self._changed += length

    def sent(self, length: int, seconds: float) -> None:
        with self._lock:
            self._wire += length
            self._send_seconds += seconds

    def restart(self) -> None:
        """A retry walks the disk again: progress begins anew, what was sent stays counted."""
        with self._lock:
            self._done = 0

    def counts(self) -> Counts:
        with self._lock:
            return Counts(
                self._done,
                self._read,
                self._changed,
                self._zero,
                self._wire,
                self._read_seconds,
                self._scan_seconds,
                self._send_seconds,
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began
