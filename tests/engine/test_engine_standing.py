"""A way that carries nothing any more, though it is open and somebody answers at its end."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.engine import sender as sender_module
from blocksync.engine import sending, standing
from blocksync.engine.standing import Standing, Watch, WorkTime
from blocksync.errors import NetworkError
from blocksync.protocol.wire import HEADER_BYTES, Frame, FrameKind, decode_header
from blocksync.results import Progress
from blocksync.sources.memory import MemorySource
from blocksync.transports.link import Link
from tests.engine.test_engine_cuts import SIZE, Bench, change, disk


class HeldLink(Link):
    """Keeps what it gets, answers nothing, from its END or its first answer on, and stays open until it is aborted."""

    def __init__(self, link: Link, *, answers: int) -> None:
        self._link = link
        self._answers = answers
        self._aborted = threading.Event()

    def send(self, *buffers: bytes | memoryview) -> None:
        self._link.send(*buffers)
        self.bytes_sent = self._link.bytes_sent

    def recv_into(self, view: memoryview) -> int:
        if not self._answers:
            self._aborted.wait(8)
            raise NetworkError("aborted")
        count = self._link.recv_into(view)
        # An answer is a header of 64 bytes, and here nothing behind it.
        self._answers -= count == len(view)
        return count

    def abort(self) -> None:
        self._aborted.set()
        self._link.abort()

    def close(self) -> None:
        self._link.close()


class LyingLink(Link):
    """Says in place of END that content follows, which never does: each end waits for the other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last: Frame | None = None

    def send(self, *buffers: bytes | memoryview) -> None:
        frame = decode_header(bytes(buffers[0][:HEADER_BYTES]))
        if frame.kind is FrameKind.END:
            assert self._last is not None
            buffers = (dataclasses.replace(self._last, sequence=frame.sequence).encode(),)
        elif frame.kind is FrameKind.DATA:
            self._last = frame
        self._link.send(*buffers)
        self.bytes_sent = self._link.bytes_sent

    def recv_into(self, view: memoryview) -> int:
        return self._link.recv_into(view)

    def abort(self) -> None:
        self._link.abort()

    def close(self) -> None:
        self._link.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(sender_module, "FIRST_BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(sending, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(standing, "HELD_SECONDS", 0.3)
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("answers", [0, 1])
def test_a_connection_that_is_held_is_given_up_and_the_pass_goes_on(bench: Bench, answers: int) -> None:
    source, content = disk(1)
    bench.wrap = lambda link: HeldLink(link, answers=answers)
    said: list[Progress] = []
    result = bench.send(source, tell=said.append)
    assert result.retries == 1
    assert "nothing passes" in next(each.message for each in said if each.stage == "waiting")
    assert bench.content() == content


def test_a_header_that_promises_more_than_follows_hangs_nobody(bench: Bench) -> None:
    source, content = disk(4)
    bench.wrap = LyingLink
    result = bench.send(source)
    assert result.retries == 1
    assert bench.content() == content


def test_a_receiver_that_works_for_long_on_a_frame_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, content = disk(2)
    write, slow = bench.target.write, threading.Event()

    def writes(offset: int, data: memoryview) -> None:
        if not slow.is_set():
            slow.set()
            # Three times what a connection that is held gets.
            threading.Event().wait(1.0)
        write(offset, data)

    monkeypatch.setattr(bench.target, "write", writes)
    result = bench.send(source)
    assert slow.is_set()
    assert result.retries == 0
    assert bench.content() == content


def test_a_source_that_gives_nothing_to_send_for_long_is_not_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, content = disk(3)
    bench.send(source)
    changed = change(source, content, 4)
    read, slow = MemorySource.read_into, threading.Event()

    def reads(self: MemorySource, offset: int, buffer: memoryview) -> None:
        if offset > SIZE // 2 and not slow.is_set():
            slow.set()
            threading.Event().wait(1.0)
        read(self, offset, buffer)

    monkeypatch.setattr(MemorySource, "read_into", reads)
    result = bench.send(source)
    assert slow.is_set()
    assert result.retries == 0
    assert bench.content() == changed


WAITS: Standing = ("answer", 100, 100)


@pytest.mark.parametrize(
    ("standings", "busy", "held"),
    [
        ([[WAITS]] * 4, [7, 7, 7, 7], True),
        ([[None, WAITS]] * 4, [7, 7, 7, 7], True),
        ([[WAITS]] * 4, [7, 7, 8, 8], False),
        ([[WAITS], [WAITS], [("answer", 100, 101)], [("answer", 100, 101)]], [7] * 4, False),
        ([[WAITS], [WAITS], [None], [WAITS]], [7] * 4, False),
        ([[None]] * 4, [7] * 4, False),
        ([[WAITS], [WAITS], [], [WAITS]], [7] * 4, False),
    ],
)
def test_held_is_what_stands_still_with_the_receivers_work(
    standings: list[list[Standing | None]], busy: list[int], held: bool
) -> None:
    watch = Watch()
    step = standing.HELD_SECONDS * 0.4
    told = [
        watch.held(each, work, index * step) for index, (each, work) in enumerate(zip(standings, busy, strict=True))
    ]
    assert told == [False, False, False, held]


def test_work_that_is_under_way_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("blocksync.engine.standing.time.perf_counter", lambda: now)
    work = WorkTime()
    now = 110.0
    with work.running():
        now = 113.0
        assert work.seconds == 3.0
        with work.running():
            now = 114.0
        now = 115.0
    now = 200.0
    assert work.seconds == 6.0
