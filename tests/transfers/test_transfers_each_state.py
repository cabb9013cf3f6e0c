"""``status``, ``stop`` and ``delete`` on a transfer in each of its states; nothing runs, so what ran was killed."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import pytest

from blocksync import api
from blocksync.errors import TransferUnknownError
from blocksync.transfers.record import DiskRecord
from blocksync.transfers.states import DAY_SECONDS, TERMINAL, TransferState
from blocksync.transfers.store import TransferStore

BUSY = {TransferState.PREPARING, TransferState.SYNCING, TransferState.PROCESSING}


def make(state: Path, which: TransferState, *, touched: float, validity_days: int = 30) -> str:
    """A transfer whose process left it in that state; its id."""
    disk = DiskRecord(source="/dev/sda", identity="device:1", slot="a", size=4096)
    store = TransferStore(state)
    taken = store.take(to="host", receiver=bytes(32), disks=(disk,), validity_days=validity_days, now=touched)
    with contextlib.closing(taken) as live:
        live.record = dataclasses.replace(live.record, state=which, touched=touched)
        live.write()
        return live.record.id


@pytest.mark.parametrize("which", TransferState)
def test_each_state_is_shown_stopped_and_forgotten(tmp_path: Path, which: TransferState) -> None:
    now = time.time()
    name = make(tmp_path, which, touched=now)
    (shown,) = api.transfers(tmp_path)
    # A process that was killed leaves a transfer that can be resumed, whatever it was at.
    assert shown.state == ("stopped" if which in BUSY else which.value)
    assert (shown.id, shown.running) == (name, False)
    with pytest.raises(TransferUnknownError):
        api.stop_transfer(name, tmp_path, final=True)
    stopped = api.stop_transfer("/dev/sda", tmp_path)
    assert stopped.state == (which.value if which in TERMINAL else "stopped")
    assert api.delete_transfer("/dev/sda", tmp_path).id == name
    assert api.transfers(tmp_path) == []
    with pytest.raises(TransferUnknownError):
        api.delete_transfer(name, tmp_path)


@pytest.mark.parametrize("days", [7, 30, 90])
def test_what_nobody_touched_expires_and_is_collected_a_week_later(tmp_path: Path, days: int) -> None:
    ago = time.time() - days * DAY_SECONDS
    for which, age, left in (
        (TransferState.WAITING, -60.0, "waiting"),
        (TransferState.WAITING, 60.0, "expired"),
        (TransferState.FAILED, 7 * DAY_SECONDS - 60, "expired"),
        (TransferState.STOPPED, 7 * DAY_SECONDS + 60, None),
    ):
        state = tmp_path / str(age)
        state.mkdir()
        make(state, which, touched=ago - age, validity_days=days)
        # Looked at twice: one look may expire it, and only the next one collect it.
        api.transfers(state)
        assert [each.state for each in api.transfers(state)] == ([] if left is None else [left])
