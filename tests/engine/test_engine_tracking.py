"""Change tracking at the engine's seam: what a tracker says is gone by, tested, and never needed."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync import api
from blocksync.changes.base import Token, Tracker
from blocksync.engine.dirty import DirtyMap, worth_reading
from blocksync.engine.plan import ScanChunk, plan
from blocksync.errors import ChangesUnknownError
from blocksync.extents import Extent
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.working import BlockMap
from blocksync.options import CopyOptions
from blocksync.results import Progress
from blocksync.sources.memory import MemorySource

MIB = 1 << 20
BLOCK = 64 << 10
SIZE = 64 * MIB


class MemoryTracker(Tracker):
    """Notes what was written through :meth:`write`; says what it is told to say."""

    provider = "memory"

    def __init__(self, source: MemorySource, identity: str = "one") -> None:
        self._source = source
        self._identity = identity
        self._log: list[Extent] = []
        self.hidden: list[Extent] = []
        self.settled = 0
        self.asked: list[Token] = []

    def write(self, offset: int, data: bytes, *, hide: bool = False) -> None:
        self._source.write(offset, data)
        (self.hidden if hide else self._log).append(Extent(offset, len(data)))

    def changed(self, token: Token) -> Iterator[Extent]:
        self.asked.append(token)
        if token["identity"] != self._identity:
            raise ChangesUnknownError("the memory is another one")
        return iter(sorted(self._log[int(token["at"]) :], key=lambda extent: extent.offset))

    def token(self) -> Token:
        return {"provider": self.provider, "identity": self._identity, "at": str(len(self._log))}

    def settle(self) -> None:
        self.settled += 1


class Case:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = MemorySource(SIZE, "disk")
        self.source.write(0, random.Random(1).randbytes(SIZE))
        self.tracker = MemoryTracker(self.source)
        self.source.tracker = self.tracker
        self.said: list[str] = []

    def send(self) -> api.SendResult:
        self.said.clear()
        options = CopyOptions(create=True, state_dir=self.folder / "state", progress=self._hear)
        return api.copy(self.source, str(self.folder / "target.img"), options)

    def _hear(self, progress: Progress) -> None:
        if progress.message:
            self.said.append(progress.message)

    def same(self) -> bool:
        content = bytearray(SIZE)
        self.source.read_into(0, memoryview(content))
        return (self.folder / "target.img").read_bytes() == content


@pytest.fixture
def case(tmp_path: Path) -> Case:
    made = Case(tmp_path)
    made.send()
    assert made.tracker.settled == 1
    return made


def test_a_pass_reads_what_changed_and_a_sample(case: Case) -> None:
    chance = random.Random(2)
    for block in chance.sample(range(SIZE // BLOCK), 40):
        case.tracker.write(block * BLOCK, chance.randbytes(BLOCK))
    changed = 40 * BLOCK
    result = case.send()
    assert result.tracker == "memory"
    assert changed < result.read <= 2 * changed
    assert case.same()


def test_a_pass_without_changes_reads_a_sample_only(case: Case) -> None:
    result = case.send()
    assert (result.tracker, result.changed) == ("memory", 0)
    assert 0 < result.read <= 16 * BLOCK
    assert case.same()


def test_a_tracker_that_lies_is_found_out_and_everything_is_read(case: Case) -> None:
    # Three quarters of the disk behind the tracker's back: a sample of 16 misses that once in four thousand
    # million times.
    for offset in range(0, SIZE * 3 // 4, BLOCK):
        case.tracker.write(offset, b"lie", hide=True)
    result = case.send()
    assert result.tracker == ""
    assert result.read > SIZE
    assert any("not to be trusted" in said for said in case.said)
    assert case.same()


def test_a_change_between_the_question_and_the_sample_is_no_lie(case: Case) -> None:
    ask = case.tracker.changed

    def late(token: Token) -> Iterator[Extent]:
        answer = ask(token)
        if len(case.tracker.asked) == 1:
            for offset in range(0, SIZE * 3 // 4, BLOCK):
                case.tracker.write(offset, b"late")
        return answer

    case.tracker.changed = late  # type: ignore[method-assign]
    result = case.send()
    assert result.tracker == "memory"
    assert case.same()


@pytest.mark.parametrize("what", ["identity", "provider", "fails", "order", "no token"])
def test_what_cannot_be_relied_on_is_said_and_everything_is_compared(case: Case, what: str) -> None:
    if what == "identity":
        case.source.tracker = MemoryTracker(case.source, "two")
    elif what == "provider":
        case.tracker.provider = "another"
    elif what == "no token":
        for path in case.folder.rglob("changes"):
            path.unlink()
    else:
        answers = [Extent(BLOCK, BLOCK), Extent(0, BLOCK)]

        def changed(_token: Token) -> Iterator[Extent]:
            if what == "fails":
                raise ChangesUnknownError("the snapshot is gone")
            return iter(answers)

        case.tracker.changed = changed  # type: ignore[method-assign]
    case.source.write(5 * MIB, b"unnoticed")
    result = case.send()
    assert result.tracker == ""
    assert result.read >= SIZE
    assert any("compared by digests" in said for said in case.said)
    assert case.same()
    # And the pass after it has a token again.
    tracker = case.source.tracker
    if what not in ("fails", "order"):
        assert isinstance(tracker, MemoryTracker)
        tracker.write(0, b"x")
        assert case.send().tracker == tracker.provider
        assert case.same()


def test_a_token_of_another_generation_or_damaged_is_none(case: Case) -> None:
    found = list(case.folder.rglob("changes"))
    assert len(found) == 1
    old = found[0].read_bytes()
    case.tracker.write(0, b"first")
    case.send()
    case.tracker.write(MIB, b"second")
    found[0].write_bytes(old)  # as after a restore of the state from a backup
    assert case.send().tracker == ""
    assert case.same()
    raw = bytearray(found[0].read_bytes())
    raw[-3] ^= 1
    found[0].write_bytes(raw)
    assert case.send().tracker == ""


def test_a_tracker_that_cannot_keep_anything_costs_only_the_next_pass(case: Case) -> None:
    def token() -> Token:
        raise ChangesUnknownError("there is no room")

    case.tracker.token = token  # type: ignore[method-assign]
    case.tracker.write(0, b"x")
    assert case.send().tracker == "memory"
    assert any("no room" in said for said in case.said)
    assert case.send().tracker == ""


# -- the map
# ----------------------------------------------------------------------------------------------------------

GEOMETRY = Geometry(40 * 4096 + 512, 4096)
RANGES = st.lists(st.tuples(st.integers(0, GEOMETRY.size), st.integers(1, 3 * 4096)), max_size=12).map(
    lambda pairs: [Extent(offset, length) for offset, length in sorted(pairs)]
)


@given(RANGES, st.integers(0, 39), st.integers(1, 40))
def test_the_map_has_every_block_that_a_range_touches(ranges: list[Extent], first: int, count: int) -> None:
    dirty = DirtyMap(ranges, GEOMETRY)
    touched = {
        block
        for block in range(41)
        for each in ranges
        if each.offset < (block + 1) * 4096 and each.end > block * 4096
    }
    assert {block for block in range(41) if block in dirty} == touched
    assert dirty.blocks == len(touched)
    assert set(DirtyMap.decode(dirty.encode(), GEOMETRY).runs(0, 41)) == set(dirty.runs(0, 41))
    told = {block for start, end in dirty.runs(first, count) for block in range(start, end)}
    assert told == touched & set(range(first, first + count))


@given(RANGES, st.sets(st.integers(0, 40)))
def test_a_plan_reads_what_is_dirty_or_unknown_and_nothing_else(ranges: list[Extent], claimed: set[int]) -> None:
    known = BlockMap(GEOMETRY, DigestKind.XXH3, bytes(32))
    for block in claimed:
        known.claim(block, b"d" * DIGEST_BYTES, b"p" * (PAGE_DIGEST_BYTES * GEOMETRY.pages_per_block))
    dirty = DirtyMap(ranges, GEOMETRY)
    steps = list(plan([Extent(0, GEOMETRY.size)], GEOMETRY, known, dirty=dirty))
    read = set()
    for step in steps:
        assert isinstance(step, ScanChunk)
        assert step.offset + step.length <= GEOMETRY.size
        first, count = GEOMETRY.blocks_of(step.offset, step.length)
        read |= set(range(first, first + count))
    assert read == {block for block in range(41) if block in dirty or block not in claimed}
    assert list(worth_reading(dirty, known, 0, 41)) == sorted(worth_reading(dirty, known, 0, 41))


def test_too_many_places_are_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blocksync.engine.dirty.MOST_RUNS", 3)
    with pytest.raises(ChangesUnknownError, match="scattered"):
        DirtyMap([Extent(at * 8192, 1) for at in range(5)], GEOMETRY)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_map_or_a_typed_error(raw: bytes) -> None:
    for each in (raw, zlib.compress(raw)):
        try:
            DirtyMap.decode(each, GEOMETRY)
        except ChangesUnknownError:
            continue
