"""Small scopes, completely: every crash point, every subset of unsynced sectors, every second crash.

A *scope* is a few passes over a few blocks, with overwrites. Each operation of each pass is a crash point. At each the
machine is frozen, every surviving subset is an image, and each image is checked and then taken up: the pass is run
again on it to its end, with a crash point at each of its operations. The process alone being killed is a crash too,
after which the cache is still there to be lost later. Equal images are looked at once: what the code makes of them
cannot differ.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import BlocksyncError
from blocksync.geometry import Geometry
from tests.simulation.disks import Frozen, Image, Machine, empty_image
from tests.simulation.passes import Acknowledged, ViolationError, check, run_pass

# Above this many subsets at one crash point a sample is taken instead, and counted as one.
MOST_SUBSETS = 1 << 12


@dataclass(frozen=True, slots=True)
class Scope:
    """Passes over a small disk.

    Args:
        name: for people.
        geometry: of the disk.
        sources: the sender's disk at each pass.
        sector: of the target; a block is a few of them.
        window_blocks: blocks between two checkpoints.
        old: what the target held before.
    """

    name: str
    geometry: Geometry
    sources: tuple[bytes, ...]
    sector: int
    window_blocks: int
    old: bytes = b""


@dataclass(slots=True)
class Tally:
    """What was looked at.

    Args:
        states: crash states, each a crash point (or two) with a subset; equal images count each time they arise.
        images: different ones among them, which were really opened and checked.
        sampled: crash points with more subsets than could be taken.
    """

    states: int = 0
    images: int = 0
    sampled: int = 0


class Explorer:
    """Walks one scope.

    Args:
        scope: to walk.
        tally: counts.
        most_states: stop a pass after this many; 0 for all.
        seed: of the samples.
    """

    def __init__(self, scope: Scope, tally: Tally, most_states: int = 0, seed: int = 0) -> None:
        self._scope = scope
        self._tally = tally
        self._most = most_states
        self._stop_at = 0
        self._chance = random.Random(seed)
        self._checked: set[tuple[Image, frozenset[int]]] = set()
        self._continued: dict[tuple[Image, int, frozenset[int]], int] = {}

    def run(self) -> None:
        """Walk the scope.

        Raises:
            ViolationError: with the crash that shows it.
        """
        scope = self._scope
        image = empty_image(scope.geometry.size, scope.old)
        acknowledged = Acknowledged()
        for number in range(len(scope.sources)):
            self._stop_at = self._tally.states + self._most
            machine = Machine(image, scope.sector)
            self._explore(machine, number, acknowledged, deep=True, trail=f"pass {number}")
            image = machine.freeze().image(0)

    def _explore(
        self, machine: Machine, number: int, acknowledged: Acknowledged, *, deep: bool, trail: str
    ) -> None:
        """Run a pass to its end, then look at what a crash before each of its operations would have left."""
        crashes: list[tuple[str, frozenset[int], Frozen, Machine | None]] = []

        def before(running: Machine, name: str) -> None:
            where = f"{trail}, crash before operation {running.operations + 1} ({name})"
            twin = running.killed(lambda _machine, _name: None) if deep else None
            crashes.append((where, frozenset(acknowledged.blocks), running.freeze(), twin))

        scope = self._scope
        machine.on_operation = before
        try:
            run_pass(machine, scope.geometry, scope.sources[number], acknowledged, scope.window_blocks)
        except BlocksyncError as error:
            raise ViolationError(f"{scope.name}: {trail}: the pass cannot be made: {error}") from error
        if bytes(machine.target.content) != scope.sources[number]:
            raise ViolationError(f"{scope.name}: {trail}: the pass ended and the target is not the source")
        for where, told, _, twin in crashes:
            if twin is not None:
                # The process alone was killed: what it had not synced is still in the cache, and may be lost later.
                self._explore(twin, number, Acknowledged(set(told)), deep=False, trail=f"{where} (killed)")
        for where, told, frozen, _ in crashes:
            self._tally.sampled += 1 << len(frozen.choices) > MOST_SUBSETS
            for survivor in frozen.images(MOST_SUBSETS, self._chance):
                if self._most and self._tally.states >= self._stop_at:
                    return
                self._look(survivor, number, told, deep, where)

    def _look(self, image: Image, number: int, told: frozenset[int], deep: bool, where: str) -> None:
        self._tally.states += 1
        if (image, told) not in self._checked:
            self._checked.add((image, told))
            self._tally.images += 1
            try:
                check(image, self._scope.geometry, self._scope.sector, told)
            except ViolationError as error:
                raise ViolationError(f"{self._scope.name}: {where}: {error}") from error
        if not deep:
            return
        before = self._tally.states
        known = self._continued.get((image, number, told))
        if known is None:
            machine = Machine(image, self._scope.sector)
            self._explore(machine, number, Acknowledged(set(told)), deep=False, trail=where)
            self._continued[image, number, told] = self._tally.states - before
        else:
            # The same image again: the same states would follow, which were checked then.
            self._tally.states += known


def scopes() -> Iterator[Scope]:
    """Up to four blocks and two passes with overwrites, zeros, and patches."""
    chance = random.Random(5)
    small = Geometry(4 * 4096, 4096)
    first, second = chance.randbytes(small.size), chance.randbytes(small.size)
    mixed = first[:4096] + bytes(4096) + second[8192:12288] + first[12288:]
    zeroed = bytes(4096) + first[4096:8192] + bytes(8192)
    for window in (1, 2, 4):
        yield Scope(f"overwrite, window {window}", small, (first, second), 2048, window)
        yield Scope(f"partly, window {window}", small, (first, mixed), 2048, window)
        yield Scope(f"zeros, window {window}", small, (first, zeroed, mixed), 2048, window)
    odd = Geometry(3 * 4096 + 512, 4096)
    yield Scope("short last block", odd, (first[: odd.size], second[: odd.size]), 2048, 2)
    paged = Geometry(2 * 16384, 16384)
    base = chance.randbytes(paged.size)
    patched = bytearray(base)
    patched[4096:8192] = chance.randbytes(4096)
    patched[20480:24576] = chance.randbytes(4096)
    patched[28672:32768] = bytes(4096)
    for window in (1, 2):
        yield Scope(f"patches, window {window}", paged, (base, bytes(patched)), 4096, window)
