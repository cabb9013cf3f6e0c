"""A transfer inside one process: the shipped sender and receiver, their control messages and links in our hands."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

from blocksync.control.service import Peer
from blocksync.engine import landing as landing_module
from blocksync.engine import slot as slot_module
from blocksync.engine import standing as standing_module
from blocksync.engine.cancel import Cancel
from blocksync.engine.inbound import read_frame
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.sender import Sender
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.engine.verify import Verifier
from blocksync.errors import BlocksyncError, NetworkError, ProtocolError
from blocksync.manifest.cache import ManifestCopy
from blocksync.options import SendOptions
from blocksync.protocol import messages
from blocksync.protocol.messages import ControlPort, OpenAnswer
from blocksync.protocol.receiver import DataReceiver
from blocksync.sources.memory import MemorySource
from blocksync.targets.memory import MemoryTarget
from blocksync.transports.link import Link
from blocksync.transports.memory import memory_pair
from fuzz.memory import MemoryFolder
from tests.claims import filled

BLOCK = 16384
SIZE = 8 * BLOCK - 512
PEER = Peer(fingerprint=bytes(32), name="sender")
SLOT = "a"
# A session that its sender gave up is not waited for: there is no network to be slow here.
slot_module.ABANDONED_SECONDS = 0.0
# Where a length lies each end waits for the other; nothing here takes that long otherwise.
standing_module.HELD_SECONDS = 20.0
# Small windows, so that a small disk leaves a journal with claims and intents in it.
landing_module.WINDOW_BYTES = 2 * BLOCK
landing_module.HELD_BYTES = 2 * BLOCK
Touch = Callable[[str, bytes], bytes]
"""Takes a message's direction and bytes, gives what arrives."""


def contents(chance: random.Random) -> tuple[bytes, bytes]:
    """A disk before and after production changed it: blocks that are new, patched, zero, packable, the same."""
    old = b"".join(chance.choice((chance.randbytes(BLOCK), chance.randbytes(1024) * 16)) for _ in range(8))
    new = bytearray(old)
    new[0:BLOCK] = chance.randbytes(BLOCK)
    new[BLOCK + 4096 : BLOCK + 8192] = chance.randbytes(4096)
    new[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)
    new[3 * BLOCK : 4 * BLOCK] = chance.randbytes(512) * 32
    new[-1024:] = chance.randbytes(1024)
    return bytes(old[:SIZE]), bytes(new[:SIZE])


class TouchedLink(Link):
    """A link whose bytes go through our hands."""

    def __init__(self, base: Link, touch: Touch) -> None:
        self._base = base
        self._touch = touch

    def send(self, *buffers: bytes | memoryview) -> None:
        try:
            raw = self._touch("frames", b"".join(bytes(each) for each in buffers))
        except NetworkError:  # a cut, of both directions
            self._base.abort()
            raise
        self._base.send(raw)

    def recv_into(self, view: memoryview) -> int:
        count = self._base.recv_into(view)
        view[:count] = self._touch("answers", bytes(view[:count]))
        return count

    def abort(self) -> None:
        self._base.abort()

    def close(self) -> None:
        self._base.close()


class TouchedPort(ControlPort):
    """A receiver behind JSON that goes through our hands, parsed as both ends parse it."""

    def __init__(self, port: PeerPort, touch: Touch) -> None:
        self._port = port
        self._touch = touch

    def _carried(self, kind: Any, message: Any) -> Any:
        raw = self._touch("control", json.dumps(message.to_json()).encode())
        try:
            said = json.loads(raw)
        except ValueError as error:
            raise ProtocolError("a message is no JSON") from error
        return kind.from_json(said)

    def open(self, request: messages.OpenRequest) -> OpenAnswer:
        answer = self._port.open(self._carried(messages.OpenRequest, request))
        carried: OpenAnswer = self._carried(OpenAnswer, answer)
        return carried

    def segment_digests(self, session: bytes) -> bytes:
        return self._touch("control", self._port.segment_digests(session))

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        count, raw = self._port.segment(session, index)
        return count, self._touch("control", raw)

    def heartbeat(self, session: bytes) -> messages.Heartbeat:
        beat: messages.Heartbeat = self._carried(messages.Heartbeat, self._port.heartbeat(session))
        return beat

    def commit(self, session: bytes, request: messages.CommitRequest) -> messages.CommitAnswer:
        answer = self._port.commit(session, self._carried(messages.CommitRequest, request))
        carried: messages.CommitAnswer = self._carried(messages.CommitAnswer, answer)
        return carried

    def end(self, session: bytes) -> None:
        self._port.end(session)

    def verify(self, request: messages.VerifyRequest) -> tuple[messages.VerifyAnswer, Iterator[bytes]]:
        answer, parts = self._port.verify(self._carried(messages.VerifyRequest, request))
        return self._carried(messages.VerifyAnswer, answer), (self._touch("control", part) for part in parts)


def untouched(_where: str, raw: bytes) -> bytes:
    return raw


class World:
    """A receiver with one slot, and what a sender keeps.

    Args:
        target: content at first.
        state, copy: files at first, of the receiver's slot and of the sender's copy.
        folder: takes the place of ``state``.
    """

    def __init__(
        self,
        target: bytes,
        state: dict[str, bytes],
        copy: dict[str, bytes],
        *,
        folder: MemoryFolder | None = None,
    ) -> None:
        self.target = filled(target)
        self.state = folder or MemoryFolder(state)
        self.copy = MemoryFolder(copy)
        self._threads: list[threading.Thread] = []
        self._receiver = Receiver(
            {SLOT: Slot(SLOT, self.target, self.state)},  # type: ignore[arg-type]
            lambda _peer, _slot: True,
            lambda _progress: None,
        )

    def send(self, source: bytes, touch: Touch = untouched) -> None:
        """One pass without retries.

        Raises:
            BlocksyncError: it failed.
        """
        route = Route(
            control=TouchedPort(PeerPort(self._receiver, PEER), touch),
            connect=lambda _answer: self._connect(touch),
            copy=ManifestCopy(self.copy),  # type: ignore[arg-type]
        )
        wanted = SendOptions(
            to="", slot=SLOT, connections=1, retry_seconds=0, all_blocks=True, block_bytes=BLOCK, level=1
        )
        Sender(_source(source), route, wanted, Cancel()).run()

    def says_identical(self, source: bytes, touch: Touch = untouched) -> bool:
        port = TouchedPort(PeerPort(self._receiver, PEER), touch)
        return Verifier(_source(source), port, SLOT, None, Cancel(), all_blocks=True).run().identical

    def content(self) -> bytes:
        return content_of(self.target)

    def close(self) -> None:
        self._receiver.close()
        for thread in self._threads:
            thread.join()

    def _connect(self, touch: Touch) -> Link:
        ours, theirs = memory_pair()
        thread = threading.Thread(target=self._attend, args=(theirs,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return TouchedLink(ours, touch)

    def _attend(self, link: Link) -> None:
        core = DataReceiver()
        try:
            frame, payload = read_frame(link, core)
            handler = self._receiver.authorise(core.greeting(frame, payload), None)
        except BlocksyncError:
            link.close()
            return
        handler(link, core)


def _source(content: bytes) -> MemorySource:
    source = MemorySource(len(content))
    source.write(0, content)
    return source


def content_of(target: MemoryTarget) -> bytes:
    buffer = bytearray(target.size)
    target.read_into(0, memoryview(buffer))
    return bytes(buffer)
