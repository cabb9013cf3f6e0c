"""The states of a transfer, as a table. Pure: no clock, no file.

Terminal states are never left: who sends again after one begins a new transfer, which finds the receiver's slot as it
is and so costs no more than an incremental pass.
"""

from __future__ import annotations

import enum

from blocksync.errors import StateError

DAY_SECONDS = 86400
DEFAULT_VALIDITY_DAYS = 30
MIN_VALIDITY_DAYS = 7
MAX_VALIDITY_DAYS = 90
COLLECT_AFTER_DAYS = 7
"""How long an expired transfer can still be looked at."""


class TransferState(str, enum.Enum):
    """What a transfer is doing."""

    READY = "ready"
    """Made, never begun."""
    PREPARING = "preparing"
    """Opens sources, reaches the receiver, plans."""
    SYNCING = "syncing"
    """A pass is moving data."""
    PROCESSING = "processing"
    """Commits, verifies, thaws."""
    WAITING = "waiting"
    """Between two passes; everything so far is committed."""
    STOPPED = "stopped"
    """Somebody said stop, or the process was killed; resumable."""
    FAILED = "failed"
    """Ended with an error; resumable once that is mended."""
    FINISHED = "finished"
    """The final pass is committed."""
    EXPIRED = "expired"
    """Nobody touched it within its validity."""


_S = TransferState
RUNNING = frozenset({_S.PREPARING, _S.SYNCING, _S.PROCESSING})
TERMINAL = frozenset({_S.FINISHED, _S.EXPIRED})
_ENDS = {_S.STOPPED, _S.FAILED}

MOVES: dict[TransferState, frozenset[TransferState]] = {
    _S.READY: frozenset({_S.PREPARING, _S.STOPPED, _S.EXPIRED}),
    _S.PREPARING: frozenset({_S.SYNCING, _S.PROCESSING, _S.WAITING, *_ENDS}),
    # A disk may go back to syncing where its commit met a broken link and the pass is taken up again.
    _S.SYNCING: frozenset({_S.PREPARING, _S.PROCESSING, _S.WAITING, *_ENDS}),
    _S.PROCESSING: frozenset({_S.PREPARING, _S.SYNCING, _S.WAITING, _S.FINISHED, *_ENDS}),
    _S.WAITING: frozenset({_S.PREPARING, _S.EXPIRED, *_ENDS}),
    _S.STOPPED: frozenset({_S.PREPARING, _S.EXPIRED}),
    _S.FAILED: frozenset({_S.PREPARING, _S.STOPPED, _S.EXPIRED}),
    _S.FINISHED: frozenset({_S.EXPIRED}),
    _S.EXPIRED: frozenset(),
}


def check_move(now: TransferState, to: TransferState) -> None:
    """Raise where the table has no such move.

    Raises:
        StateError: it has none.
    """
    if to not in MOVES[now]:
        raise StateError(f"a transfer that is {now.value} cannot become {to.value}")


def check_validity(days: int) -> int:
    """The days, where they are allowed.

    Raises:
        StateError: they are not.
    """
    if not MIN_VALIDITY_DAYS <= days <= MAX_VALIDITY_DAYS:
        raise StateError(
            f"a validity of {days} days is not between {MIN_VALIDITY_DAYS} and {MAX_VALIDITY_DAYS}",
            remedy=f"give {MIN_VALIDITY_DAYS} to {MAX_VALIDITY_DAYS} days",
        )
    return days


def expires_at(touched: float, validity_days: int) -> float:
    """When a transfer that nobody touches any more expires; seconds since 1970."""
    return touched + validity_days * DAY_SECONDS


def has_expired(state: TransferState, touched: float, validity_days: int, now: float) -> bool:
    """Whether an idle transfer's validity is over; a running one never expires."""
    return state not in RUNNING and now >= expires_at(touched, validity_days)


def to_collect(touched: float, validity_days: int, now: float) -> bool:
    """Whether what is kept of an expired transfer is to be removed."""
    return now >= expires_at(touched, validity_days) + COLLECT_AFTER_DAYS * DAY_SECONDS
