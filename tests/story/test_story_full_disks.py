"""Filesystems that are really full, below the target and below either end's state: told, and mended by making room."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from story_processes import MIB, World, change_pages, sha256

from tests.devices import image, loop_device, need_root, run

SIZE = 24 * MIB


@contextlib.contextmanager
def filesystem(place: Path, size: int) -> Iterator[Path]:
    """An ext4 filesystem of its own, mounted."""
    need_root()
    with loop_device(image(place.with_suffix(".fs"), size)) as device:
        run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", device)
        place.mkdir(mode=0o700)
        run("mount", device, place)
        place.chmod(0o700)
        try:
            yield place
        finally:
            run("umount", place)


def fill(place: Path, leave: int = 0) -> Path:
    """Take all the room that there is, or all but ``leave`` bytes; the file that has it."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        if leave:
            found = os.statvfs(place)
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)
            return ballast
        for piece in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(piece))
    with pytest.raises(OSError) as told:
        (place / "more").write_bytes(bytes(4096))
    assert told.value.errno == errno.ENOSPC
    return ballast


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(51).randbytes(SIZE))
    return path


def test_below_the_target(world: World, disk: Path, tmp_path: Path) -> None:
    with filesystem(tmp_path / "place", 40 * MIB) as place:
        target = place / "target.img"
        receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
        ballast = fill(place, leave=SIZE // 2)
        to = f"127.0.0.1:{listening['control_port']}"
        sender = world.send(disk, to, "--retry", "0")
        told = sender.end()
        assert sender.process.returncode == 5, told
        assert "No space left" in told["message"]
        assert "space" in told["remedy"]
        ballast.unlink()
        assert world.send(disk, to).result()["kind"] == "full"
        assert sha256(target) == sha256(disk)
        receiver.kill()


def test_below_the_receivers_state(world: World, disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    with filesystem(tmp_path / "receiver", 4 * MIB) as place:
        receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
        to = f"127.0.0.1:{listening['control_port']}"
        sender = world.send(disk, to, "--retry", "0", "--bwlimit", "2M")
        sender.wait_for(lambda event: event.get("stage") == "transferring" and event["durable"] > 0)
        ballast = fill(place)
        told = sender.end()
        assert sender.process.returncode == 6, told
        assert "No space left" in told["message"]
        assert told["remedy"]
        ballast.unlink()
        result = world.send(disk, to).result()
        assert result["resumed"] > 0
        assert sha256(target) == sha256(disk)
        receiver.kill()


def test_below_the_senders_state(world: World, disk: Path, tmp_path: Path) -> None:
    """What the receiver committed is not lost by that; as long as there is no room nothing new is begun."""
    target = tmp_path / "target.img"
    with filesystem(tmp_path / "sender", 96 * MIB) as place:
        receiver, listening = world.recv(f"web={target}", more=("--create", str(SIZE)))
        to = f"127.0.0.1:{listening['control_port']}"
        sender = world.send(disk, to, "--bwlimit", "4M")
        sender.wait_for(lambda event: event.get("stage") == "transferring" and event["durable"] > 0)
        ballast = fill(place)
        told = sender.end()
        assert sender.process.returncode == 6, told
        assert "No space left" in told["message"]
        assert "free space there" in told["remedy"]
        change_pages(disk, 20, seed=52)
        refused = world.send(disk, to)
        told = refused.end()
        assert refused.process.returncode == 6, told
        assert "free" in told["message"]
        assert "free space there" in told["remedy"]
        ballast.unlink()
        assert world.send(disk, to).result()["generation"] in (1, 2)
        assert sha256(target) == sha256(disk)
        assert world.send(disk, to, command="verify").result()["identical"] is True
        receiver.kill()
