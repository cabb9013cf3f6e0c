"""A transfer from its first pass to the cutover: passes at an interval, until they are short, and the final one.

It decides nothing itself: :class:`~blocksync.transfers.policy.Policy` says what comes next, the clock is given, and
every change of state is durable before the next thing begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from blocksync import __version__
from blocksync.engine.cancel import Cancel
from blocksync.engine.clock import Clock
from blocksync.engine.governor import LiveLimits, check_latency, govern
from blocksync.engine.group import Group, Member
from blocksync.engine.logbook import Logbook
from blocksync.engine.outlook import Outlook
from blocksync.engine.reach import Reach
from blocksync.engine.receipts import obtain, write_receipt
from blocksync.engine.removal import remove_from
from blocksync.engine.transfers import age
from blocksync.engine.verify import Verifier
from blocksync.errors import (
    BlocksyncError,
    GroupIncompleteError,
    UsageError,
)
from blocksync.limits import Limits, Schedule
from blocksync.options import DiskSpec, TransferOptions
from blocksync.results import Removal, SendResult
from blocksync.snapshots.freeze import Quiet, Stillness, mounts_over, refuse_own_files, standing_still
from blocksync.sources.base import Source
from blocksync.transfers.door import Door
from blocksync.transfers.figures import TransferResult
from blocksync.transfers.policy import Action, Next, Policy
from blocksync.transfers.receipt import sender_part
from blocksync.transfers.record import DiskRecord, VerifyRecord, parse
from blocksync.transfers.states import TransferState, check_validity
from blocksync.transfers.store import TransferStore

Opening = Callable[[], AbstractContextManager[list[Source]]]
# A follower that lost its receiver looks for it at least this often.
LONGEST_RETRY_SECONDS = 60.0


class Operation:
    """One run of a transfer in this process.

    Args:
        state: the state folder, prepared.
        reach: the receiver.
        opening: opens all sources anew, as they are.
        snapshots: opens them anew as of one instant, for each pass but the final one: what stands still needs no
            snapshot, and what is frozen allows none. The same as ``opening`` when left out.
        disks: what goes where; every slot is named.
        options: of the caller.
        cancel: stops it, resumably.
        clock: for waits and records.
    """

    def __init__(
        self,
        *,
        state: Path,
        reach: Reach,
        opening: Opening,
        disks: Sequence[DiskSpec],
        options: TransferOptions,
        cancel: Cancel,
        clock: Clock | None = None,
        snapshots: Opening | None = None,
    ) -> None:
        check_validity(options.validity_days)
        check_latency(options.limits, [disk.source for disk in disks])
        if (
            options.verify
            and not options.final
            and (options.follow is not None or options.until_converged is not None)
        ):
            raise UsageError(
                "verifying compares with what is read then, and a source in use has changed by then",
                remedy="verify together with --final, or after a single pass",
            )
        self._state_dir = state
        self._reach = reach
        self._opening = opening
        self._snapshots = snapshots or opening
        self._disks = tuple(disks)
        self._options = options
        self._cancel = cancel
        self._clock = clock or Clock()
        self._policy = Policy(follow=options.follow, until_converged=options.until_converged, final=options.final)
        self._wanted = _limits(options)
        self._limits = LiveLimits(self._wanted)
        self._logbook: Logbook
        self._final_now = False
        self._not_before = 0.0
        self._still_since = 0.0

    @property
    def transfer(self) -> str:
        return self._logbook.record.id

    def run(self) -> TransferResult:
        """Work until the policy says it is enough.

        Raises:
            InterruptedTransferError: cancelled, or stopped by ``blocksync stop``.
            NotConvergingError: passes do not get short.
            TransferRunningError: another process works on it.
            BlocksyncError: as for a pass.
        """
        store = TransferStore(self._state_dir)
        age(self._state_dir, store, self._clock.now())
        self._limits.change(self._wanted)
        with self._opening() as sources:
            records = [
                DiskRecord(source=disk.source, identity=source.identity, slot=disk.slot, size=source.size)
                for disk, source in zip(self._disks, sources, strict=True)
            ]
        live = store.take(
            to=self._options.send.to,
            receiver=self._reach.fingerprint,
            disks=records,
            validity_days=self._options.validity_days,
            now=self._clock.now(),
        )
        with contextlib.closing(live):
            self._logbook = Logbook(
                live,
                self._options,
                self._clock.now,
                disks=len(self._disks),
                outlook=_outlook(self._reach, records),
            )
            live.move(live.record.state, self._clock.now(), mode=_mode(self._options))
            self._logbook.tell(
                "transfer", disks=[dataclasses.asdict(disk) for disk in records], to=self._options.send.to
            )
            with Door(store.folder(live.record.id), self._answer), self._cancel.watching(self._clock.poke):
                try:
                    return self._loop()
                except BlocksyncError as error:
                    self._logbook.note_end(error)
                    raise

    # -- passes -----------------------------------------------------------------------------------------------

    def _loop(self) -> TransferResult:
        began = self._clock.now()
        while True:
            step = self._policy.next(
                self._logbook.figures, final_now=self._final_now, earlier=self._logbook.earlier
            )
            if step.action in (Action.END, Action.GIVE_UP):
                break
            if self._waits(step):
                continue
            final = step.action is Action.FINAL
            try:
                self._final() if final else self._pass("")
            except BlocksyncError as error:
                self._cancel.check(error)
                if final or self._options.follow is None or not _may_pass(error):
                    raise
                # A follower outlives its receiver's absence; the pass goes on where it was.
                pause = min(self._options.follow, LONGEST_RETRY_SECONDS)
                self._not_before = self._clock.now() + pause
                self._logbook.say(f"{error.message}; trying again in {pause:.0f} s")
                continue
            if final:
                return self._end(began, final=True)
        if step.action is Action.GIVE_UP:
            raise self._logbook.gives_up()
        self._logbook.move(TransferState.WAITING, until=0.0)
        return self._end(began, final=False)

    def _end(self, began: float, *, final: bool) -> TransferResult:
        wanted = self._options.remove_excluded
        # A difference is a result; the target then stays as it was sent.
        same = all(each.identical for each in self._logbook.record.verified)
        removals = self._remove_excluded() if same and (wanted or (wanted is None and final)) else []
        if final or self._options.receipt is not None:
            self._get_receipt(removals)
        return dataclasses.replace(self._logbook.result(began), removals=tuple(removals))

    def _waits(self, step: Next) -> bool:
        """Sleep where the step is not due yet; whether it slept."""
        due = step.at if step.action is Action.FINAL else max(step.at, self._not_before)
        now = self._clock.now()
        if now >= due:
            return False
        self._logbook.move(TransferState.WAITING, until=due)
        self._clock.wait(due - now)
        self._cancel.check()
        return True

    def _pass(self, consistency: str, still: Stillness | None = None, *, frozen: bool = False) -> None:
        self._cancel.check()
        self._logbook.move(TransferState.PREPARING, until=0.0)
        began = self._clock.now()
        with (self._snapshots if still is None else self._opening)() as sources:
            governed = [
                govern(source, disk.source, self._limits, self._cancel, frozen=frozen)
                for source, disk in zip(sources, self._disks, strict=True)
            ]
            members = [
                Member(source=source, slot=disk.slot) for source, disk in zip(governed, self._disks, strict=True)
            ]
            wanted = dataclasses.replace(
                self._options.send, progress=self._logbook.progress, transfer=self.transfer
            )
            group = Group(
                members, lambda slot: self._reach.route(slot, own=True), wanted, self._cancel, self._limits.link
            )
            try:
                result = group.run()
            except GroupIncompleteError as error:
                self._logbook.note_disks(error.outcomes, began)
                raise
            if still is not None:
                still.check()
            stood = time.monotonic() - self._still_since
            self._logbook.note_pass(result, began, consistency, final=still is not None, stood=stood)
            if self._options.verify and (still is not None or not self._options.final):
                # What a map calls unused was not sent: both must go by the same.
                self._verify(governed if frozen else sources)

    def _final(self) -> None:
        options = self._options
        hooks = bool(options.pre_final or options.post_final)
        paths = [disk.source for disk in self._disks]
        mounts = () if hooks else tuple(mounts_over([path for path in paths if _is_path(path)]))
        refuse_own_files(mounts, [self._state_dir, *options.keep_quiet])
        if not hooks and not mounts:
            self._logbook.say("nothing of the source is mounted here: taken as quiet already")
        quiet = Quiet(
            mounts=mounts,
            before=options.pre_final,
            after=options.post_final,
            seconds=options.freeze_seconds,
            environment=(
                ("BLOCKSYNC_TRANSFER", self.transfer),
                ("BLOCKSYNC_SOURCES", "\n".join(paths)),
            ),
        )
        self._logbook.move(TransferState.PREPARING, until=0.0)
        with standing_still(quiet) as still:
            self._still_since = time.monotonic()
            self._pass("application" if hooks else "crash" if mounts else "", still, frozen=bool(mounts))
            pause = time.monotonic() - self._still_since
        self._logbook.move(TransferState.FINISHED, pause=pause)

    def _verify(self, sources: Sequence[Source]) -> None:
        self._logbook.move(TransferState.PROCESSING)
        found = []
        for source, disk in zip(sources, self._disks, strict=True):
            with self._reach.route(disk.slot, own=True) as route:
                result = Verifier(
                    source,
                    route.control,
                    disk.slot,
                    self._logbook.progress,
                    self._cancel,
                    all_blocks=self._options.send.all_blocks,
                    exclude=self._options.send.exclude,
                ).run()
            record = VerifyRecord(
                slot=result.slot,
                identical=result.identical,
                at=self._clock.now(),
                seconds=result.seconds,
                differing_bytes=result.differing_bytes,
            )
            found.append(record)
            self._logbook.tell("verified", **dataclasses.asdict(result))
        self._logbook.note_verified(found)

    def _remove_excluded(self) -> list[Removal]:
        removals = [remove_from(self._reach, each) for each in self._results() if each.excluded_names]
        for removal in removals:
            self._logbook.tell("removed", slot=removal.slot, removed=removal.removed, remaining=removal.remaining)
        return removals

    def _results(self) -> list[SendResult]:
        """Of the last pass, one a disk."""
        last = self._logbook.last
        return [each.result for each in last.disks if each.result is not None] if last else []

    def _get_receipt(self, removals: Sequence[Removal]) -> None:
        results = self._results()
        part = sender_part(
            self._logbook.record,
            fingerprint=self._reach.identity.fingerprint,
            version=__version__,
            issued=self._clock.now(),
            unreadable={each.slot: each.unreadable for each in results},
            unused={each.slot: each.unused for each in results},
            excluded={each.slot: (each.excluded_files, each.excluded_bytes) for each in results},
            removed={each.slot: each.removed for each in removals},
        )
        try:
            raw = obtain(part, self._reach.control.receipt, self._reach.identity, self._reach.fingerprint)
        except BlocksyncError as error:
            # The pass is committed all the same; only where the receipt was asked for by name is it the result.
            if self._options.receipt is not None:
                raise
            self._logbook.say(f"there is no receipt: {error.message}")
            return
        path = self._logbook.live.keep("receipt.json", raw)
        if self._options.receipt is not None:
            write_receipt(self._options.receipt, raw)
            path = self._options.receipt
        self._logbook.move(self._logbook.record.state, receipt=str(path))
        self._logbook.tell("receipt", path=str(path))

    # -- the local control socket -----------------------------------------------------------------------------

    def _answer(self, said: dict[str, Any]) -> dict[str, Any]:
        wanted = said.get("op")
        if wanted == "status":
            return {"limits": dataclasses.asdict(self._limits.limits), "moments": self._logbook.moments()}
        if wanted == "stop":
            reason = "blocksync stop asked for it"
            threading.Thread(target=self._cancel.set, args=(reason,), name="stopped", daemon=True).start()
            return {}
        if wanted == "final":
            self._final_now = True
            self._clock.poke()
            return {}
        if wanted == "limit":
            limits = parse(Limits, {**dataclasses.asdict(self._limits.limits), **said.get("limits", {})})
            check_latency(limits, [disk.source for disk in self._disks])
            self._limits.change(limits)
            return {"limits": dataclasses.asdict(limits)}
        raise ValueError(f"there is no {wanted!r}")


def _outlook(reach: Reach, disks: Sequence[DiskRecord]) -> Outlook | None:
    """What an estimate said; of several disks together it says nothing."""
    if len(disks) != 1:
        return None
    return reach.outlooks().of(disks[0].slot, disks[0].identity, disks[0].size)


def _may_pass(error: BlocksyncError) -> bool:
    """Whether trying again later can help."""
    if isinstance(error, GroupIncompleteError):
        return all(cause.retryable for cause in error.causes)
    return error.retryable


def _is_path(source: str) -> bool:
    return "://" not in source and Path(source).exists()


def _limits(options: TransferOptions) -> Limits:
    """A transfer's limits; a plain rate for its passes is its bandwidth, and is changed as that is.

    Raises:
        UsageError: two rates are given.
    """
    rate = options.send.bwlimit
    if not rate:
        return options.limits
    if options.limits.bandwidth != Schedule():
        raise UsageError("the send's bwlimit and the transfer's limits both give a bandwidth", remedy="give one")
    return dataclasses.replace(options.limits, bandwidth=Schedule(otherwise=rate))


def _mode(options: TransferOptions) -> str:
    """What was asked for, in words for a table."""
    words = []
    if options.follow is not None:
        words.append(f"every {options.follow:.0f} s")
    if options.until_converged is not None:
        words.append(f"until a pass takes {options.until_converged:.0f} s")
    if options.final:
        words.append("final pass")
    return ", ".join(words) or "one pass"


@contextlib.contextmanager
def already_open(sources: list[Source]) -> Iterator[list[Source]]:
    """For :class:`Operation`'s ``opening``: sources that are the caller's to close."""
    yield sources
