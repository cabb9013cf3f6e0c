"""A token that says stop, from any thread or signal handler."""

from __future__ import annotations

import threading

from blocksync.errors import BlocksyncError, InterruptedTransferError


class Cancel:
    """Set once, never unset."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep, but wake when cancelled; returns whether it was."""
        return self._event.wait(seconds)

    def error(self) -> InterruptedTransferError:
        return InterruptedTransferError("interrupted", safe="everything the receiver acknowledged is durable")

    def check(self, cause: BlocksyncError | None = None) -> None:
        """Raise when cancelled.

        Raises:
            InterruptedTransferError: from ``cause``.
        """
        if self.is_set():
            raise self.error() from cause
