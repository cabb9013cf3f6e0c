"""``--log-file``: what a command said and did, as JSON lines, in files that do not grow without bounds.

Each line has ``at`` (UTC), ``pid``, ``event`` and, where there is one, ``transfer``: the id that the sender chose and
told the receiver, so that both ends' logs can be laid side by side. Writing never fails a transfer: a log that cannot
be written is told once.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from logging.handlers import RotatingFileHandler
from pathlib import Path

from blocksync.errors import StateError, from_os_error
from blocksync.results import Progress

FILE_BYTES = 10 << 20
FILES_KEPT = 5
PROGRESS_SECONDS = 60.0


class Logbook:
    """A log file that is renamed to ``.1`` … ``.5`` when it reaches 10 MiB.

    Args:
        path: of the newest file; made with mode 0600.
        lost: told once, when it cannot be written any more.
        most: bytes of one file.
        clock: monotonic seconds.

    Raises:
        StateError: it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        lost: Callable[[str], None],
        *,
        most: int = FILE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.transfer = ""
        self._lost: Callable[[str], None] | None = lost
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, tuple[str, float]] = {}
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            self._file = _Rotating(path, most, self._fail)
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot write the log {path}") from error
        logging.getLogger("blocksync").addHandler(_Forward(self))

    def write(self, event: str, facts: Mapping[str, object]) -> None:
        """One line."""
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": at, "pid": os.getpid(), "event": event}
        if self.transfer:
            line["transfer"] = self.transfer
        shown = {name: value for name, value in facts.items() if name not in _SECRET}
        text = json.dumps({**line, **shown}, default=str)
        self._file.emit(logging.makeLogRecord({"msg": text}))

    def progress(self, progress: Progress) -> None:
        """A moment: at once where the stage is new or there is a remark, else once a minute and slot."""
        now = self._clock()
        with self._lock:
            stage, at = self._said.get(progress.slot, ("", 0.0))
            if stage == progress.stage and not progress.message and now - at < PROGRESS_SECONDS:
                return
            self._said[progress.slot] = (progress.stage, now)
        from blocksync.cli.display import facts_of

        self.write("progress", facts_of(progress))

    def close(self) -> None:
        """Close the file; what comes later is lost."""
        self._file.close()

    def _fail(self, error: BaseException) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost(f"the log {self.path} cannot be written any more: {error}")


# A pairing code is worth a receiver for fifteen minutes.
_SECRET = frozenset({"code"})


class _Rotating(RotatingFileHandler):
    def __init__(self, path: Path, most: int, fail: Callable[[BaseException], None]) -> None:
        super().__init__(path, maxBytes=most, backupCount=FILES_KEPT, encoding="utf-8", delay=True)
        self._fail = fail

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        import sys

        del record
        error = sys.exc_info()[1]
        if error is not None:
            self._fail(error)


class _Forward(logging.Handler):
    """What the library logs goes to the same file."""

    def __init__(self, book: Logbook) -> None:
        super().__init__(logging.INFO)
        self._book = book

    def emit(self, record: logging.LogRecord) -> None:
        self._book.write("log", {"level": record.levelname, "logger": record.name, "message": record.getMessage()})
