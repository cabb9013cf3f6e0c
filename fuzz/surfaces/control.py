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
from blocksync.errors import BlocksyncError
from blocksync.protocol.messages import FIELD_BYTES, CommitRequest, OpenRequest, VerifyRequest
from blocksync.targets.memory import MemoryTarget
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface

SIZE = 1 << 20
slot_module.ABANDONED_SECONDS = 0.0  # nobody is waited for
RIGHT_ROOT = 251
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
    refused: BlocksyncError | None = None
    try:
        for _ in range(4):
            if not numbers.left():
                break
            try:
                session = _ask(port, slot, numbers, session)
            except BlocksyncError as error:
                # Who means harm goes on with the next request.
                refused = error
    finally:
        receiver.close()
    if refused is not None:
        raise refused


def _ask(port: PeerPort, slot: Slot, numbers: Numbers, session: bytes) -> bytes:
    choice = numbers.byte()
    what = choice % 8
    if choice == RIGHT_ROOT and slot.store is not None:
        # What is committed adds up: a sender that means harm can count, too.
        port.commit(session, CommitRequest(root=slot.store.map.root()))
    elif what < 3:
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


def _said(kind: Any, **wanted: Any) -> bytes:
    """The bytes of which :meth:`Numbers.message` makes this message."""
    said = b""
    for name, hint in _hints(kind).items():
        if hint is bool:
            said += bytes((wanted.get(name, False),))
        elif hint is int:
            said += bytes((TEMPTING.index(wanted.get(name, 0)),))
        elif hint is str:
            said += bytes((TEXTS.index(wanted.get(name, "")),))
        else:
            length = FIELD_BYTES.get(name, wanted.get(name, 0))
            said += bytes((length, *bytes(length)))
    return said


def seeds() -> Iterator[bytes]:
    facts = {"slot": "a", "size": SIZE, "sector_bytes": 512, "connections": 1}
    for digest in (1, 2):
        for block in (4096, 65536):
            begun = b"\0" + _said(OpenRequest, block_bytes=block, digest=digest, **facts)
            yield begun + b"\x05\1\x06"
            yield begun + bytes((RIGHT_ROOT,)) + begun + bytes((RIGHT_ROOT,))
            yield begun + b"\3" + _said(CommitRequest) + b"\7"
    looked = {"slot": "a", "size": SIZE, "length": SIZE, "key": 32}
    for piece in (4096, 65536):
        yield b"\4" + _said(VerifyRequest, piece_bytes=piece, **looked) + b"\4" + bytes(60)
    yield b"\0" + _said(OpenRequest, block_bytes=65536, digest=1, **{**facts, "rehearsal": True})
    yield bytes((5, 1))


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.engine", "blocksync.manifest"),
    most_bytes=300,
)
