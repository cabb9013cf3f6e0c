"""The sender's end of one data connection: headers out, answers in. Sans-IO."""

from __future__ import annotations

import json

from blocksync.errors import (
    BlocksyncError,
    FlattenError,
    IncompleteError,
    IntegrityError,
    NetworkError,
    PeerError,
    ProtocolError,
    StateError,
    TargetError,
    TrustError,
    UsageError,
)
from blocksync.protocol.reader import FrameReader, check_lengths
from blocksync.protocol.states import SENDER_HEARS, SENDER_SENDS, State, step
from blocksync.protocol.wire import MAX_ANSWER_BYTES, NO_DIGEST, Codec, Frame, FrameKind, Hello, decode_ranges


class DataSender:
    """State of one outgoing connection.

    Args:
        epoch: of the session that the connection belongs to.
    """

    def __init__(self, epoch: int) -> None:
        self.state = State.NEW
        self.reader = FrameReader(self._check)
        self._epoch = epoch
        self._said = 0
        self._heard = 0

    def hello(self, hello: Hello) -> bytes:
        payload = hello.encode()
        return self._header(FrameKind.HELLO, payload_length=len(payload)) + payload

    def data(self, offset: int, plain_length: int, payload_length: int, codec: Codec, digest: bytes) -> bytes:
        """Header of a run of whole blocks; ``digest`` folds their digests."""
        return self._header(
            FrameKind.DATA,
            codec=codec,
            offset=offset,
            plain_length=plain_length,
            payload_length=payload_length,
            digest=digest,
        )

    def patch(self, offset: int, plain_length: int, payload_length: int, codec: Codec, digest: bytes) -> bytes:
        """Header of changed pages of blocks from ``offset`` on; ``digest`` folds the new digests of those blocks."""
        return self._header(
            FrameKind.PATCH,
            codec=codec,
            offset=offset,
            plain_length=plain_length,
            payload_length=payload_length,
            digest=digest,
        )

    def zero(self, offset: int, length: int) -> bytes:
        return self._header(FrameKind.ZERO, offset=offset, plain_length=length)

    def end(self) -> bytes:
        return self._header(FrameKind.END, offset=self._said)

    def heard(self, frame: Frame, payload: memoryview) -> list[tuple[int, int]]:
        """Take an answer.

        Returns:
            for DONE, the ranges to send again as whole blocks; else nothing.

        Raises:
            BlocksyncError: the receiver sent ERROR; the class follows its code.
            ProtocolError: the answer is out of turn.
        """
        self.state = step(SENDER_HEARS, self.state, frame.kind, "received")
        self._heard += 1
        if frame.kind is FrameKind.ERROR:
            raise peer_error(bytes(payload))
        return decode_ranges(payload) if frame.kind is FrameKind.DONE else []

    def _header(
        self,
        kind: FrameKind,
        *,
        codec: Codec = Codec.RAW,
        offset: int = 0,
        plain_length: int = 0,
        payload_length: int = 0,
        digest: bytes = NO_DIGEST,
    ) -> bytes:
        self.state = step(SENDER_SENDS, self.state, kind, "tried to send")
        frame = Frame(
            kind=kind,
            codec=codec,
            epoch=self._epoch,
            sequence=self._said,
            offset=offset,
            plain_length=plain_length,
            payload_length=payload_length,
            digest=digest,
        )
        self._said += 1
        return frame.encode()

    def _check(self, frame: Frame) -> None:
        if frame.kind not in SENDER_HEARS.get(self.state, {}):
            raise ProtocolError(f"received {frame.kind.name} while the data connection is {self.state.value}")
        if frame.sequence != self._heard:
            raise ProtocolError(f"answer {frame.sequence} where {self._heard} was due")
        check_lengths(frame, MAX_ANSWER_BYTES)


# Classes that cross the wire by their code; whatever else a peer names becomes a PeerError.
_BY_CODE: dict[str, type[BlocksyncError]] = {}


def _register(kind: type[BlocksyncError]) -> None:
    _BY_CODE[kind.code] = kind
    for child in kind.__subclasses__():
        _register(child)


for _kind in (
    UsageError,
    IncompleteError,
    TargetError,
    StateError,
    PeerError,
    NetworkError,
    IntegrityError,
    FlattenError,
    TrustError,
):
    _register(_kind)


def error_by_code(code: object, message: object, remedy: object = None) -> BlocksyncError:
    """Make the error that a peer's code names; texts are cut, and neutralised where they are shown."""
    text = str(message)[:1000] if isinstance(message, str) else "the receiver gave no reason"
    kind = _BY_CODE.get(code, PeerError) if isinstance(code, str) else PeerError
    return kind(f"receiver: {text}", remedy=remedy[:500] if isinstance(remedy, str) else None)


def peer_error(payload: bytes) -> BlocksyncError:
    """Decode an ERROR frame's text."""
    try:
        said = json.loads(payload)
    except (ValueError, RecursionError):
        return ProtocolError("the receiver sent an ERROR that is no JSON")
    if not isinstance(said, dict):
        return ProtocolError("the receiver sent an ERROR that is no object")
    return error_by_code(said.get("code"), said.get("message"))
