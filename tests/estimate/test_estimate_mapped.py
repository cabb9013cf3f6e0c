"""A dirty map tells what changes: of a real server, of one that stops telling, and of one that began long ago."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.changes.base import Token, Tracker
from blocksync.engine.cancel import Cancel
from blocksync.errors import ChangesUnknownError
from blocksync.estimate.mapped import ChangeMap
from blocksync.estimate.passes import Pace, by_map
from blocksync.estimate.sampling import Sampler
from blocksync.estimate.watching import Watcher
from blocksync.extents import Extent
from blocksync.results import Progress
from blocksync.sources.memory import MemorySource
from tests.nbd.servers import qemu_nbd

MIB = 1 << 20
KIB64 = 64 << 10


class Told(Tracker):
    """Names what it is told to; raises from the look on that ``ends`` says."""

    provider = "told"

    def __init__(self, ends: int = 1000) -> None:
        self.extents: list[Extent] = []
        self.asked = 0
        self._ends = ends

    def changed(self, token: Token) -> Iterator[Extent]:
        assert token == {"provider": "told"}
        self.asked += 1
        if self.asked > self._ends:
            raise ChangesUnknownError("the map is gone")
        return iter(self.extents)

    def token(self) -> Token:
        return {"provider": "told"}

    def settle(self) -> None:
        raise AssertionError("nothing was committed")


class Counting(MemorySource):
    """Remembers what was read."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.write(0, random.Random(1).randbytes(size))
        self.reads: list[int] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append(offset)
        super().read_into(offset, buffer)


def watched(source: Counting, change: Callable[[], None], said: list[str] | None = None) -> tuple[Watcher, float]:
    """Watch a source that changes once, before the first look; the watcher, and what it saw at last."""
    sample = Sampler(source, 1, Cancel(), random.Random(2)).run()
    changes = iter([change])

    def wait(_seconds: float) -> bool:
        next(changes, lambda: None)()
        return False

    tell = said.append if said is not None else pytest.fail
    watcher = Watcher(source, sample.pieces, Cancel(), say=tell, clock=lambda: 0.0, wait=wait)
    source.reads.clear()
    return watcher, watcher.run(8.0, lambda _age: None)[-1][1]


def test_a_map_tells_what_samples_miss_and_spares_their_reading() -> None:
    source = Counting(64 * MIB)
    source.tracker = tracker = Told()

    def change() -> None:
        source.write(5 * MIB, bytes(MIB))
        tracker.extents = [Extent(5 * MIB, MIB)]

    watcher, changed = watched(source, change)
    assert changed == pytest.approx(MIB, rel=0.1)
    assert watcher.map is not None
    assert (watcher.map.provider, watcher.map.before, watcher.map.named) == ("told", 0, MIB)
    # Read at first, and then only what lies in the map.
    again = [offset for offset in source.reads if source.reads.count(offset) > 1]
    assert all(5 * MIB <= offset < 6 * MIB for offset in again)
    assert len(set(source.reads)) > len(set(again))


def test_of_a_coarse_map_only_the_part_that_differs_counts() -> None:
    source = Counting(64 * MIB)
    source.tracker = tracker = Told()

    def change() -> None:
        for offset in range(0, 32 * MIB, 16 << 10):
            source.write(offset, bytes(4096))
        tracker.extents = [Extent(0, 32 * MIB)]

    watcher, changed = watched(source, change)
    assert changed == pytest.approx(8 * MIB, rel=0.4)
    assert watcher.map is not None
    assert watcher.map.named == 32 * MIB
    pace = Pace(fixed=0.0, data=64.0 * MIB, scan_rate=1.0 * MIB, packed=0.0, send_rate=1e12, link=1e12)
    assert by_map(pace, watcher.map, [(1.0, 8.0 * MIB)]).seconds(2.0 * MIB) == pytest.approx(8.0)
    assert by_map(pace, None, [(1.0, 8.0 * MIB)]).seconds(2.0 * MIB) == pytest.approx(64.0)


def test_what_a_map_named_before_is_told_by_samples() -> None:
    source = Counting(64 * MIB)
    source.tracker = tracker = Told()
    tracker.extents = [Extent(0, 32 * MIB)]
    watcher, changed = watched(source, lambda: source.write(0, bytes(16 * MIB)))
    assert changed == pytest.approx(16 * MIB, rel=0.2)
    assert watcher.map is not None
    assert watcher.map.before == 32 * MIB
    assert watched(source, lambda: None)[1] == 0.0


@pytest.mark.parametrize("ends", [0, 1, 3])
def test_a_map_that_cannot_be_told_is_said_and_samples_are_read(ends: int) -> None:
    source = Counting(64 * MIB)
    source.tracker = Told(ends)
    said: list[str] = []
    watcher, changed = watched(source, lambda: source.write(0, bytes(16 * MIB)), said)
    assert said == ["told: the map is gone; sampled pages are read again instead"]
    assert watcher.map is None
    assert changed == pytest.approx(16 * MIB, rel=0.2)


def test_a_map_of_a_huge_disk_takes_little_memory() -> None:
    tracker = Told()
    tracker.extents = [Extent(0, 1), Extent((1 << 50) - 512, 512)]
    made = ChangeMap(tracker, 1 << 50)
    assert made.before == 2 << 27


def test_a_real_dirty_bitmap_is_used_while_it_grows(tmp_path: Path) -> None:
    raw, disk = tmp_path / "raw.img", tmp_path / "disk.qcow2"
    raw.write_bytes(random.Random(3).randbytes(32 * MIB))
    for words in (
        ["qemu-img", "convert", "-O", "qcow2", raw, disk],
        ["qemu-img", "bitmap", "--add", "-g", "64K", disk, "live"],
    ):
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
    with qemu_nbd(tmp_path, disk, "--bitmap=live", "--shared=16", image_format="qcow2") as at:
        wrote: list[str] = []

        def progress(told: Progress) -> None:
            if told.stage == "watching" and " of " in told.message and not wrote:
                wrote.append(told.message)
                command = ["qemu-io", "-f", "raw", "-c", f"write -P 7 {5 * KIB64} {16 * KIB64}", at]
                subprocess.run(command, check=True, capture_output=True, timeout=60)

        options = api.EstimateOptions(watch=4.0, seed=1, progress=progress)
        found = api.estimate(f"{at}&bitmap=live", options).changes
    assert found is not None
    assert found.tracker == "nbd-bitmap"
    assert found.points[0][1] == 0.0
    assert found.points[-1][1] == pytest.approx(MIB, rel=0.2)
