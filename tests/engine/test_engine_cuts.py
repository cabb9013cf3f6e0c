"""A connection cut at any byte, in either direction: the pass goes on by itself, and the target becomes the source.

The real sender and receiver in one process over memory links; a link is wrapped so that it breaks after a given number
of bytes. What is sent again is bounded by what had not become durable.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync.control.service import Peer
from blocksync.engine import outbound
from blocksync.engine import sender as sender_module
from blocksync.engine.cancel import Cancel
from blocksync.engine.local import _attend
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.errors import InterruptedTransferError, NetworkError
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.folder import OsFolder
from blocksync.options import SendOptions
from blocksync.results import Progress, SendResult
from blocksync.sources.memory import MemorySource
from blocksync.targets.memory import MemoryTarget
from blocksync.transports.link import Link
from blocksync.transports.memory import memory_pair

SIZE = 3 << 20
PEER = Peer(fingerprint=bytes(32), name="sender")


class CutLink(Link):
    """Breaks once so many bytes were sent, or received."""

    def __init__(self, link: Link, *, send: int | None, receive: int | None) -> None:
        self._link = link
        self._send = send
        self._receive = receive

    def send(self, *buffers: bytes | memoryview) -> None:
        content = b"".join(buffers)
        if self._send is not None and len(content) > self._send:
            self._link.send(content[: self._send] or b"")
            self._link.abort()
            raise NetworkError("cut")
        if self._send is not None:
            self._send -= len(content)
        self._link.send(content)
        self.bytes_sent += len(content)

    def recv_into(self, view: memoryview) -> int:
        if self._receive is not None:
            if not self._receive:
                self._link.abort()
                raise NetworkError("cut")
            view = view[: self._receive]
        count = self._link.recv_into(view)
        if self._receive is not None:
            self._receive -= count
        return count

    def abort(self) -> None:
        self._link.abort()

    def close(self) -> None:
        self._link.close()


class Bench:
    """A receiver with one slot in memory, and senders to it."""

    def __init__(self, folder: Path) -> None:
        self.target = MemoryTarget(SIZE)
        self.slot = Slot("a", self.target, OsFolder(folder / "slot"))
        self.receiver = Receiver({"a": self.slot}, lambda _peer, _slot: True, lambda _progress: None)
        self.copy = OsFolder(folder / "copy")
        self.connections = 0
        self.wrap: Callable[[Link], Link] = lambda link: link

    def connect(self, _answer: object) -> Link:
        ours, theirs = memory_pair()
        threading.Thread(target=_attend, args=(self.receiver, theirs), daemon=True).start()
        self.connections += 1
        return self.wrap(ours) if self.connections == 1 else ours

    def send(
        self, source: MemorySource, cancel: Cancel | None = None, tell: Callable[[Progress], None] | None = None
    ) -> SendResult:
        self.connections = 0
        options = SendOptions(to="", slot="a", connections=1, level=1, progress=tell)
        route = Route(control=PeerPort(self.receiver, PEER), connect=self.connect, copy=ManifestCopy(self.copy))
        return Sender(source, route, options, cancel or Cancel()).run()

    def content(self) -> bytes:
        content = bytearray(SIZE)
        self.target.read_into(0, memoryview(content))
        return bytes(content)

    def close(self) -> None:
        self.receiver.close()
        self.copy.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(sender_module, "FIRST_BACKOFF_SECONDS", 0.001)
    made = Bench(tmp_path)
    yield made
    made.close()


def disk(seed: int) -> tuple[MemorySource, bytes]:
    chance = random.Random(seed)
    content = bytearray(SIZE)
    for at in range(0, SIZE, 256 << 10):
        if chance.random() < 0.7:
            content[at : at + (128 << 10)] = chance.randbytes(64 << 10) * 2
    source = MemorySource(SIZE)
    source.write(0, bytes(content))
    return source, bytes(content)


def change(source: MemorySource, content: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    changed = bytearray(content)
    for page in chance.sample(range(SIZE // 4096), 40):
        piece = chance.choice((bytes(4096), chance.randbytes(4096)))
        source.write(page * 4096, piece)
        changed[page * 4096 : (page + 1) * 4096] = piece
    return bytes(changed)


CUTS = [*range(0, 200, 9), *(random.Random(1).randrange(200, 1 << 20) for _ in range(25))]


@pytest.mark.parametrize("at", CUTS)
def test_cut_while_sending(bench: Bench, at: int) -> None:
    source, content = disk(at)
    bench.wrap = lambda link: CutLink(link, send=at, receive=None)
    result = bench.send(source)
    assert bench.content() == content
    assert result.generation == 1
    changed = change(source, content, at)
    result = bench.send(source)
    assert bench.content() == changed
    assert result.generation == 2


@pytest.mark.parametrize("at", range(0, 129, 8))
def test_cut_while_an_answer_comes(bench: Bench, at: int) -> None:
    source, content = disk(at)
    bench.wrap = lambda link: CutLink(link, send=None, receive=at)
    bench.send(source)
    assert bench.content() == content


def test_what_was_told_to_be_durable_is_not_sent_again(bench: Bench) -> None:
    source, content = disk(3)
    bench.wrap = lambda link: CutLink(link, send=700_000, receive=None)
    moments: list[Progress] = []
    result = bench.send(source, tell=moments.append)
    assert bench.content() == content
    assert result.retries == 1
    assert "cut" in next(moment.message for moment in moments if moment.stage == "waiting")


def test_cancelled_it_stops_resumably(bench: Bench) -> None:
    source, content = disk(4)
    cancel = Cancel()

    def stop(progress: Progress) -> None:
        if progress.stage == "planning":
            cancel.set()

    with pytest.raises(InterruptedTransferError) as told:
        bench.send(source, cancel, stop)
    assert told.value.exit_code == 130
    assert "again" in told.value.remedy
    bench.send(source)
    assert bench.content() == content


def test_a_damaged_copy_of_the_manifest_costs_a_retry_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    source, content = disk(5)
    bench.send(source)
    path = tmp_path / "copy" / "manifest"
    damaged = bytearray(path.read_bytes())
    damaged[-100] ^= 1
    path.write_bytes(damaged)
    changed = change(source, content, 6)
    result = bench.send(source)
    assert bench.content() == changed
    assert result.generation == 2


def test_blocks_that_are_not_what_both_thought_are_sent_whole(bench: Bench) -> None:
    source, content = disk(6)
    bench.send(source)
    # Behind everybody's back, and without a mark: a patch must not be built on it.
    page = next(at for at in range(0, SIZE, 65536) if any(content[at : at + 65536]))
    bench.target.write(page + 8192, memoryview(b"\x55" * 4096))
    bench.target.sync()
    source.write(page, b"\xaa" * 4096)
    changed = content[:page] + b"\xaa" * 4096 + content[page + 4096 :]
    result = bench.send(source)
    assert result.resent == 65536
    assert bench.content() == changed


def test_the_same_bytes_are_not_sent_twice(bench: Bench) -> None:
    source, _ = disk(7)
    bench.send(source)
    again = bench.send(source)
    assert (again.changed, again.zero, again.kind) == (0, 0, "incremental")
    assert again.wire < 1000


class DeafLink(CutLink):
    """Fails to send once, at this end alone: the other end knows nothing of it and waits."""

    def send(self, *buffers: bytes | memoryview) -> None:
        if self._send is not None and self.bytes_sent >= self._send:
            self._send = None
            raise NetworkError("no buffer space")
        self._link.send(*buffers)
        self.bytes_sent += sum(map(len, buffers))

    def hurry(self, seconds: float) -> None:
        self._link.hurry(seconds)


def test_a_connection_that_fails_at_this_end_alone_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "REASON_SECONDS", 0.1)
    source, content = disk(8)
    bench.wrap = lambda link: DeafLink(link, send=128, receive=None)
    result = bench.send(source)
    assert result.retries == 1
    assert bench.content() == content
