"""A link that dies without a word, between two machines: network namespaces with a veth pair."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_processes import MIB, World, sample_disk, sha256

SIZE = 128 * MIB


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


def test_a_dead_link_is_noticed_and_the_transfer_resumes(world: World, link: Link, tmp_path: Path) -> None:
    disk = sample_disk(tmp_path / "disk.img", SIZE, seed=33)
    target = tmp_path / "target.img"
    inside = ("ip", "netns", "exec", link.there)
    _, listening = world.recv(f"web={target}", more=("--create", str(SIZE)), listen="10.99.0.2", prefix=inside)
    to = f"10.99.0.2:{listening['control_port']}"
    outside = ("ip", "netns", "exec", link.here)
    sender = world.send(disk, to, "--bwlimit", "5M", prefix=outside)
    sender.wait_for(lambda event: event.get("stage") == "transferring" and event["durable"] > 0)
    link.carry(works=False)
    waiting = sender.wait_for(lambda event: event.get("stage") == "waiting")
    assert waiting["message"]
    link.carry(works=True)
    result = sender.result()
    assert result["retries"] >= 1
    assert result["resumed"] > 0
    assert sha256(target) == sha256(disk)
