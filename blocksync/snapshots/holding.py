"""Holding still: devices suspended and filesystems frozen for a moment, undone also by a watcher if this process
cannot.

Three nets, one below the other: the block's end undoes; the watcher undoes when this process is gone or late; the
record in ``/run`` lets ``blocksync check --clean`` undo what even the watcher could not, since it was killed too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from types import TracebackType

from typing_extensions import Self

from blocksync.errors import SnapshotError, from_os_error
from blocksync.platforms import devicemapper
from blocksync.platforms.waiting import readable
from blocksync.platforms.watcher import KEPT, READY, undo
from blocksync.snapshots.records import Records

START_SECONDS = 30.0
ANSWER_SECONDS = 10.0
_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from blocksync.platforms.watcher import main; main()"
_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Hold:
    """What one process holds still.

    Args:
        transfer: whose record it is; that record exists.
        records: where.
        seconds: after which the watcher undoes everything by itself.

    Raises:
        SnapshotError: the watcher does not start; nothing was suspended.
    """

    def __init__(self, transfer: str, records: Records, *, seconds: float) -> None:
        self._transfer = transfer
        self._records = records
        self._seconds = seconds
        self._suspended: list[str] = []
        try:
            self._watcher = subprocess.Popen(
                [sys.executable, "-c", _CODE, _PACKAGE_FOLDER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise from_os_error(error, SnapshotError, "cannot start the watcher") from error
        try:
            self._hear(READY, START_SECONDS)
        except BaseException:
            self._end()
            raise

    def suspend(self, name: str) -> None:
        """Suspend a device-mapper device.

        Raises:
            SnapshotError: the kernel refuses.
        """
        self._suspended.append(name)
        self._announce()
        try:
            devicemapper.suspend(name)
        except OSError as error:
            raise from_os_error(error, SnapshotError, f"cannot suspend {name}") from error

    def check(self) -> None:
        """Make sure that all is still held.

        Raises:
            SnapshotError: the watcher has undone it, since it took too long.
        """
        self._announce()

    def release(self) -> None:
        """Undo everything; may be called twice."""
        undo(self._suspended)
        self._suspended = []
        with contextlib.suppress(SnapshotError):
            self._announce()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _announce(self) -> None:
        self._records.update(self._transfer, suspended=tuple(self._suspended))
        told = {"suspended": self._suspended, "seconds": self._seconds}
        assert self._watcher.stdin is not None
        try:
            os.write(self._watcher.stdin.fileno(), json.dumps(told).encode() + b"\n")
        except OSError as error:
            raise from_os_error(error, SnapshotError, "the watcher is gone") from error
        self._hear(KEPT, ANSWER_SECONDS)

    def _hear(self, wanted: bytes, seconds: float) -> None:
        assert self._watcher.stdout is not None
        heard = b""
        while len(heard) < len(wanted):
            if not readable(self._watcher.stdout.fileno(), seconds):
                raise SnapshotError("the watcher does not answer")
            piece = os.read(self._watcher.stdout.fileno(), len(wanted) - len(heard))
            if not piece:
                raise SnapshotError("the watcher is gone")
            heard += piece
        if heard != wanted:
            raise SnapshotError(
                f"it took more than {self._seconds:.0f} s, so what was suspended runs again",
                remedy="try again when the machine is less busy",
            )

    def _end(self) -> None:
        assert self._watcher.stdin is not None
        assert self._watcher.stdout is not None
        self._watcher.stdin.close()
        self._watcher.stdout.close()
        try:
            self._watcher.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._watcher.kill()
            self._watcher.wait()
