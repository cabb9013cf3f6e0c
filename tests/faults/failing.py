"""Each operation of a session fails in turn: EIO, a full disk, a short write, a disk that is gone from there on, a
connection that is reset.

What must hold: the command that met the fault ends well or says what happened, with a documented exit code; no
claim is false; the same command again, without the fault, finishes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.bench import Bench
from tests.faults.children import Broken
from tests.faults.injector import Action, Arm, Operations
from tests.faults.kills import Tally

ENDS = ("receiver", "sender", "copy", "verifier", "verified")
RETRY_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to fail."""

    name: str
    action: Action
    operations: Operations
    error: int = errno.EIO

    def arm(self, at: int) -> Arm:
        return Arm(action=self.action, at=at, operations=self.operations, error=self.error)


KINDS = (
    Kind("EIO", Action.FAIL, Operations.FILES),
    Kind("ENOSPC", Action.FAIL, Operations.CHANGES, errno.ENOSPC),
    Kind("short write", Action.SHORT, Operations.CHANGES),
    Kind("EIO from there on", Action.FAIL_ON, Operations.FILES),
    Kind("EACCES", Action.FAIL, Operations.OPENS | Operations.CHANGES, errno.EACCES),
    Kind("ECONNRESET", Action.FAIL, Operations.SOCKETS, errno.ECONNRESET),
    Kind("short send", Action.SHORT, Operations.SENDS),
    Kind("ENOBUFS", Action.FAIL, Operations.SENDS, errno.ENOBUFS),
)


class Failing:
    """A campaign on one bench.

    Args:
        bench: owned by the caller.
        tally: counted into.
    """

    def __init__(self, bench: Bench, tally: Tally) -> None:
        self._bench = bench
        self._tally = tally

    def operations(self, scene: str, end: str, kind: Kind) -> int:
        """How many operations an end makes in a scene, of those that a kind of failure meets."""
        return self._session(scene, end, Arm(action=Action.COUNT, operations=kind.operations))

    def places(self, scene: str, end: str, kind: Kind) -> Iterator[int]:
        """Indexes from 1 on, with some more than were counted: threads make the number vary."""
        yield from range(1, self.operations(scene, end, kind) + 3)

    def run(self, scene: str, end: str, kind: Kind, at: int) -> None:
        """One failure; a broken promise is kept in the tally."""
        try:
            hit = bool(self._session(scene, end, kind.arm(at)))
        except Broken as broken:
            self._tally.fail(f"--scene {scene} --end {end} --kind {kind.name!r} --at {at}: {broken}")
            hit = True
        finally:
            self._bench.clear()
        if hit:
            self._tally.runs += 1
            self._tally.faults[f"{end} {kind.name}"] += 1
            self._tally.faults[f"scene {scene}"] += 1
            self._tally.faults["target a device"] += self._bench.devices

    def _session(self, scene: str, end: str, arm: Arm) -> int:
        """Play a scene with a fault; the operations counted, or whether the fault met one."""
        bench = self._bench
        bench.restore(scene)
        if end == "copy":
            return self._copy(arm)
        receiver = bench.recv(arm if end in ("receiver", "verified") else None)
        counted = 0
        if bench.listening(receiver):
            command = "verify" if end in ("verifier", "verified") else "send"
            sender = bench.send(
                arm if end in ("sender", "verifier") else None, retry=RETRY_SECONDS, command=command
            )
            sender.check()
            if sender.code == 0 and command == "send":
                bench.check_same()
            if end in ("sender", "verifier"):
                counted = sender.seen() if arm.action is Action.COUNT else bool(sender.hit())
            receiver.interrupt()
        receiver.check()
        if end in ("receiver", "verified"):
            counted = receiver.seen() if arm.action is Action.COUNT else bool(receiver.hit())
        bench.check_claims()
        if arm.action is not Action.COUNT:
            bench.finish(None)
        return counted

    def _copy(self, arm: Arm) -> int:
        bench = self._bench
        bench.restore("full")
        folder = bench.live / "local"
        if arm.action is not Action.COUNT:
            # The second pass over changed content has the most kinds of operations.
            bench.copy().check()
            bench.disturb()
        first = bench.copy(arm)
        first.check()
        if first.code == 0:
            bench.check_same()
        for slot in folder.glob("*/slot"):
            bench.check_claims(slot)
        if arm.action is Action.COUNT:
            return first.seen()
        # Before the second run says what it met to the same file.
        hit = bool(first.hit())
        again = bench.copy()
        again.check()
        if again.code:
            raise Broken(f"the same copy again ends with {again.code}: {again.told()}")
        bench.check_same()
        for slot in folder.glob("*/slot"):
            bench.check_claims(slot)
        return hit
