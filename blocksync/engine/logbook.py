"""What a run of a transfer notes and tells: its state, its passes and how they ended, events and progress.

Whatever is noted is durable before the next thing begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

from blocksync.engine.outlook import Outlook
from blocksync.errors import BlocksyncError, InterruptedTransferError, NotConvergingError
from blocksync.options import TransferOptions
from blocksync.results import DiskOutcome, GroupResult, Progress, SendResult, TransferEvent
from blocksync.transfers.convergence import PassFigures, next_seconds
from blocksync.transfers.figures import TransferResult, skipped, whole_passes
from blocksync.transfers.forecasts import KEPT_FORECASTS, of_pass, of_verify
from blocksync.transfers.record import Fault, Forecast, PassRecord, TransferRecord, VerifyRecord
from blocksync.transfers.states import TransferState
from blocksync.transfers.store import LiveTransfer

# Weakest first: a transfer is as consistent as its weakest disk.
_CONSISTENCIES = ("live", "crash", "crash-group", "application")


class Logbook:
    """Of one run; ``progress`` and ``moments`` may come from any thread.

    Args:
        live: the transfer's record, held by this process.
        options: whose callbacks are told.
        now: seconds since 1970.
        disks: how many the transfer has.
        outlook: what an estimate said of the transfer of one disk.
    """

    def __init__(
        self,
        live: LiveTransfer,
        options: TransferOptions,
        now: Callable[[], float],
        *,
        disks: int,
        outlook: Outlook | None = None,
    ) -> None:
        self.live = live
        self.earlier = whole_passes(live.record.passes)
        self.figures: list[PassFigures] = []
        self.last: GroupResult | None = None
        self._options = options
        self._now = now
        self._disks = disks
        self._outlook = outlook
        self._lock = threading.Lock()
        self._moments: dict[str, Progress] = {}

    @property
    def record(self) -> TransferRecord:
        return self.live.record

    def moments(self) -> dict[str, dict[str, Any]]:
        """The last progress of each slot."""
        with self._lock:
            return {slot: dataclasses.asdict(moment) for slot, moment in self._moments.items()}

    @property
    def history(self) -> list[PassFigures]:
        """All passes of the transfer that are known and were not final."""
        return [*self.earlier, *self.figures]

    def note_pass(
        self, group: GroupResult, began: float, consistency: str, *, final: bool, stood: float = 0.0
    ) -> None:
        """A pass is committed.

        Args:
            group: its result.
            began: on the wall clock.
            consistency: of a final pass; empty for what the disks say.
            final: the source stands still, and ``stood`` so for so many seconds.
        """
        number = self.record.pass_count + 1
        results = [outcome.result for outcome in group.disks if outcome.result is not None]
        records = tuple(_pass_record(each, number, began, consistency, final=final) for each in results)
        figures = PassFigures(
            began=began,
            seconds=group.seconds,
            changed=sum(each.changed for each in results),
            full=any(each.kind == "full" for each in results),
            broken=any(each.resumed or each.retries or self._after_a_gap(each) for each in results),
        )
        forecasts = self._compared(results, figures, number, stood if final else None)
        if not final:
            self.figures.append(figures)
        self.last = group
        record = self.record.with_pass(records)
        self.move(
            TransferState.PROCESSING,
            passes=record.passes,
            pass_count=record.pass_count,
            verified=(),
            receipt="",
            forecasts=(*record.forecasts, *forecasts)[-KEPT_FORECASTS:],
        )
        self.tell(
            "pass",
            number=number,
            seconds=group.seconds,
            changed=figures.changed,
            predicted=[dataclasses.asdict(each) for each in forecasts],
            predicted_next=None if final else next_seconds(self.history),
            disks=[dataclasses.asdict(each) for each in records],
        )

    def _after_a_gap(self, result: SendResult) -> bool:
        recorded = (each.generation for each in reversed(self.record.passes) if each.slot == result.slot)
        return skipped(result.generation, next(recorded, None))

    def _compared(
        self, results: Sequence[SendResult], figures: PassFigures, number: int, stood: float | None
    ) -> tuple[Forecast, ...]:
        """What was predicted of a pass; one that was resumed or begun again on the way is not the one predicted.

        It was begun again where it lost its connections, or waited for the receiver to read its target again.
        """
        if figures.broken:
            return ()
        alone = results[0] if len(results) == 1 else None
        outlook = self._outlook
        return of_pass(
            self.history,
            number=number,
            began=figures.began,
            # Of one disk its own time, which its result tells; of several until the last one has arrived.
            took=stood if stood is not None else alone.seconds if alone else figures.seconds,
            final=stood is not None,
            first=(alone.predicted or ()) if alone else (),
            following=outlook.passes if outlook else (),
            pause=outlook.pause if outlook and self.record.pass_count else (),
        )

    def note_verified(self, found: Sequence[VerifyRecord]) -> None:
        """The disks of the last pass were verified."""
        told = of_verify(
            self._outlook.verify if self._outlook else (),
            number=self.record.pass_count,
            took=sum(each.seconds for each in found),
        )
        kept = (*self.record.forecasts, *told)[-KEPT_FORECASTS:]
        self.move(TransferState.PROCESSING, verified=tuple(found), forecasts=kept)

    def note_disks(self, outcomes: Sequence[object], began: float) -> None:
        """Some disks arrived and some did not: each one's lag is its own."""
        number = self.record.pass_count + 1
        results = [each.result for each in outcomes if isinstance(each, DiskOutcome) and each.result is not None]
        record = self.record.with_pass(
            tuple(_pass_record(each, number, began, "", final=False) for each in results)
        )
        self.move(self.record.state, passes=record.passes, pass_count=record.pass_count, verified=())

    def note_end(self, error: BlocksyncError) -> None:
        # The error is what counts: that it could not be noted too must not hide it.
        with contextlib.suppress(BlocksyncError):
            if isinstance(error, InterruptedTransferError):
                self.move(TransferState.STOPPED, until=0.0)
                return
            fault = Fault(code=error.code, message=error.message[:2000], remedy=error.remedy[:1000])
            if self.record.state is not TransferState.FINISHED:
                self.move(TransferState.FAILED, until=0.0, fault=fault)

    def gives_up(self) -> NotConvergingError:
        predicted = next_seconds(self.history) or 0.0
        return NotConvergingError(
            f"the next pass would take {predicted:.0f} s, and passes do not get shorter than that "
            f"({self._options.until_converged:.0f} s were asked for)",
            safe="everything so far is committed",
        )

    def result(self, began: float) -> TransferResult:
        record = self.record
        last = [each for each in record.passes if each.number == record.pass_count]
        return TransferResult(
            transfer=record.id,
            state=record.state.value,
            passes=len(self.figures) + (record.state is TransferState.FINISHED),
            seconds=self._now() - began,
            consistency=min((each.consistency for each in last), key=_CONSISTENCIES.index, default="live"),
            predicted_pause=next_seconds(self.history),
            disks=self.last.disks if self.last is not None else (),
            verified={each.slot: each.identical for each in record.verified},
            receipt=record.receipt,
            pause=record.pause or None,
            forecasts=record.forecasts,
        )

    def move(self, to: TransferState, **changes: object) -> None:
        before = self.record.state
        self.live.move(to, self._now(), **changes)
        if to is not before:
            self.tell("state", state=to.value, until=self.record.until)

    def tell(self, kind: str, **facts: object) -> None:
        if self._options.on_event is not None:
            self._options.on_event(TransferEvent(kind=kind, transfer=self.record.id, facts=facts))

    def say(self, message: str) -> None:
        if self._options.send.progress is not None:
            self._options.send.progress(Progress(stage="waiting", message=message))

    def progress(self, progress: Progress) -> None:
        with self._lock:
            self._moments[progress.slot] = progress
            state = self.record.state
            if progress.stage == "transferring" and state is TransferState.PREPARING:
                self.move(TransferState.SYNCING)
            elif state is TransferState.SYNCING and self._all_committing():
                self.move(TransferState.PROCESSING)
        if self._options.send.progress is not None:
            self._options.send.progress(progress)

    def _all_committing(self) -> bool:
        stages = [moment.stage for moment in self._moments.values()]
        return len(stages) == self._disks and set(stages) <= {"committing", "done"} and "committing" in stages


def _pass_record(result: SendResult, number: int, began: float, consistency: str, *, final: bool) -> PassRecord:
    better = consistency and _CONSISTENCIES.index(consistency) > _CONSISTENCIES.index(result.consistency)
    return PassRecord(
        number=number,
        slot=result.slot,
        kind="final" if final else result.kind,
        generation=result.generation,
        began=began,
        seconds=result.seconds,
        read=result.read,
        changed=result.changed,
        zero=result.zero,
        wire=result.wire,
        resent=result.resent,
        resumed=result.resumed,
        retries=result.retries,
        bottleneck=result.bottleneck,
        root=result.root,
        consistency=consistency if better else result.consistency,
    )
