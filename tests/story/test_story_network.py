"""The main story over TLS on loopback: full pass, nothing changed, some pages changed, verified."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from story_processes import MIB, PAGE, World, change_pages, sample_disk, sha256

MEMORY_BOUND = 200 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return sample_disk(tmp_path / "disk.img", 192 * MIB + 3 * 512, seed=7)


def host(event: dict[str, object]) -> str:
    return f"127.0.0.1:{event['control_port']}"


def test_passes_and_verification(world: World, disk: Path) -> None:
    target = world.folder / "target.img"
    receiver, listening = world.recv(f"web={target}", more=("--create", str(disk.stat().st_size)))
    to = host(listening)

    full = world.send(disk, to).result()
    assert (full["kind"], full["generation"]) == ("full", 1)
    assert sha256(target) == sha256(disk)
    assert target.stat().st_blocks * 512 < disk.stat().st_size, "the copy is not sparse"

    nothing = world.send(disk, to).result()
    assert (nothing["kind"], nothing["generation"], nothing["changed"]) == ("incremental", 2, 0)
    assert nothing["wire"] < MIB
    assert nothing["root"] == full["root"]

    change_pages(disk, 100, seed=8)
    some = world.send(disk, to).result()
    assert some["wire"] <= 100 * PAGE + MIB
    assert sha256(target) == sha256(disk)

    same = world.send(disk, to, command="verify").result()
    assert same["identical"] is True

    # One byte of the target, changed behind our back.
    with target.open("r+b") as file:
        file.seek(77 * MIB + 5)
        byte = file.read(1)
        file.seek(77 * MIB + 5)
        file.write(bytes([byte[0] ^ 1]))
    verifying = world.send(disk, to, command="verify")
    last = verifying.end()
    assert verifying.process.returncode == 9
    assert json.dumps([77 * MIB, PAGE]) in json.dumps(verifying.events), last
    assert receiver.process.poll() is None

    # The next pass notices the foreign write, reads the target again, and repairs it.
    repaired = world.send(disk, to).result()
    assert repaired["changed"] >= PAGE
    assert sha256(target) == sha256(disk)


def test_several_slots_at_once(world: World, tmp_path: Path) -> None:
    size = 24 * MIB
    disks = [sample_disk(tmp_path / f"disk{n}.img", size, seed=n) for n in range(3)]
    targets = [tmp_path / f"target{n}.img" for n in range(3)]
    _, listening = world.recv(*(f"s{n}={target}" for n, target in enumerate(targets)), more=("--create", str(size)))
    world.send(disks[0], host(listening), "--slot", "s0").result()
    passes = [world.send(disk, host(listening), "--slot", f"s{n}") for n, disk in enumerate(disks) if n]
    for each in passes:
        each.result()
    assert [sha256(disk) for disk in disks] == [sha256(target) for target in targets]


def test_the_second_sender_is_told_who_holds_the_slot(world: World, disk: Path) -> None:
    target = world.folder / "target.img"
    _, listening = world.recv(f"web={target}", more=("--create", str(disk.stat().st_size)))
    to = host(listening)
    first = world.send(disk, to, "--bwlimit", "4M")
    first.wait_for(lambda event: event.get("stage") == "transferring" and event["wire"] > 0)
    # One transfer of a source runs at a time, and one of a machine to a slot; that another machine has the slot is the
    # receiver's to tell: see tests/cli.
    other = world.folder / "other.img"
    other.write_bytes(disk.read_bytes())
    for source, more, code in ((disk, (), "BS1603"), (other, ("--slot", "web"), "BS0602")):
        second = world.send(source, to, *more)
        told = second.end()
        assert second.process.returncode == told["exit_code"]
        assert told["code"] == code
        assert told["remedy"]
    first.signal(signal.SIGINT)
    assert first.end()["exit_code"] == 130


def test_a_sparse_disk_of_a_tebibyte_takes_the_time_and_the_memory_of_its_data(
    world: World, tmp_path: Path
) -> None:
    size = 1 << 40
    disk = tmp_path / "huge.img"
    piece = sample_disk(tmp_path / "piece.img", 8 * MIB, seed=3).read_bytes()
    with disk.open("wb") as file:
        file.truncate(size)
        for index in range(32):
            file.seek(index * (size // 32))
            file.write(piece)
    target = tmp_path / "target.img"
    receiver, listening = world.recv(f"web={target}", more=("--create", str(size)))
    sender = world.send(disk, host(listening), "--bwlimit", "100M")
    peaks = []

    def at_its_end(event: dict[str, object]) -> bool:
        if event.get("stage") in ("transferring", "committing"):
            peaks.append(sender.peak_memory())
        return event["type"] == "result"

    result = sender.wait_for(at_its_end)
    assert peaks, "no moment of the pass was seen"
    assert max(peaks) < MEMORY_BOUND
    assert receiver.peak_memory() < MEMORY_BOUND
    assert result["read"] <= 32 * len(piece) + 32 * 2 * MIB
    with target.open("rb") as copied:
        for index in (0, 17, 31):
            copied.seek(index * (size // 32))
            assert copied.read(len(piece)) == piece
    assert world.send(disk, host(listening), command="verify").result()["identical"] is True
