"""What people ask of a transfer: the age of the target's content, the change rate, the length of the pause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from blocksync.results import DiskOutcome, Removal
from blocksync.transfers.convergence import PassFigures, change_rate, next_seconds
from blocksync.transfers.record import Forecast, PassRecord, TransferRecord
from blocksync.transfers.states import TransferState, expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferStatus:
    """A transfer as it is now. Times in seconds, those named as moments since 1970; amounts in bytes.

    Args:
        id: 16 hex digits.
        to: the receiver.
        state: one of :class:`~blocksync.transfers.states.TransferState`; ``stopped`` also for one whose process
            was killed.
        disks: source, slot and generation of each.
        created, touched, expires: moments: made, last worked on, given up if nobody works on it until then.
        until: the moment of the next pass while it waits; 0 otherwise.
        mode: what it was begun for: one pass, following, converging, final.
        pass_count: committed passes.
        passes: the last of them, with bytes and seconds.
        fault: code, message and remedy of what it failed of; None where it did not.
        receipt: path of the signed receipt; empty before the final pass.
        limits: in force; None while no process works on it.
        running: whether a process works on it.
        lag: age of the target's content: since the beginning of the last committed pass of the disk that is furthest
            behind; None before every disk has one.
        change_rate: bytes a second that the source changes; None before two passes are there.
        predicted_pause: how long a final pass would take now; None before it can be told and after the final pass.
        pause: seconds that the source stood still at the end, verifying included; None before the final pass.
        forecasts: what was predicted and what it took, as :class:`~blocksync.transfers.record.Forecast` has them.
        moments: of the running pass, by slot, as :class:`~blocksync.results.Progress` has them.
    """

    id: str
    to: str
    state: str
    running: bool
    disks: tuple[dict[str, Any], ...]
    created: float
    touched: float
    expires: float
    until: float
    mode: str
    pass_count: int
    lag: float | None
    change_rate: float | None
    predicted_pause: float | None
    fault: dict[str, Any] | None
    receipt: str
    passes: tuple[dict[str, Any], ...] = ()
    limits: dict[str, Any] | None = None
    moments: dict[str, Any] = field(default_factory=dict)
    pause: float | None = None
    forecasts: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferResult:
    """How a transfer's run ended; see :class:`TransferStatus` for the figures.

    Args:
        transfer: its id.
        state: as of :class:`TransferStatus`.
        passes: committed in this run.
        seconds: that the run took.
        predicted_pause: seconds that a final pass would take now; None before it can be told.
        disks: of the last pass.
        verified: by slot, whether both sides were identical; empty where nothing was verified.
        consistency: of the last pass, the weakest of all disks: ``live``, ``crash`` or ``application``.
        receipt: path of the signed receipt; empty where there is none.
        pause: seconds that the source stood still, verifying included; None without a final pass.
        forecasts: what was predicted of this transfer's passes, and what they took.
        removals: of the names of excluded files, where the transfer was the one to remove them.
    """

    transfer: str
    state: str
    passes: int
    seconds: float
    consistency: str
    predicted_pause: float | None
    disks: tuple[DiskOutcome, ...] = ()
    verified: dict[str, bool] = field(default_factory=dict)
    receipt: str = ""
    pause: float | None = None
    forecasts: tuple[Forecast, ...] = ()
    removals: tuple[Removal, ...] = ()


def whole_passes(passes: Sequence[PassRecord]) -> list[PassFigures]:
    """The passes of all disks together."""
    by_number: dict[int, list[PassRecord]] = {}
    for each in passes:
        by_number.setdefault(each.number, []).append(each)
    last: dict[str, int] = {}
    gaps: set[int] = set()
    for each in sorted(passes, key=lambda found: found.number):
        if skipped(each.generation, last.get(each.slot)):
            gaps.add(each.number)
        last[each.slot] = each.generation
    return [
        PassFigures(
            began=min(disk.began for disk in disks),
            seconds=max(disk.seconds for disk in disks),
            changed=sum(disk.changed for disk in disks),
            full=any(disk.kind == "full" for disk in disks),
            broken=number in gaps or any(disk.resumed or disk.retries for disk in disks),
        )
        for number, disks in sorted(by_number.items())
    ]


def skipped(generation: int, before: int | None) -> bool:
    """Whether the receiver committed more between two passes than is recorded: one that was stopped at its end."""
    return before is not None and generation > before + 1


def lag(record: TransferRecord, now: float) -> float | None:
    """Age of the target's content in seconds; see :class:`TransferStatus`."""
    newest: dict[str, float] = {}
    for each in record.passes:
        newest[each.slot] = max(each.began, newest.get(each.slot, 0.0))
    if any(disk.slot not in newest for disk in record.disks):
        return None
    return max(0.0, now - min(newest[disk.slot] for disk in record.disks))


def status_of(
    record: TransferRecord, now: float, *, running: bool, told: dict[str, Any] | None = None
) -> TransferStatus:
    """A record in figures.

    Args:
        running: whether a process answers for it.
        told: what that process says.
    """
    figures = whole_passes(record.passes)
    busy = {TransferState.PREPARING, TransferState.SYNCING, TransferState.PROCESSING}
    state = record.state if running or record.state not in busy else TransferState.STOPPED
    told = told or {}
    return TransferStatus(
        id=record.id,
        to=record.to,
        state=state.value,
        running=running,
        disks=tuple(asdict(disk) for disk in record.disks),
        created=record.created,
        touched=record.touched,
        expires=expires_at(record.touched, record.validity_days),
        until=record.until if running else 0.0,
        mode=record.mode,
        pass_count=record.pass_count,
        lag=lag(record, now),
        change_rate=change_rate(figures),
        predicted_pause=(
            None
            if record.state is TransferState.FINISHED
            else next_seconds(figures, at=now, most=sum(disk.size for disk in record.disks))
        ),
        fault=asdict(record.fault) if record.fault else None,
        receipt=record.receipt,
        passes=tuple(asdict(each) for each in record.passes),
        limits=told.get("limits"),
        moments=told.get("moments", {}),
        pause=record.pause or None,
        forecasts=tuple(asdict(each) for each in record.forecasts),
    )
