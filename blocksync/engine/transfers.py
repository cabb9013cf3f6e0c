"""Looking at a sender's transfers from outside, and speaking to those that run."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blocksync.engine.outlook import Outlooks
from blocksync.engine.statedir import copy_folder
from blocksync.errors import BlocksyncError, StateError, TransferRunningError, TransferUnknownError
from blocksync.limits import Limits
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import OsFolder
from blocksync.snapshots.cleaning import drop_kept
from blocksync.transfers.door import ask
from blocksync.transfers.figures import TransferStatus, status_of
from blocksync.transfers.record import TransferRecord, parse
from blocksync.transfers.states import TERMINAL, TransferState
from blocksync.transfers.store import TransferStore


def list_transfers(state: Path) -> list[TransferStatus]:
    """All of them, oldest first; see :func:`blocksync.api.transfers`."""
    store = TransferStore(state)
    now = time.time()
    age(state, store, now)
    return [_status(store, record, now) for record in store.load_all()]


def age(state: Path, store: TransferStore, now: float) -> None:
    """Let idle transfers expire, and remove all that is kept here of those whose time is over."""
    _, collected = store.age(now)
    for record in collected:
        _drop_hints(state, store, record)


def stop(state: Path, which: str, *, final: bool) -> TransferStatus:
    """See :func:`blocksync.api.stop_transfer`."""
    store = TransferStore(state)
    record = store.find(which)
    answered = ask(store.folder(record.id), {"op": "final" if final else "stop"})
    if answered is None and final:
        raise TransferUnknownError(
            f"transfer {record.id} is not running, so that it could make a final pass",
            remedy="blocksync send … --final makes one",
        )
    if answered is None and record.state not in TERMINAL:
        with contextlib.closing(store.hold(record)) as live:
            live.record = dataclasses.replace(live.record, state=TransferState.STOPPED, touched=time.time())
            live.write()
    status = _status(store, store.load(record.id), time.time())
    # What answered was at work; it may be gone by the second question, before its record says how it ended.
    return dataclasses.replace(status, running=status.running or answered is not None)


def delete(state: Path, which: str) -> TransferStatus:
    """See :func:`blocksync.api.delete_transfer`."""
    store = TransferStore(state)
    if which in store.names() and which not in {record.id for record in store.load_all()}:
        # Its record cannot be read: there is nothing else to find it by.
        store.remove(which)
        gone = TransferRecord(
            id=which, to="", receiver="", disks=(), state=TransferState.EXPIRED, created=0.0, touched=0.0
        )
        return status_of(gone, time.time(), running=False)
    record = store.find(which)
    if ask(store.folder(record.id), {"op": "status"}) is not None:
        raise TransferRunningError(f"transfer {record.id} is running", remedy="stop it first: blocksync stop")
    status = _status(store, record, time.time())
    store.remove(record.id)
    _drop_hints(state, store, record)
    return status


def limit(state: Path, which: str, changes: Mapping[str, object]) -> Limits:
    """See :func:`blocksync.api.limit_transfer`."""
    store = TransferStore(state)
    if which:
        record = store.find(which)
    else:
        running = [each for each in list_transfers(state) if each.running]
        if len(running) != 1:
            raise TransferUnknownError(
                f"{len(running)} transfers are running: say which one is meant"
                if running
                else "no transfer is running"
            )
        record = store.load(running[0].id)
    said = ask(store.folder(record.id), {"op": "limit", "limits": dict(changes)})
    if said is None:
        raise TransferUnknownError(
            f"transfer {record.id} is not running", remedy="give its limits to blocksync send when it is begun"
        )
    try:
        return parse(Limits, said["limits"])
    except (ValueError, KeyError) as error:
        raise StateError("the transfer's answer cannot be understood") from error


def _status(store: TransferStore, record: TransferRecord, now: float) -> TransferStatus:
    told: dict[str, Any] | None = None
    with contextlib.suppress(StateError):
        told = ask(store.folder(record.id), {"op": "status"})
    return status_of(record, now, running=told is not None, told=told)


def _drop_hints(state: Path, store: TransferStore, record: TransferRecord) -> None:
    """What only saves work or is compared once; another transfer of the same slot keeps its own.

    Those are copies of manifests, snapshots that are kept to tell what changes, and predictions.
    """
    in_use = {(each.receiver, disk.slot) for each in store.load_all() for disk in each.disks}
    for disk in record.disks:
        if (record.receiver, disk.slot) not in in_use:
            receiver = bytes.fromhex(record.receiver)
            folder = copy_folder(state, receiver, disk.slot)
            if folder.is_dir():
                # What cannot be removed now is found by check --clean --kept.
                with contextlib.suppress(BlocksyncError), OsFolder(folder) as held:
                    drop_kept(ManifestCopy(held).any_token() or {})
            shutil.rmtree(folder, ignore_errors=True)
            Outlooks(state, receiver).drop(disk.slot)
