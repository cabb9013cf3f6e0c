"""The level that is chosen, in worlds whose best level is known: link, processor and content as formulas."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest

from blocksync.engine.adapt import LADDER, Clocks, LevelControl

MIB = 1 << 20
# Seconds of processor a MiB, and bytes left, by level: zstd on some text, not what the module supposes.
COSTS = {
    -5: (0.0015, 0.62), -1: (0.002, 0.55), 1: (0.0025, 0.5), 3: (0.0045, 0.46), 5: (0.009, 0.44), 7: (0.013, 0.43),
    9: (0.02, 0.425), 12: (0.05, 0.42), 15: (0.12, 0.418),
}  # fmt: skip


@dataclass
class World:
    """A machine, a link and a content.

    Args:
        link: bytes a second.
        cores: that this process can have; idle where it does not use them.
        shrinks: share of the frames that do.
        receiver: most bytes of the disk a second that the other end takes.
        unread: whoever reads at the other end of our connection keeps its window full.
        works: processors that the receiver uses; None where it does not say.
    """

    link: float = math.inf
    cores: float = 2.0
    shrinks: float = 0.5
    receiver: float = math.inf
    unread: bool = False
    works: float | None = None
    now: float = 0.0
    process: float = 0.0
    frames: int = 0

    def clocks(self) -> Clocks:
        return Clocks(now=lambda: self.now, process=lambda: self.process)

    def work(self, level: int | None, shrinks: bool) -> tuple[float, float, float]:
        """Bytes on the wire, seconds of packing, seconds of sending of a frame of 1 MiB."""
        pack, ratio = COSTS[level] if level is not None and shrinks else (0.0, 1.0)
        return MIB * ratio, pack, MIB * ratio * 1e-9

    def rate(self, level: int | None) -> float:
        """Bytes of the disk a second."""
        parts = ((self.shrinks, True), (1 - self.shrinks, False))
        wire, pack, send = (sum(share * self.work(level, kind)[at] for share, kind in parts) for at in range(3))
        return min(self.link / wire, self.cores / (0.0002 + pack + send), self.receiver / MIB) * MIB

    def step(self, control: LevelControl) -> None:
        """Send some frames at once, as threads do, in the time that the narrowest part takes for all of them."""
        frames = []
        for _ in range(8):
            self.frames += 1
            shrinks = math.floor(self.frames * self.shrinks) > math.floor((self.frames - 1) * self.shrinks)
            level = control.next_level()
            frames.append((level, shrinks, *self.work(level, shrinks)))
        wire, packing, sending = (sum(frame[at] for frame in frames) for at in (2, 3, 4))
        used = 8 * 0.0002 + packing + sending
        outside = max(wire / self.link, 8 * MIB / self.receiver)
        passed = max(outside, used / self.cores)
        self.now += passed
        self.process += used
        # Where processors are short all four threads share them; else one at a time has what there is.
        stretch = max(1.0, (1 if outside >= passed else 4) / self.cores)
        waited = max(4 * passed - used, 0.0) if outside >= passed else 0.0
        if self.works is not None:
            # Of four connections one at a time is served: each is at work for a quarter of its time.
            control.receiver_busy(0.25, self.works)
        elif self.receiver < math.inf:
            control.receiver_busy(min(1.0, 8 * MIB / self.receiver / passed))
        for level, shrinks, size, pack, send in frames:
            if level is not None:
                control.packed(level, MIB, int(size) if shrinks else None, pack, pack * stretch)
            control.sent(MIB, int(size), send, waited / 8, waited / 8 if self.unread else 0.0)

    def settle(self, control: LevelControl, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step(control)

    def best(self) -> float:
        return max(self.rate(level) for level in LADDER)


WORLDS = {
    "loopback, the other end on the same cores": World(cores=1.0),
    "10 Gbit/s": World(link=1.2e9),
    "1 Gbit/s": World(link=118e6),
    "100 Mbit/s": World(link=11.8e6),
    "10 Mbit/s": World(link=1.2e6),
    "100 Mbit/s on a busy machine": World(link=11.8e6, cores=0.5),
    "more cores than connections": World(link=1.2e9, cores=4),
    "text alone at 1 Gbit/s": World(link=118e6, shrinks=1.0),
    "random at 1 Gbit/s": World(link=118e6, shrinks=0.0),
    "a slow processor at 1 Gbit/s": World(link=118e6, cores=0.3),
}


@pytest.mark.parametrize("name", WORLDS)
def test_settles_soon_where_bytes_leave_nearly_fastest(name: str) -> None:
    world = dataclasses.replace(WORLDS[name])
    control = LevelControl(None, 4, clocks=world.clocks(), processors=8)
    world.settle(control, 4.0)
    began, frames = world.now, world.frames
    world.settle(control, 20.0)
    rate = (world.frames - frames) * MIB / (world.now - began)
    assert rate >= 0.93 * world.best(), (control.level, {level: world.rate(level) for level in LADDER})


def test_follows_a_link_that_changes() -> None:
    world = World(link=11.8e6)
    control = LevelControl(None, 4, clocks=world.clocks(), processors=8)
    world.settle(control, 5)
    assert control.level is not None
    assert control.level >= 5
    world.link = math.inf
    world.settle(control, 10)
    assert world.rate(control.level) >= 0.93 * world.best()
    world.link = 11.8e6
    world.settle(control, 10)
    assert world.rate(control.level) >= 0.93 * world.best()


def test_does_not_work_for_a_receiver_that_cannot_keep_up() -> None:
    """Its disk takes 100 MB/s: the wire has room, so packing more thoroughly gains nothing."""
    world = World(link=1.2e9, receiver=100e6)
    control = LevelControl(None, 4, clocks=world.clocks(), processors=8)
    world.settle(control, 10)
    assert control.level is None or control.level < 0
    assert control.receiver_holds


def test_does_not_pack_for_a_receiver_whose_processor_is_the_limit() -> None:
    """Its connections wait for each other, so each of them looks idle; what arrived lies unread meanwhile."""
    world = World(receiver=700e6, unread=True, works=1.0)
    control = LevelControl(None, 4, clocks=world.clocks(), processors=2)
    world.settle(control, 10)
    assert control.level is None
    assert control.receiver_holds


@pytest.mark.parametrize("works", [0.1, None])
def test_a_tunnel_that_reads_slowly_is_a_link(works: float | None) -> None:
    """Its window is full, but the receiver behind it has nothing to do; known from its second sign of life on."""
    world = World(link=11.8e6, unread=True, works=works)
    control = LevelControl(None, 4, clocks=world.clocks(), processors=8)
    if works is None:
        world.settle(control, 2)
        world.works = 0.1
    world.settle(control, 20)
    assert world.rate(control.level) >= 0.93 * world.best()
    assert not control.receiver_holds


def test_what_does_not_shrink_is_not_packed_thoroughly() -> None:
    world = World(link=11.8e6, shrinks=0.0)
    control = LevelControl(None, 4, clocks=world.clocks(), processors=8)
    world.settle(control, 10)
    assert world.process / world.now < 0.2


@pytest.mark.parametrize(
    ("bounds", "low", "high"),
    [((0, 7), None, 7), ((3, 7), 3, 7), ((1, 1), 1, 1), ((0, 0), None, None), ((16, 19), 16, 16), ((4, 4), 4, 4)],
)
def test_keeps_to_its_bounds(bounds: tuple[int, int], low: int | None, high: int | None) -> None:
    for link, end in ((math.inf, low), (0.1e6, high)):
        world = World(link=link)
        control = LevelControl(bounds, 4, clocks=world.clocks(), processors=8)
        for _ in range(500 if link > 1e6 else 40):
            if control.level in COSTS or control.level is None:
                world.step(control)
        assert control.level == end


@pytest.mark.parametrize(("fixed", "level"), [(0, None), (4, 4), (19, 19)])
def test_a_fixed_level_stays(fixed: int, level: int | None) -> None:
    control = LevelControl(fixed, 4)
    for _ in range(100):
        assert control.next_level() == control.level == level
        control.sent(MIB, MIB, 0.1, 0.1)
