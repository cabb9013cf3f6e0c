"""kill -9 of either end at any moment: the same command resumes, and little is sent again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from story_processes import MIB, Process, World, sample_disk, sha256

SIZE = 256 * MIB
SENT_AGAIN_BOUND = 256 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return sample_disk(tmp_path / "disk.img", SIZE, seed=21)


def under_way(process: Process, durable: int) -> int:
    """Wait until so much is durable; returns what was sent by then."""
    event = process.wait_for(lambda each: each.get("stage") == "transferring" and each["durable"] >= durable)
    return int(event["wire"])


@pytest.mark.parametrize("durable", [1, 64 * MIB])
def test_killed_sender_resumes(world: World, disk: Path, durable: int) -> None:
    target = world.folder / "target.img"
    _, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
    to = f"127.0.0.1:{listening['control_port']}"
    first = world.send(disk, to, "--bwlimit", "10M")
    under_way(first, durable)
    first.kill()

    again = world.send(disk, to).result()
    assert again["resumed"] >= durable
    assert again["changed"] + again["zero"] <= SIZE - again["resumed"] + MIB
    assert sha256(target) == sha256(disk)


def test_killed_receiver_is_waited_for(world: World, disk: Path) -> None:
    target = world.folder / "target.img"
    receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
    control, data = int(listening["control_port"]), int(listening["data_port"])
    sender = world.send(disk, f"127.0.0.1:{control}", "--bwlimit", "10M")
    under_way(sender, 1)
    receiver.kill()
    waiting = sender.wait_for(lambda event: event.get("stage") == "waiting")
    assert "trying again" in waiting["message"]
    world.recv(f"web={target}", control=control, data=data)
    result = sender.result()
    assert result["retries"] >= 1
    assert result["resumed"] >= 1
    assert result["changed"] <= SIZE + SENT_AGAIN_BOUND
    assert sha256(target) == sha256(disk)


def test_both_killed_in_an_incremental_pass_with_overwrites(world: World, disk: Path, tmp_path: Path) -> None:
    target = world.folder / "target.img"
    receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
    control, data = int(listening["control_port"]), int(listening["data_port"])
    to = f"127.0.0.1:{control}"
    world.send(disk, to).result()

    replaced = sample_disk(tmp_path / "other.img", SIZE, seed=22)
    disk.write_bytes(replaced.read_bytes())
    for _ in range(3):
        sender = world.send(disk, to, "--bwlimit", "10M")
        sender.wait_for(lambda event: event.get("stage") == "transferring" and event["wire"] > 12 * MIB)
        receiver.kill()
        sender.kill()
        receiver, _ = world.recv(f"web={target}", control=control, data=data)
    result = world.send(disk, to).result()
    assert result["generation"] == 2
    assert sha256(target) == sha256(disk)
    assert world.send(disk, to, command="verify").result()["identical"] is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sender_says_so_and_resumes(world: World, disk: Path, number: signal.Signals) -> None:
    target = world.folder / "target.img"
    _, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
    to = f"127.0.0.1:{listening['control_port']}"
    sender = world.send(disk, to, "--bwlimit", "10M")
    under_way(sender, 1)
    sender.signal(number)
    told = sender.end()
    assert sender.process.returncode == 130
    assert told["type"] == "error"
    assert "again" in told["remedy"]
    again = world.send(disk, to).result()
    assert again["resumed"] > 0
    assert sha256(target) == sha256(disk)


def test_interrupted_receiver_leaves_the_pass_to_be_resumed(world: World, disk: Path) -> None:
    target = world.folder / "target.img"
    receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
    control, data = int(listening["control_port"]), int(listening["data_port"])
    sender = world.send(disk, f"127.0.0.1:{control}", "--bwlimit", "10M")
    under_way(sender, 1)
    receiver.signal(signal.SIGINT)
    receiver.end()
    assert receiver.process.returncode == 130
    world.recv(f"web={target}", control=control, data=data)
    result = sender.result()
    assert result["resumed"] > 0, sender.events
    assert sha256(target) == sha256(disk)
