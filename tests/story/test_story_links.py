"""A link that dies without a word, between two machines: network namespaces with a veth pair."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from story_processes import MIB, Event, Process, World, sample_disk, sha256

SIZE = 48 * MIB


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Link:
    """Two namespaces of our own and the pair between them."""

    def __init__(self, name: str) -> None:
        self.here, self.there = f"{name}h", f"{name}t"
        self._name = name

    def make(self) -> None:
        for space in (self.here, self.there):
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "link", "add", f"{self._name}0", "netns", self.here, "type", "veth", "peer", "name",
            f"{self._name}1", "netns", self.there)  # fmt: skip
        run("ip", "-n", self.here, "addr", "add", "10.99.0.1/24", "dev", f"{self._name}0")
        run("ip", "-n", self.there, "addr", "add", "10.99.0.2/24", "dev", f"{self._name}1")
        run("ip", "-n", self.here, "link", "set", f"{self._name}0", "up")
        run("ip", "-n", self.there, "link", "set", f"{self._name}1", "up")

    def carry(self, works: bool) -> None:
        """Lose every packet, or none. The other end's interface goes down: on this end nothing is told to anybody."""
        run("ip", "-n", self.there, "link", "set", f"{self._name}1", "up" if works else "down")

    def answer(self, works: bool) -> None:
        """Let what the other end sends vanish there, or not; what goes to it arrives."""
        run("ip", "-n", self.there, "route", "del" if works else "add", "blackhole", "10.99.0.1/32")

    def swallow_large(self, swallows: bool) -> None:
        """Lose packets above 1280 bytes without a word to anybody, as a tunnel does whose ICMP is filtered."""
        # One segment a packet, so that the link sees the sizes that a real one would.
        run("ip", "-n", self.here, "link", "set", "dev", f"{self._name}0", "gso_max_segs", "1")
        run("ip", "-n", self.there, "link", "set", f"{self._name}1", "mtu", "1280" if swallows else "1500")
        # New connections shall not learn of it from the receiver either.
        run("ip", "-n", self.there, "route", "replace", "10.99.0.0/24", "dev", f"{self._name}1", "advmss", "1460")

    def remove(self) -> None:
        for space in (self.here, self.there):
            subprocess.run(("ip", "netns", "delete", space), check=False, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    made = Link(f"bs{os.getpid() % 100000}")
    try:
        made.make()
        yield made
    finally:
        made.remove()


class Transfer:
    """A slow first pass between the two machines, under way."""

    def __init__(self, world: World, link: Link, folder: Path, seed: int) -> None:
        self.world, self.link = world, link
        self.disk, self.target = sample_disk(folder / "disk.img", SIZE, seed=seed), folder / "target.img"
        self.receiver, listening = self.recv()
        self.ports = listening["control_port"], listening["data_port"]
        self.sender = self.send("--bwlimit", "2M")
        self.sender.wait_for(lambda event: event.get("stage") == "transferring" and event["durable"] > 0)

    def recv(self, *, control: int = 0, data: int = 0) -> tuple[Process, Event]:
        inside = ("ip", "netns", "exec", self.link.there)
        more = () if self.target.exists() else ("--create", str(SIZE))
        return self.world.recv(
            f"web={self.target}", more=more, control=control, data=data, listen="10.99.0.2", prefix=inside
        )

    def send(self, *more: str) -> Process:
        outside = ("ip", "netns", "exec", self.link.here)
        return self.world.send(self.disk, f"10.99.0.2:{self.ports[0]}", *more, prefix=outside)

    def waits(self) -> str:
        """Until the sender has noticed; what it says."""
        message: str = self.sender.wait_for(lambda event: event.get("stage") == "waiting")["message"]
        return message

    def finishes(self) -> Event:
        """The result of the sender, whose copy is right."""
        result = self.sender.result()
        assert sha256(self.target) == sha256(self.disk)
        return result


FAULTS: dict[str, Callable[[Link, bool], None]] = {
    "every packet is lost": lambda link, fails: link.carry(works=not fails),
    "the receiver's packets are lost": lambda link, fails: link.answer(works=not fails),
    "large packets are lost": lambda link, fails: link.swallow_large(fails),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_link_that_fails_is_noticed_and_the_transfer_resumes(
    world: World, link: Link, tmp_path: Path, fault: str
) -> None:
    transfer = Transfer(world, link, tmp_path, seed=33)
    FAULTS[fault](link, True)
    assert transfer.waits()
    FAULTS[fault](link, False)
    result = transfer.finishes()
    assert result["retries"] >= 1
    assert result["resumed"] > 0


def test_a_receiver_that_restarts_behind_a_dead_link_leaves_the_sender_half_open(
    world: World, link: Link, tmp_path: Path
) -> None:
    """It never says that it is gone: the sender hears of it from the receiver that is there now."""
    transfer = Transfer(world, link, tmp_path, seed=36)
    link.carry(works=False)
    transfer.receiver.kill()
    control, data = transfer.ports
    transfer.recv(control=control, data=data)
    link.carry(works=True)
    result = transfer.finishes()
    assert result["retries"] >= 1
    assert result["resumed"] > 0


def test_a_sender_that_restarts_behind_a_dead_link_gets_its_slot_back(
    world: World, link: Link, tmp_path: Path
) -> None:
    """The receiver has connections of a sender that is gone, and cannot know it."""
    transfer = Transfer(world, link, tmp_path, seed=37)
    link.carry(works=False)
    transfer.sender.kill()
    link.carry(works=True)
    transfer.sender = transfer.send()
    result = transfer.finishes()
    assert result["resumed"] > 0
