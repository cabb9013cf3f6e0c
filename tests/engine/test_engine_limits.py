"""Limits: rates by time of day, pauses while others wait, all of it changed while it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blocksync.cli.quantities import parse_size
from blocksync.engine import pace as pace_module
from blocksync.engine.cancel import Cancel
from blocksync.engine.governor import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    Governed,
    LiveLimits,
    check_latency,
    next_pause,
    waits_of_others,
)
from blocksync.engine.pace import BURST_SECONDS, Pace
from blocksync.errors import SourceError
from blocksync.limits import Limits, RateWindow, Schedule, parse_schedule
from blocksync.platforms import IoCounts, disk_of, io_counts
from blocksync.sources.memory import MemorySource
from tests.devices import image, loop_device, need_root

MIB = 1 << 20
DAY = parse_schedule("08:00-18:00=20M,22:30-6:00=0,else=5M", parse_size)


@pytest.mark.parametrize(
    ("clock", "rate"),
    [
        ("07:59", 5),
        ("08:00", 20),
        ("17:59", 20),
        ("18:00", 5),
        ("22:30", 0),
        ("00:00", 0),
        ("05:59", 0),
        ("06:00", 5),
    ],
)
def test_rates_by_time_of_day(clock: str, rate: int) -> None:
    hour, minute = clock.split(":")
    assert DAY.rate_at(int(hour) * 60 + int(minute)) == rate * MIB


def test_schedules_as_they_are_typed() -> None:
    assert parse_schedule("20M", parse_size) == Schedule(otherwise=20 * MIB)
    assert parse_schedule("00:00-24:00=1K", parse_size).rate_at(1439) == 1024
    assert parse_schedule("09:00-17:00=1M", parse_size).otherwise == 0


@pytest.mark.parametrize(
    "text",
    ["", "x", "8-18=20M", "08:00-18:00", "08:00-08:00=1M", "25:00-26:00=1M", "08:60-09:00=1M", "else=1M,else=2M",
     "else=1M,08:00-09:00=2M", "08:00-18:00=,else=0"],
)  # fmt: skip
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_schedule(text, parse_size)


@pytest.mark.parametrize("fields", [{"read": -1}, {"nice": 20}, {"nice": -1}, {"max_latency": -0.1}])
def test_limits_that_make_no_sense(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"nice|negative"):
        Limits(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window"):
        RateWindow(begin=1, end=1, rate=0)


class Time:
    """In the place of the module's clock; naps make it go on."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


class Naps(threading.Event):
    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._time.now += timeout
        return self.is_set()


def test_a_pace_is_kept_and_follows_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(pace_module, "time", time)
    rate = 1000
    pace = Pace(lambda: rate)
    stop = Naps(time)
    for _ in range(20):
        pace.wait(500, stop)
    # The last one may go out owing; a burst is free.
    assert 20 * 500 / 1000 - BURST_SECONDS - 0.5 <= time.now - 50 <= 20 * 500 / 1000
    rate = 10_000
    then = time.now
    for _ in range(20):
        pace.wait(500, stop)
    assert time.now - then <= 20 * 500 / 10_000 + 0.5
    rate = 0
    then = time.now
    pace.wait(1 << 40, stop)
    pace.wait(1 << 40, stop)
    assert time.now == then


def test_a_rate_that_is_raised_is_felt_by_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(pace_module, "time", time)
    rates = iter([1, 1, 1, 0])
    pace = Pace(lambda: next(rates))
    pace.wait(1 << 30, Naps(time))  # owed for 34 years
    pace.wait(1, Naps(time))
    assert time.now < 52


def counts(**changes: int) -> IoCounts:
    return IoCounts(**{"reads": 0, "read_sectors": 0, "read_ms": 0, "writes": 0, "write_ms": 0, **changes})


def test_others_waits_are_told_from_ours() -> None:
    ours = counts(reads=10, read_sectors=10 * 2048, read_ms=500)
    assert waits_of_others(counts(), ours, 10 * MIB).longest == 0
    assert waits_of_others(counts(), ours, 5 * MIB).reads == 0.05
    assert waits_of_others(counts(), counts(writes=4, write_ms=100), 0).writes == 0.025


def test_pauses_grow_while_others_wait_and_shrink_again() -> None:
    pause, grown = 0.0, []
    for _ in range(12):
        pause = next_pause(pause, 0.030, 0.020)
        grown.append(pause)
    assert grown[:3] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert grown[-1] == LONGEST_PAUSE_SECONDS
    for _ in range(12):
        pause = next_pause(pause, 0.010, 0.020)
    assert pause == 0
    assert next_pause(0.5, 9.0, 0.0) == 0


def test_a_governed_source_reads_the_same_and_stops_when_cancelled() -> None:
    source = MemorySource(MIB)
    source.write(0, b"x" * MIB)
    cancel = Cancel()
    governed = Governed(source, LiveLimits(Limits(read=1)), cancel, None)
    assert list(governed.extents()) == list(source.extents())
    assert (governed.size, governed.identity, governed.name) == (source.size, source.identity, source.name)
    assert governed.capabilities == source.capabilities
    first, second = bytearray(4096), bytearray(4096)
    governed.read_into(0, memoryview(first))
    cancel.set()
    governed.read_into(4096, memoryview(second))  # 4096 s are owed; cancelling ends the waiting
    assert first == second == b"x" * 4096


def test_a_disks_counters_are_read(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 4 * MIB, b"x" * 4 * MIB)
    with loop_device(path) as device:
        number = disk_of(device)
        assert number is not None
        before = io_counts(number)
        with open(device, "r+b", buffering=0) as disk:
            disk.write(b"y" * MIB)
            os.fsync(disk.fileno())
        after = io_counts(number)
        assert before is not None
        assert after is not None
        assert after.writes > before.writes
        check_latency(Limits(max_latency=0.02), [device])
    with pytest.raises(SourceError, match="no waiting times"):
        check_latency(Limits(max_latency=0.02), ["/dev/null"])
    check_latency(Limits(), ["/dev/null"])


def test_nice_reaches_all_threads() -> None:
    script = (
        "import os, threading\n"
        "from blocksync.platforms import set_priority\n"
        "stop = threading.Event()\n"
        "threads = [threading.Thread(target=stop.wait) for _ in range(3)]\n"
        "[thread.start() for thread in threads]\n"
        "set_priority(7)\n"
        "print({os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir('/proc/self/task')})\n"
        "stop.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "{7}\n"
