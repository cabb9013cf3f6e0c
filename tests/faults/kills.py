"""SIGKILL at the N-th operation of either end, or in the middle of a write; what was claimed holds, and the same
command again finishes.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.bench import SCENES, Bench
from tests.faults.children import WAIT_SECONDS, Broken, Child
from tests.faults.injector import Action, Arm

ENDS = ("sender", "receiver", "verifier")
KILLS = (Action.KILL_BEFORE, Action.KILL_AFTER, Action.TEAR)
# System calls for runs under strace, whose counters are each thread's own.
STRACE_CALLS = (
    "write", "pwrite64", "fdatasync", "fsync", "rename", "openat", "read", "close", "pread64", "fallocate", "flock",
    "futex", "newfstatat", "epoll_wait", "mmap", "connect", "unlink",
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What a campaign did."""

    runs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        """Keep a broken promise, and tell it at once: a campaign may run for hours."""
        self.failures.append(what)
        print(what[:2000], file=sys.stderr, flush=True)  # noqa: T201 - a program's output


class Kills:
    """A campaign on one bench.

    Args:
        bench: owned by the caller.
        tally: counted into.
    """

    def __init__(self, bench: Bench, tally: Tally) -> None:
        self._bench = bench
        self._tally = tally
        self._counts: dict[tuple[str, str], int] = {}

    def run(self, seed: int, *, strace: bool = False) -> None:
        """One kill, chosen by the seed; a broken promise is kept in the tally."""
        chance = random.Random(seed)
        scene = chance.choice(SCENES)
        end = chance.choice(("sender", "receiver", "receiver", "sender", "verifier"))
        if end == "verifier" and scene in ("pairing", "full"):
            scene = "incremental"
        try:
            if strace:
                call, at = chance.choice(STRACE_CALLS), int(chance.paretovariate(1.0)) % 40 + 1
                prefix = (
                    "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                    "-e", f"inject={call}:signal=SIGKILL:when={at}",
                )  # fmt: skip
                hit = self._kill(scene, end, None, prefix)
                what = f"strace {call}"
            else:
                at = 1 + chance.randrange(self._operations(scene, end))
                arm = Arm(action=chance.choice(KILLS), at=at)
                hit = self._kill(scene, end, arm, ())
                what = f"{end} {arm.name}"
        except Broken as broken:
            self._tally.fail(f"seed {seed}{' strace' if strace else ''} {scene} {end}: {broken}")
            hit, what = True, "broken"
        finally:
            self._bench.clear()
        self._tally.runs += hit
        if hit:
            self._tally.faults[what] += 1
            self._tally.faults[f"scene {scene}"] += 1
            self._tally.faults["target a device"] += self._bench.devices

    def _operations(self, scene: str, end: str) -> int:
        """How many operations an end makes in a scene that nothing disturbs."""
        if (scene, end) not in self._counts:
            bench = self._bench
            bench.restore(scene)
            count = Arm(action=Action.COUNT)
            receiver = bench.recv(count if end == "receiver" else None)
            bench.listening(receiver)
            sender = bench.send(count if end == "sender" else None)
            sender.check()
            seen = sender.seen()
            if end == "verifier":
                verifier = bench.send(count, command="verify")
                verifier.check()
                seen = verifier.seen()
            bench.stop(receiver)
            self._counts[scene, end] = receiver.seen() if end == "receiver" else seen
        return self._counts[scene, end]

    def _kill(self, scene: str, end: str, arm: Arm | None, prefix: tuple[str, ...]) -> bool:
        """One run; whether something was killed."""
        bench = self._bench
        bench.restore(scene)
        if end == "verifier":
            return self._kill_verifier(arm, prefix)
        killed = False
        at_receiver, at_sender = end == "receiver", end == "sender"
        receiver = bench.recv(arm if at_receiver else None, prefix if at_receiver else ())
        if not bench.listening(receiver):
            killed = self._was_killed(receiver)
            bench.check_claims()
            receiver = self._again()
        sender = bench.send(arm if at_sender else None, prefix=prefix if at_sender else ())
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            if receiver.poll():
                killed = self._was_killed(receiver)
                bench.check_claims()
                receiver = self._again()
            if sender.poll():
                if not sender.killed:
                    break
                killed = True
                sender = bench.send()
            if time.monotonic() > deadline:
                raise Broken(f"the transfer does not finish: {sender.told()}")
            time.sleep(0.003)
        sender.check()
        if sender.code:
            # A pairing is not retried: the sender says what happened, and the same command again works.
            if receiver.poll():
                killed = self._was_killed(receiver)
                receiver = self._again()
            if not killed or sender.code not in (8, 12):
                raise Broken(f"the sender ends with {sender.code}: {sender.told()}")
            sender = bench.send()
            sender.check()
        if sender.code:
            raise Broken(f"the sender ends with {sender.code}: {sender.told()}")
        if prefix:
            bench.clear()  # the tracer would have to be interrupted too
            bench.check_claims()
            bench.settle(self._again())
            return killed
        return self._prove(receiver) or killed

    def _prove(self, receiver: Child) -> bool:
        """Verify and stop; a receiver whose turn comes only now is killed here. Whether it was."""
        bench = self._bench
        proof = bench.send(command="verify")
        proof.wait()
        killed = receiver.poll() and self._was_killed(receiver)
        if not killed:
            receiver.interrupt()
            receiver.wait()
            killed = receiver.killed
        if proof.code or killed:
            bench.check_claims()
            bench.settle(self._again())
        else:
            receiver.check()
            bench.check_same()
            bench.check_claims()
        return killed

    def _kill_verifier(self, arm: Arm | None, prefix: tuple[str, ...]) -> bool:
        bench = self._bench
        receiver = bench.recv()
        bench.listening(receiver)
        verifier = bench.send(arm, command="verify", prefix=prefix)
        verifier.wait()
        killed = verifier.killed
        if not killed:
            verifier.check()
        bench.check_claims()
        bench.finish(receiver)
        return killed

    def _was_killed(self, child: Child) -> bool:
        if not child.killed:
            raise Broken(f"{child.words[0]} ended with {child.code}: {child.told()}")
        return True

    def _again(self) -> Child:
        receiver = self._bench.recv()
        if not self._bench.listening(receiver):
            raise Broken(f"the receiver does not start again: {receiver.told()}")
        return receiver
