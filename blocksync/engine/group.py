"""Several disks of one machine as one transfer.

Each disk has its own session, journal and retries, so each one's state says what is true of it alone: a disk that
fails neither takes back nor advances another's. What they share is the caller's wishes: the bandwidth, the number of
connections in all, one way to stop, and one result.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from blocksync.engine.cancel import Cancel
from blocksync.engine.pace import Pace
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.errors import (
    BlocksyncError,
    GroupIncompleteError,
    IncompleteError,
    PeerError,
    TrustError,
    UsageError,
)
from blocksync.options import SendOptions
from blocksync.results import DiskOutcome, GroupResult, SendResult
from blocksync.sources.base import Source

# More disks than these wait for their turn: buffers, threads and the target's disks are finite.
DISKS_AT_ONCE = 4

OpenRoute = Callable[[str], AbstractContextManager[Route]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A disk of the group: its open source, and the receiver's name for its target."""

    source: Source
    slot: str


def match_slots(named: Sequence[tuple[str, str]], offered: Sequence[str]) -> list[str]:
    """The slot of each source: the one that was named, or the offered ones by order where none is named.

    Args:
        named: ``(source, slot)`` as typed; the slot is empty where none was.
        offered: the slots that the receiver grants, in the order it offers them.

    Raises:
        UsageError: a source or slot is there twice, or order alone does not tell.
        PeerError: a single source, and several slots to choose from.
        TrustError: there is no slot for it.
    """
    for what, names in (("source", [name for name, _ in named]), ("slot", [slot for _, slot in named if slot])):
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"{what} {name} is named twice", remedy="name each disk and each slot once")
    open_slots = [slot for slot in offered if slot not in {taken for _, taken in named}]
    missing = sum(1 for _, slot in named if not slot)
    if missing and len(named) == 1 and not offered:
        raise TrustError(
            "this sender has no grant for any slot",
            remedy="pair again with a fresh code from blocksync recv, or name another slot with --slot",
        )
    if missing and len(named) == 1 and len(offered) > 1:
        raise PeerError(
            f"this sender may use several slots: {', '.join(offered)}", remedy="name one of them with --slot"
        )
    if missing and missing != len(open_slots):
        there = ", ".join(open_slots) or "none"
        raise UsageError(
            f"{missing} sources are given without a slot, and the receiver has {len(open_slots)} for them: {there}",
            remedy="say which goes where, as SOURCE=SLOT",
        )
    waiting = iter(open_slots)
    return [slot or next(waiting) for _, slot in named]


class Group:
    """Sends each member to its slot.

    Args:
        members: their sources stay the caller's to close; slots are named.
        route: opens a member's own way to the receiver, by slot.
        options: of the caller; ``slot`` is not looked at, ``connections`` is for all members together.
        cancel: ends everything, resumably, when set.
        pace: shared with others; one for ``options.bwlimit`` when left out.
    """

    def __init__(
        self,
        members: Sequence[Member],
        route: OpenRoute,
        options: SendOptions,
        cancel: Cancel,
        pace: Pace | None = None,
    ) -> None:
        self._members = tuple(members)
        self._route = route
        self._options = options
        self._cancel = cancel
        self._pace = pace or Pace(options.bwlimit)
        self._lock = threading.Lock()
        self._next = 0
        self._outcomes: dict[int, DiskOutcome] = {}
        self._errors: dict[int, BlocksyncError] = {}

    def run(self) -> GroupResult:
        """One pass of every disk; a disk's failure does not stop the others.

        Raises:
            InterruptedTransferError: cancelled.
            GroupIncompleteError: some disks failed; it holds what became of each. A group of one raises its error.
        """
        began = time.monotonic()
        at_once = min(len(self._members), DISKS_AT_ONCE)
        threads = [
            threading.Thread(target=self._work, args=(at_once,), name=f"disk-{number}", daemon=True)
            for number in range(at_once)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcomes = tuple(self._outcomes[index] for index in range(len(self._members)))
        if self._errors:
            self._raise(outcomes)
        return GroupResult(disks=outcomes, seconds=time.monotonic() - began)

    def _raise(self, outcomes: tuple[DiskOutcome, ...]) -> None:
        first = self._errors[min(self._errors)]
        self._cancel.check(first)
        if len(self._members) == 1:
            raise first
        failed = "; ".join(
            f"{outcomes[index].source} to slot {outcomes[index].slot}: {error.message}"
            for index, error in sorted(self._errors.items())
        )
        done = [outcome.source for outcome in outcomes if outcome.result is not None]
        raise GroupIncompleteError(
            f"{len(self._errors)} of {len(outcomes)} disks failed: {failed}",
            remedy=first.remedy,
            safe=f"committed: {', '.join(done)}" if done else None,
            outcomes=outcomes,
            causes=tuple(self._errors.values()),
        ) from first

    def _work(self, at_once: int) -> None:
        while True:
            with self._lock:
                index, self._next = self._next, self._next + 1
            if index >= len(self._members):
                return
            member = self._members[index]
            outcome = DiskOutcome(source=member.source.name, slot=member.slot)
            try:
                outcome = dataclasses.replace(outcome, result=self._send(member, at_once))
            except BlocksyncError as error:
                self._errors[index] = error
                outcome = dataclasses.replace(outcome, code=error.code, error=error.message)
            except Exception as error:
                self._errors[index] = IncompleteError(f"unexpected: {type(error).__name__}: {error}")
                raise
            finally:
                self._outcomes[index] = outcome

    def _send(self, member: Member, at_once: int) -> SendResult:
        options = dataclasses.replace(
            self._options, slot=member.slot, connections=max(1, self._options.connections // at_once)
        )
        with self._route(member.slot) as route:
            return Sender(member.source, route, options, self._cancel, self._pace).run()
