"""A token that says stop, from any thread or signal handler."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from blocksync.errors import BlocksyncError, InterruptedTransferError


class Cancel:
    """Set once, never unset."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._watchers: list[Callable[[], None]] = []
        self._reason = "interrupted"

    def set(self, reason: str = "") -> None:
        """Say stop. Takes locks: from a signal handler, let a thread call it.

        Args:
            reason: for people, where it is not just an interruption.
        """
        if reason and not self.is_set():
            self._reason = reason
        self._event.set()
        with self._lock:
            watchers = tuple(self._watchers)
        for watcher in watchers:
            watcher()

    @contextlib.contextmanager
    def watching(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Call ``watcher`` when it is set during the block, or at once where it is set already.

        Args:
            watcher: makes blocked calls return; may be called from any thread, more than once.
        """
        with self._lock:
            self._watchers.append(watcher)
        try:
            if self.is_set():
                watcher()
            yield
        finally:
            with self._lock:
                self._watchers.remove(watcher)

    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def event(self) -> threading.Event:
        """For whoever waits on an event anyway; set only through :meth:`set`."""
        return self._event

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep, but wake when cancelled; returns whether it was."""
        return self._event.wait(seconds)

    def error(self) -> InterruptedTransferError:
        return InterruptedTransferError(self._reason, safe="everything the receiver acknowledged is durable")

    def check(self, cause: BlocksyncError | None = None) -> None:
        """Raise when cancelled.

        Raises:
            InterruptedTransferError: from ``cause``.
        """
        if self.is_set():
            raise self.error() from cause
