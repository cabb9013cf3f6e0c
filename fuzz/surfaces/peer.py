"""A hostile receiver behind its JSON: what its answers do to a sender's session."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.engine.cancel import Cancel
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.errors import NetworkError
from blocksync.manifest.cache import ManifestCopy
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
from blocksync.sources.memory import MemorySource
from blocksync.transports.link import Link
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface
from fuzz.surfaces.control import SIZE, Numbers

ALL_ZERO_ROOT = 1


class _Hostile(ControlPort):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def open(self, request: OpenRequest) -> OpenAnswer:
        numbers = self._numbers
        answer: OpenAnswer = numbers.message(OpenAnswer)
        return answer

    def segment_digests(self, session: bytes) -> bytes:
        return self._numbers.bytes(self._numbers.byte())

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
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


def _no_link(_answer: OpenAnswer) -> Link:
    raise NetworkError("there is no data port here")


def run(data: bytes) -> None:
    source = MemorySource(SIZE)
    source.write(0, b"x" * 4096)
    route = Route(control=_Hostile(Numbers(data)), connect=_no_link, copy=ManifestCopy(MemoryFolder()))
    # Its allocation map is another surface, and costs more than all the rest.
    wanted = SendOptions(to="", connections=1, retry_seconds=0, all_blocks=True)
    Sender(source, route, wanted, Cancel()).run()


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
    yield (
        answer + bytes((1,)) + bytes(32) + bytes((0,)) + bytes(16) + bytes((1, 5, 0, 0)) + bytes((16,)) + bytes(400)
    )
    yield answer
    yield bytes(200)


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.engine.sender", "blocksync.engine.sending", "blocksync.engine.sync", "blocksync.manifest"),
    most_bytes=1200,
)
