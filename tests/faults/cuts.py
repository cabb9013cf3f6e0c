"""Something is wrong with the way between two real processes, at each byte of a session in turn: a connection is cut
or reset there, held, or its bytes come one by one.

A receiver serves all sessions of a scene, as one in use does. What must hold: the sender finishes by itself, or says
what happened with a documented exit code; neither end shows a bug; no claim is false; the same command again finishes.
"""

from __future__ import annotations

import os
import random
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.bench import PAGE, SIZE, Bench
from tests.faults.children import Broken, Child
from tests.faults.kills import Tally
from tests.faults.proxy import DIRECTIONS, Proxy, Rule

SCENES = ("incremental", "pairing", "verify")
NEAR, FAR = "127.0.0.1", "127.0.0.3"
# A receiver that is asked to open a slot may read what it holds first: it is waited for two minutes.
HELD_SECONDS = 200.0
# A first pass carries more than its start.
START_BYTES = 8192
# A session's bytes differ by a few from run to run: signatures, numbers in JSON.
SPREAD_BYTES = 8
# Longer than a connection that is held needs to be given up.
RETRY_SECONDS = 40.0
# What a held link may end with: the network, or trust where the pairing is what was held.
TOLD = (8, 12)
# Fast enough for every deadline, and slower than a stranger is waited for.
PATIENT_SECONDS, HOPELESS_SECONDS = 0.0005, 0.05


def either(port: str, number: int, direction: str, at: int) -> str:
    """``cut`` or ``reset``: half of the places each, whichever of them a sweep in steps takes."""
    return ("cut", "reset")[zlib.crc32(f"{port} {number} {direction} {at}".encode()) & 1]


class Cuts:
    """A campaign on one bench, which is taken over.

    Args:
        bench: owned by the caller.
        tally: counted into.
    """

    def __init__(self, bench: Bench, tally: Tally) -> None:
        self._bench = bench
        self._tally = tally
        self._chance = random.Random(0)
        self._scene = ""
        self._receiver: Child | None = None
        bench.connections, bench.listen = 1, FAR
        self._proxy = Proxy(NEAR, FAR, bench.control, bench.data)

    def places(self, scene: str) -> Iterator[Rule]:
        """A cut at each byte of each connection of a session, in both directions: in order at half of them, else by
        reset, whichever of them a sweep in steps takes.
        """
        for port, number, direction, count in self._connections(scene):
            for at in range(count + SPREAD_BYTES):
                action = either(port, number, direction, at)
                yield Rule(port=port, connection=number, direction=direction, action=action, at=at)

    def slow(self, scene: str) -> Iterator[Rule]:
        """Each connection is held at its beginning, in its middle and before its last byte, and dribbles."""
        for port, number, direction, count in self._connections(scene):
            for at in sorted({0, count // 2, max(count - 1, 0)}):
                yield Rule(port=port, connection=number, direction=direction, action="stall", at=at)
            yield Rule(port=port, connection=number, direction=direction, action="dribble", pause=PATIENT_SECONDS)
        for port in ("control", "data") if scene != "verify" else ("control",):
            yield Rule(port=port, connection=None, action="dribble", pause=HOPELESS_SECONDS)

    def run(self, scene: str, rule: Rule) -> None:
        """One fault; a broken promise is kept in the tally."""
        try:
            met, code = self._session(scene, rule)
        except Broken as broken:
            self._tally.fail(f"--scene {scene} {rule}: {broken}")
            self.end()
            met, code = True, -1
        if met:
            self._tally.runs += 1
            self._tally.faults[f"{rule.action} {rule.port} {rule.direction}"] += 1
            self._tally.faults[f"scene {scene}"] += 1
            self._tally.faults[f"ended with {code}"] += 1

    def end(self) -> None:
        """Stop the receiver; the next run begins a scene anew."""
        if self._receiver is not None and not self._receiver.poll():
            self._receiver.interrupt()
            self._receiver.wait()
        self._receiver = None
        self._bench.clear()

    def close(self) -> None:
        self.end()
        self._proxy.close()

    # -- sessions -------------------------------------------------------------------------------------------------

    def _connections(self, scene: str) -> list[tuple[str, int, str, int]]:
        """``(port, number, direction, bytes)`` of the connections of a session that nothing disturbs."""
        self._begin(scene)
        if scene != "pairing":
            # What the scene has to send itself is more than a page.
            self._send(scene).check()
            self._begin(scene)
        self._proxy.obey(None)
        self._send(scene).check()
        seen = self._proxy.obey(None)["connections"]
        numbers: Counter[str] = Counter()
        found = []
        for each in seen:
            number = numbers[each["port"]]
            numbers[each["port"]] += 1
            found.extend(
                (each["port"], number, direction, min(each[direction], START_BYTES)) for direction in DIRECTIONS
            )
        if {"control"} != set(numbers) and {"control", "data"} != set(numbers):
            raise Broken(f"a session of {numbers}")
        return found

    def _begin(self, scene: str) -> Child:
        """The receiver of a scene, with something to send to it."""
        bench = self._bench
        if self._receiver is None or self._receiver.poll() or self._scene != scene or scene == "pairing":
            self.end()
            self._proxy.obey(None)
            bench.restore("pairing" if scene == "pairing" else "incremental")
            self._receiver, self._scene = bench.recv(), scene
            if not bench.listening(self._receiver):
                raise Broken(f"the receiver does not start: {self._receiver.told()}")
            if scene == "verify":
                self._send("incremental").check()
        self._change()
        return self._receiver

    def _change(self) -> None:
        """Another page, one that shrinks: few bytes on the wire. For verify the target is what differs."""
        path = self._bench.target if self._scene == "verify" else self._bench.source
        with path.open("r+b") as file:
            file.seek(self._chance.randrange(SIZE // PAGE) * PAGE)
            file.write(self._chance.randbytes(1) * PAGE)
            file.flush()
            os.fsync(file.fileno())

    def _send(self, scene: str) -> Child:
        if scene == "verify":
            return self._bench.send(command="verify")
        return self._bench.send(retry=RETRY_SECONDS)

    def _session(self, scene: str, rule: Rule) -> tuple[bool, int]:
        """Play a scene over the way that is wrong; whether the rule met a connection, and the sender's exit code."""
        receiver = self._begin(scene)
        self._proxy.obey(rule)
        sender = self._send(scene)
        sender.wait(HELD_SECONDS)
        said = sender.check()
        assert sender.code is not None
        met = bool(self._proxy.obey(None)["met"])
        receiver.check_said()
        if receiver.poll():
            raise Broken(f"the receiver ended with {receiver.code}: {receiver.told()}")
        if scene == "verify":
            self._check_verify(sender, said)
        else:
            self._check_pass(sender, said)
        return met, sender.code

    def _check_pass(self, sender: Child, said: dict[str, Any]) -> None:
        bench = self._bench
        if sender.code and sender.code not in TOLD:
            raise Broken(f"the sender ends with {sender.code}: {said}")
        bench.check_claims()
        if sender.code:
            again = bench.send()
            again.check()
            if again.code:
                raise Broken(f"the same command again ends with {again.code}: {again.told()}")
            bench.check_claims()
        bench.check_same()

    def _check_verify(self, verifier: Child, said: dict[str, Any]) -> None:
        if verifier.code not in (9, *TOLD):
            raise Broken(f"verify of a copy that differs ends with {verifier.code}: {said}")
        if verifier.code != 9:
            again = self._send("verify")
            again.check()
            if again.code != 9:
                raise Broken(f"verify again ends with {again.code}: {again.told()}")
