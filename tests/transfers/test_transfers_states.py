"""States of a transfer, and what comes of time passing."""

from __future__ import annotations

import itertools

import pytest

from blocksync.errors import StateError
from blocksync.transfers.states import (
    DAY_SECONDS,
    MOVES,
    RUNNING,
    TERMINAL,
    TransferState,
    check_move,
    check_validity,
    has_expired,
    to_collect,
)


def test_the_table_knows_every_state_and_no_way_back() -> None:
    assert set(MOVES) == set(TransferState)
    assert MOVES[TransferState.EXPIRED] == frozenset()
    assert MOVES[TransferState.FINISHED] == {TransferState.EXPIRED}
    for now, to in itertools.product(TransferState, TransferState):
        if to in MOVES[now]:
            check_move(now, to)
        else:
            with pytest.raises(StateError, match=f"{now.value} cannot become {to.value}"):
                check_move(now, to)


def test_every_state_but_the_first_can_be_reached_and_all_that_run_can_be_stopped() -> None:
    reached, waiting = {TransferState.READY}, [TransferState.READY]
    while waiting:
        fresh = MOVES[waiting.pop()] - reached
        reached |= fresh
        waiting += fresh
    assert reached == set(TransferState)
    for state in RUNNING:
        assert {TransferState.STOPPED, TransferState.FAILED} <= MOVES[state]
    for state in set(TransferState) - RUNNING - TERMINAL:
        assert {TransferState.PREPARING, TransferState.EXPIRED} <= MOVES[state]


def test_time_passes_for_idle_transfers_alone() -> None:
    month = 30 * DAY_SECONDS
    assert not has_expired(TransferState.WAITING, 1000.0, 30, 1000.0 + month - 1)
    assert has_expired(TransferState.WAITING, 1000.0, 30, 1000.0 + month)
    assert not has_expired(TransferState.SYNCING, 1000.0, 30, 1000.0 + 100 * month)
    assert not to_collect(1000.0, 30, 1000.0 + month + 7 * DAY_SECONDS - 1)
    assert to_collect(1000.0, 30, 1000.0 + month + 7 * DAY_SECONDS)


@pytest.mark.parametrize(("days", "allowed"), [(6, False), (7, True), (90, True), (91, False)])
def test_validity_has_bounds(days: int, allowed: bool) -> None:
    if allowed:
        assert check_validity(days) == days
    else:
        with pytest.raises(StateError, match="between 7 and 90"):
            check_validity(days)
