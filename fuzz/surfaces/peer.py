"""A hostile receiver behind its JSON: what its answers do to a sender's session.

A receiver that wants to do harm knows what a sender looks at first. So the first byte says what is put right, for what
lies behind it to be reached: the slot's geometry, the root and digests of what it claims to hold, the data connection.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from blocksync.engine.cancel import Cancel
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.errors import NetworkError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.cache import ManifestCopy
from blocksync.manifest.working import BlockMap
from blocksync.options import SendOptions
from blocksync.protocol.messages import (
    CommitAnswer,
    CommitRequest,
    ControlPort,
    Heartbeat,
    OpenAnswer,
    OpenRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.protocol.wire import Frame, FrameKind, encode_ranges
from blocksync.sources.memory import MemorySource
from blocksync.transports.link import Link
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface
from fuzz.surfaces.control import Numbers

FITS, ADDS_UP, ZEROS, LINKED, LANDS = 1, 2, 4, 8, 16
SIZE = 64 << 10
BLOCKS = (4096, 8192, 65536, 512)
SOURCE = MemorySource(SIZE)
SOURCE.write(0, b"x" * 4096)
sender, sending = (importlib.import_module(f"blocksync.engine.{name}") for name in ("sender", "sending"))


def _nothing() -> None: ...


class _Thread:
    """Does its work when it is started: a thread costs more than all the rest, and comes out differently each time."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", **_more: Any
    ) -> None:
        # The heartbeat waits for longer than a session takes here.
        self._work: Callable[[], None] = _nothing if name == "heartbeat" else (lambda: target(*args))

    def start(self) -> None:
        self._work()

    def join(self) -> None: ...


# What of this machine a sender asks for: not the receiver's doing, and dear.
SWAPPED = (
    (sending, "threading", SimpleNamespace(**{**vars(sending.threading), "Thread": _Thread})),
    (sender, "marks_of", lambda _names: ""),
    (importlib.import_module("blocksync.engine.adapt"), "os", SimpleNamespace(cpu_count=lambda: 2)),
)
KEPT = tuple((module, name, getattr(module, name)) for module, name, _ in SWAPPED)


class _Hostile(ControlPort):
    def __init__(self, mode: int, numbers: Numbers) -> None:
        self._mode = mode
        self._numbers = numbers
        self._map: BlockMap | None = None

    def open(self, request: OpenRequest) -> OpenAnswer:
        answer: OpenAnswer = self._numbers.message(OpenAnswer)
        if self._mode & FITS:
            block = BLOCKS[answer.block_bytes % len(BLOCKS)]
            answer = replace(
                answer,
                size=request.size,
                sector_bytes=request.sector_bytes,
                block_bytes=block,
                digest=request.digest,
            )
            if self._mode & ADDS_UP:
                answer = self._adding_up(answer)
        return answer

    def _adding_up(self, answer: OpenAnswer) -> OpenAnswer:
        geometry = Geometry(answer.size, answer.block_bytes, answer.sector_bytes)
        self._map = BlockMap(geometry, DigestKind(answer.digest), answer.key)
        if self._mode & ZEROS:
            self._map.claim_zero(0, 1 + self._numbers.byte() % geometry.block_count)
        return replace(answer, root=self._map.root())

    def connect(self, answer: OpenAnswer) -> Link:
        if not self._mode & LINKED:
            raise NetworkError("there is no data port here")
        return _DataLink(self._numbers, answer.epoch, lands=bool(self._mode & LANDS))

    def segment_digests(self, session: bytes) -> bytes:
        return self._map.segment_digests() if self._map else self._numbers.bytes(self._numbers.byte())

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        if self._map:
            return self._map.export_segment(index)
        return self._numbers.byte(), self._numbers.bytes(self._numbers.byte() * 8)

    def heartbeat(self, session: bytes) -> Heartbeat:
        beat: Heartbeat = self._numbers.message(Heartbeat)
        return beat

    def commit(self, session: bytes, request: CommitRequest) -> CommitAnswer:
        if self._numbers.byte() & 1:
            return CommitAnswer(generation=1, root=request.root)
        answer: CommitAnswer = self._numbers.message(CommitAnswer)
        return answer

    def end(self, session: bytes) -> None:
        return

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        return self._numbers.message(VerifyAnswer), iter(())


class _DataLink(Link):
    """A data port that answers with any bytes, or as one that lands frames: then with any ranges to send again."""

    def __init__(self, numbers: Numbers, epoch: int, *, lands: bool) -> None:
        self._numbers = numbers
        self._epoch = epoch
        self._lands = lands
        self._said = b""
        self._count = 0

    def send(self, *buffers: bytes | memoryview) -> None:
        self.bytes_sent += sum(map(len, buffers))
        kind = buffers[0][5]
        if not self._lands:
            self._said += self._numbers.bytes(self._numbers.byte())
        elif kind == FrameKind.HELLO:
            self._say(FrameKind.WELCOME, b"")
        elif kind == FrameKind.END:
            edges = [4096 * (self._numbers.byte() % 20) for _ in range(self._numbers.byte() % 3 * 2)]
            self._say(FrameKind.DONE, encode_ranges(list(zip(edges[::2], edges[1::2], strict=True))))

    def _say(self, kind: FrameKind, payload: bytes) -> None:
        frame = Frame(kind=kind, epoch=self._epoch, sequence=self._count, payload_length=len(payload))
        self._count += 1
        self._said += frame.encode() + payload

    def recv_into(self, view: memoryview) -> int:
        part, self._said = self._said[: len(view)], self._said[len(view) :]
        if not part:
            raise NetworkError("nothing more comes")
        view[: len(part)] = part
        return len(part)

    def abort(self) -> None: ...

    def close(self) -> None: ...


def run(data: bytes) -> None:
    if not data:
        return
    receiver = _Hostile(data[0], Numbers(data[1:]))
    route = Route(control=receiver, connect=receiver.connect, copy=ManifestCopy(MemoryFolder()))
    # Its allocation map is another surface, and costs more than all the rest.
    wanted = SendOptions(to="", connections=1, retry_seconds=0, all_blocks=True)
    for module, name, value in SWAPPED:
        setattr(module, name, value)
    try:
        Sender(SOURCE, route, wanted, Cancel()).run()
    finally:
        for module, name, value in KEPT:
            setattr(module, name, value)


def seeds() -> Iterator[bytes]:
    answer = (
        bytes((0,))
        + bytes(16)
        + bytes((1,))
        + bytes(32)
        + bytes((1, 5, 1, 0))
        + bytes(16)
        + bytes((1, 0, 7, 4, 6, 1))
    )
    begun = answer + bytes((1,)) + bytes(32) + bytes((0,)) + bytes(16) + bytes((1, 5, 0, 0)) + bytes((16,))
    for mode in (0, FITS, FITS | ADDS_UP, FITS | ADDS_UP | LINKED):
        for more in (0, ZEROS, LANDS, ZEROS | LANDS):
            yield bytes((mode | more,)) + begun + bytes(400)
            yield bytes((mode | more,)) + answer + bytes((1,)) * 60
    yield bytes((0,)) + answer
    yield bytes(200)


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.engine", "blocksync.manifest", "blocksync.protocol"),
    most_bytes=1200,
)
