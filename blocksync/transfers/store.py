"""Where a sender's transfers lie, and who may work on them.

::

    STATE/transfers/ID/           one transfer: record.json, receipt.json, its local control socket
    STATE/running/SOURCE/         held by the process that sends this source

A process holds the folder of its transfer and those of its sources while it works; the locks vanish with the
process, so a kill leaves nothing to clean up. Whoever only looks needs no lock: the record is replaced whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from blocksync.errors import (
    BlocksyncError,
    StateBusyError,
    StateDamagedError,
    StateError,
    TransferRunningError,
    TransferUnknownError,
    from_os_error,
)
from blocksync.manifest.folder import Folder, OsFolder
from blocksync.transfers.record import RECORD_BYTES, DiskRecord, TransferRecord, decode, encode
from blocksync.transfers.states import TERMINAL, TransferState, check_move, has_expired, to_collect

RECORD = "record.json"
_FRESH = "fresh"


class LiveTransfer:
    """A transfer that this process works on; every change is durable when it returns. Thread-safe.

    Args:
        path: of the transfer's folder.
        folder: the same, held.
        record: as it stands in the folder, or a new one, which is written.
        exits: what else is held.
    """

    def __init__(self, path: Path, folder: Folder, record: TransferRecord, exits: contextlib.ExitStack) -> None:
        self._path = path
        self._folder = folder
        self._lock = threading.Lock()
        self._exits = exits
        self.record = record

    def write(self) -> None:
        """Make the record durable as it is.

        Raises:
            StateError: it cannot be written.
        """
        with self._lock:
            self._write(self.record)

    def move(self, to: TransferState, now: float, **changes: object) -> None:
        """Change the state, and what else changes with it.

        Raises:
            StateError: there is no such move, or it cannot be written.
        """
        with self._lock:
            if to is not self.record.state:
                check_move(self.record.state, to)
            self._write(dataclasses.replace(self.record, state=to, touched=now, **changes))  # type: ignore[arg-type]

    def keep(self, name: str, content: bytes) -> Path:
        """Put a file beside the record, durably; its path.

        Raises:
            StateError: it cannot be written.
        """
        with self._lock:
            self._replace(name, content)
        return self._path / name

    def _replace(self, name: str, content: bytes) -> None:
        with contextlib.closing(self._folder.open(_FRESH, create=True)) as file:
            file.pwrite(0, content)
            file.sync()
        self._folder.replace(_FRESH, name)
        self._folder.sync()

    def _write(self, record: TransferRecord) -> None:
        self._replace(RECORD, encode(record))
        self.record = record

    def close(self) -> None:
        """Let go of the transfer and of its sources; may be called twice."""
        self._exits.close()


class TransferStore:
    """The transfers of a state folder.

    Args:
        state: prepared.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._root = state / "transfers"

    def folder(self, transfer: str) -> Path:
        return self._root / transfer

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot list {self._root}") from error

    def load(self, transfer: str) -> TransferRecord:
        """A transfer's record.

        Raises:
            TransferUnknownError: there is no such transfer.
            StateError: it is damaged or cannot be read.
        """
        path = self.folder(transfer) / RECORD
        try:
            with open(path, "rb") as file:
                raw = file.read(RECORD_BYTES + 1)
        except FileNotFoundError as error:
            raise TransferUnknownError(f"there is no transfer {transfer}") from error
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot read {path}") from error
        if len(raw) > RECORD_BYTES:
            raise StateDamagedError(
                f"the transfer's record {path} is too long", remedy="blocksync delete removes it"
            )
        return decode(raw, str(path))

    def load_all(self) -> list[TransferRecord]:
        """All that can be read, oldest first; a damaged one is left out here and told by :meth:`load`."""
        found = []
        for name in self.names():
            with contextlib.suppress(TransferUnknownError, StateDamagedError):
                found.append(self.load(name))
        return sorted(found, key=lambda record: (record.created, record.id))

    def find(self, text: str) -> TransferRecord:
        """The transfer that a person means: by the beginning of its id, or by its source.

        Raises:
            TransferUnknownError: none or several are meant.
        """
        records = self.load_all()
        exact = [record for record in records if record.id == text]
        meant = exact or [
            record
            for record in records
            if (len(text) >= 4 and record.id.startswith(text)) or text in {disk.source for disk in record.disks}
        ]
        if len(meant) > 1:
            meant = [record for record in meant if record.state not in TERMINAL] or meant
        if len(meant) != 1:
            which = f": {', '.join(record.id for record in meant)}" if meant else ""
            count = f"{len(meant)} transfers are" if meant else "no transfer is"
            raise TransferUnknownError(f"{count} meant by {text!r}{which}")
        return meant[0]

    def take(
        self,
        *,
        to: str,
        receiver: bytes,
        disks: Sequence[DiskRecord],
        validity_days: int,
        now: float,
    ) -> LiveTransfer:
        """Take up the transfer of these disks to this receiver, or begin one; holds it and its sources.

        Raises:
            TransferRunningError: another process sends one of the sources.
            StateError: the state folder cannot be used.
        """
        with contextlib.ExitStack() as exits:
            for disk in disks:
                exits.enter_context(self._running(disk))
            record = self._existing(receiver, disks, now)
            if record is None:
                record = TransferRecord(
                    id=secrets.token_hex(8),
                    to=to,
                    receiver=receiver.hex(),
                    disks=tuple(disks),
                    state=TransferState.READY,
                    created=now,
                    touched=now,
                )
            folder = exits.enter_context(self._held(record))
            record = dataclasses.replace(record, to=to, disks=tuple(disks), validity_days=validity_days, fault=None)
            live = LiveTransfer(self.folder(record.id), folder, record, exits.pop_all())
        try:
            if live.record.state not in (TransferState.READY, TransferState.WAITING):
                # Its process was killed, or it ended with an error: from here on both are the same.
                live.record = dataclasses.replace(live.record, state=TransferState.STOPPED)
            live.write()
        except BaseException:
            live.close()
            raise
        return live

    def hold(self, record: TransferRecord) -> LiveTransfer:
        """Hold an idle transfer in order to change it.

        Raises:
            TransferRunningError: a process works on it.
        """
        with contextlib.ExitStack() as exits:
            folder = exits.enter_context(self._held(record))
            return LiveTransfer(self.folder(record.id), folder, self.load(record.id), exits.pop_all())

    def remove(self, transfer: str) -> None:
        """Remove what is kept of an idle transfer.

        Raises:
            TransferRunningError: a process works on it.
            StateError: it cannot be removed.
        """
        path = self.folder(transfer)
        if not path.is_dir():
            raise TransferUnknownError(f"there is no transfer {transfer}")
        try:
            with OsFolder(path):
                shutil.rmtree(path)
        except StateBusyError as error:
            raise TransferRunningError(
                f"transfer {transfer} is running", remedy="stop it first: blocksync stop"
            ) from error
        except OSError as error:
            raise from_os_error(error, StateError, f"cannot remove {path}") from error

    def age(self, now: float) -> tuple[list[str], list[TransferRecord]]:
        """Let idle transfers expire, and remove those whose time is over.

        Returns:
            ids that expired, and the records that were collected.
        """
        expired: list[str] = []
        collected: list[TransferRecord] = []
        for record in self.load_all():
            over = has_expired(record.state, record.touched, record.validity_days, now)
            crashed = has_expired(TransferState.STOPPED, record.touched, record.validity_days, now)
            if not over and not crashed:
                continue
            # Whoever works on it holds it: then it is none of ours. What looks running and is not was killed.
            with contextlib.suppress(BlocksyncError):
                if to_collect(record.touched, record.validity_days, now):
                    self.remove(record.id)
                    collected.append(record)
                elif record.state is not TransferState.EXPIRED:
                    with contextlib.closing(self.hold(record)) as live:
                        live.record = dataclasses.replace(live.record, state=TransferState.EXPIRED)
                        live.write()
                    expired.append(record.id)
        return expired, collected

    def _existing(self, receiver: bytes, disks: Sequence[DiskRecord], now: float) -> TransferRecord | None:
        key = {(disk.identity, disk.slot) for disk in disks}
        for record in reversed(self.load_all()):
            same = record.receiver == receiver.hex() and {(d.identity, d.slot) for d in record.disks} == key
            old = has_expired(TransferState.STOPPED, record.touched, record.validity_days, now)
            if same and record.state not in TERMINAL and not old:
                return record
        return None

    def _held(self, record: TransferRecord) -> OsFolder:
        try:
            return OsFolder(self.folder(record.id))
        except StateBusyError as error:
            raise TransferRunningError(
                f"transfer {record.id} is running in another process: {error.message}"
            ) from error

    def _running(self, disk: DiskRecord) -> OsFolder:
        name = hashlib.sha256(disk.identity.encode()).hexdigest()[:32]
        try:
            return OsFolder(self._state / "running" / name)
        except StateBusyError as error:
            raise TransferRunningError(
                f"{disk.source} is being sent by another process: {error.message}",
            ) from error
