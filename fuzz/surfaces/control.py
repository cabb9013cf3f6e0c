"""A paired sender's requests behind their JSON: what their numbers do to a receiver with a slot of 1 MiB."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, get_type_hints

from blocksync.control.service import Peer
from blocksync.engine import slot as slot_module
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.protocol.messages import FIELD_BYTES, CommitRequest, OpenRequest, VerifyRequest
from blocksync.targets.memory import MemoryTarget
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface

SIZE = 1 << 20
slot_module.ABANDONED_SECONDS = 0.0  # nobody is waited for
PEER = Peer(fingerprint=bytes(32), name="peer")
TEMPTING = (0, 1, 2, 511, 512, 4096, 65536, SIZE, SIZE - 512, SIZE + 512, 1 << 24, 1 << 25, 1 << 40, (1 << 63) - 1)
_hints = functools.cache(get_type_hints)
TEXTS = ("", "a", "b", "disk", "../a", "\x1b[2J", "\udc80", "a" * 1024)


class Numbers:
    """Takes values from bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def bytes(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def left(self) -> bool:
        return self._at < len(self._data)

    def message(self, kind: Any) -> Any:
        """A message that parses, and whose fields are anything."""
        said: dict[str, object] = {}
        for name, hint in _hints(kind).items():
            choice = self.byte()
            if name == "version":
                said[name] = 1
            elif hint is bool:
                said[name] = bool(choice & 1)
            elif hint is int:
                said[name] = (
                    TEMPTING[choice % len(TEMPTING)] if choice < 200 else int.from_bytes(self.bytes(8), "big") >> 1
                )
            elif hint is str:
                said[name] = TEXTS[choice % len(TEXTS)]
            else:
                right = FIELD_BYTES.get(name, choice % 40)
                said[name] = (
                    self.bytes(right if choice < 250 else choice).ljust(right if choice < 250 else 0, b"\0").hex()
                )
        return kind.from_json(said)


def run(data: bytes) -> None:
    numbers = Numbers(data)
    slot = Slot("a", MemoryTarget(SIZE), MemoryFolder())  # type: ignore[arg-type]
    receiver = Receiver({"a": slot}, lambda _peer, name: name == "a", lambda _progress: None)
    port = PeerPort(receiver, PEER)
    session = bytes(16)
    try:
        for _ in range(4):
            if not numbers.left():
                break
            session = _ask(port, numbers, numbers.byte() % 8, session)
    finally:
        receiver.close()


def _ask(port: PeerPort, numbers: Numbers, what: int, session: bytes) -> bytes:
    if what < 3:
        return port.open(numbers.message(OpenRequest)).session
    if what == 3:
        port.commit(session, numbers.message(CommitRequest))
    elif what == 4:
        _, parts = port.verify(numbers.message(VerifyRequest))
        for part in itertools.islice(parts, 64):
            assert len(part) == 32
        parts.close()  # type: ignore[attr-defined]
    elif what == 5:
        port.segment(session, numbers.byte() - 1)
    elif what == 6:
        port.segment_digests(session)
        port.heartbeat(session)
    else:
        port.end(session)
    return session


def seeds() -> Iterator[bytes]:
    good = bytes((0, 0, 0, 1, 3, 3, 7, 4, 6, 1, 1, 1, 0))
    yield good
    yield (
        bytes((0, 0, 1)) + bytes(16) + bytes((1, 3, 3, 7, 4, 6, 1, 1, 0)) + bytes((6,)) + bytes((3, 0)) + bytes(16)
    )
    yield bytes((4, 0, 1, 7, 0, 7, 6, 1)) + bytes(32)
    yield bytes((5, 1))


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.engine", "blocksync.manifest"),
    most_bytes=300,
)
