"""The receiver's end of one data connection: frames in, typed events out, answers as bytes.

Sans-IO. All that a hostile or a confused sender can do with bytes ends here in a :class:`ProtocolError`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from blocksync.errors import BlocksyncError, ProtocolError
from blocksync.geometry import Geometry
from blocksync.protocol.limits import Limits
from blocksync.protocol.reader import FrameReader, check_lengths
from blocksync.protocol.states import RECEIVER_HEARS, RECEIVER_SENDS, State, step
from blocksync.protocol.wire import (
    MAX_ANSWER_BYTES,
    MAX_GREETING_BYTES,
    RANGE,
    Codec,
    Frame,
    FrameKind,
    Hello,
    encode_ranges,
)

MAX_RESEND_RANGES = MAX_ANSWER_BYTES // RANGE.size


@dataclass(frozen=True, slots=True)
class Binding:
    """What a proven connection is bound to for the rest of its life."""

    epoch: int
    geometry: Geometry
    limits: Limits


class DataReceiver:
    """State of one accepted connection.

    The driver fills ``reader``'s buffers; each frame it returns has passed :meth:`_check` and goes through
    :meth:`accept`, which says what the frame means by its kind, now known to be in order.
    """

    def __init__(self) -> None:
        self.state = State.NEW
        self.reader = FrameReader(self._check)
        self._binding: Binding | None = None
        self._heard = 0
        self._said = 0

    def greeting(self, frame: Frame, payload: memoryview) -> Hello:
        """Decode the first frame; the caller looks the session up and then calls :meth:`welcome`."""
        self._accept(frame)
        return Hello.decode(payload)

    def welcome(self, binding: Binding) -> bytes:
        """Bind the connection to its session; returns the bytes to send."""
        self._binding = binding
        return self._say(FrameKind.WELCOME, b"")

    def accept(self, frame: Frame) -> None:
        """Count a frame and step the state.

        Raises:
            ProtocolError: the frame is out of turn.
        """
        self._accept(frame)
        if frame.kind is FrameKind.END and frame.offset != frame.sequence:
            raise ProtocolError(f"END counts {frame.offset} frames where {frame.sequence} came")

    def done(self, again: list[tuple[int, int]]) -> bytes:
        """The answer to END: everything before it is written; ``again`` are the ranges to send as whole blocks."""
        if len(again) > MAX_RESEND_RANGES:
            raise ProtocolError(
                "too many blocks of the target do not hold what they were last known to hold",
                remedy="somebody else wrote to the target; there: blocksync manifest rebuild SLOT --target PATH",
            )
        return self._say(FrameKind.DONE, encode_ranges(again))

    def refuse(self, error: BlocksyncError) -> bytes:
        """An ERROR frame that tells the sender what went wrong, in bounded length."""
        text = json.dumps(
            {"code": error.code, "exit_code": error.exit_code, "message": error.message[:1000]}
        ).encode()
        return self._say(FrameKind.ERROR, text)

    def _say(self, kind: FrameKind, payload: bytes) -> bytes:
        self.state = step(RECEIVER_SENDS, self.state, kind, "tried to send")
        epoch = self._binding.epoch if self._binding else 0
        frame = Frame(kind=kind, epoch=epoch, sequence=self._said, payload_length=len(payload))
        self._said += 1
        return frame.encode() + payload

    def _accept(self, frame: Frame) -> None:
        self.state = step(RECEIVER_HEARS, self.state, frame.kind, "received")
        self._heard += 1

    def _check(self, frame: Frame) -> None:
        # Runs before the payload gets a buffer.
        if frame.kind not in RECEIVER_HEARS.get(self.state, {}):
            raise ProtocolError(f"received {frame.kind.name} while the data connection is {self.state.value}")
        if frame.sequence != self._heard:
            raise ProtocolError(f"frame {frame.sequence} where {self._heard} was due: repeated, reordered or lost")
        if self._binding is None:
            check_lengths(frame, MAX_GREETING_BYTES)
            return
        if frame.epoch != self._binding.epoch:
            raise ProtocolError(f"a frame of epoch {frame.epoch} in epoch {self._binding.epoch}: dropped")
        _check_content(frame, self._binding.geometry, self._binding.limits)


def _check_content(frame: Frame, geometry: Geometry, limits: Limits) -> None:
    check_lengths(frame, limits.frame_bytes)
    if frame.kind is FrameKind.END:
        if frame.payload_length or frame.plain_length:
            raise ProtocolError("END carries nothing")
        return
    if frame.kind is FrameKind.ZERO:
        if frame.payload_length or frame.codec is not Codec.RAW:
            raise ProtocolError("ZERO carries nothing")
        _check_range(geometry, frame.offset, frame.plain_length)
        return
    if not 0 < frame.plain_length <= limits.frame_bytes:
        raise ProtocolError(f"a frame declares {frame.plain_length} bytes, {limits.frame_bytes} are allowed")
    packed = frame.codec is not Codec.RAW
    if frame.payload_length == 0 or (frame.payload_length != frame.plain_length) != packed:
        raise ProtocolError(
            f"a frame of codec {frame.codec.name} has {frame.payload_length} bytes for {frame.plain_length} plain ones"
        )
    if frame.payload_length > frame.plain_length:
        raise ProtocolError("a packed payload is larger than what it holds")
    if frame.kind is FrameKind.DATA:
        _check_range(geometry, frame.offset, frame.plain_length)
    elif frame.offset % geometry.block_bytes or frame.offset >= geometry.size or not geometry.pages_per_block:
        raise ProtocolError(f"a PATCH at offset {frame.offset} does not begin at a block that has pages")


def _check_range(geometry: Geometry, offset: int, length: int) -> None:
    try:
        geometry.blocks_of(offset, length)
    except ValueError as error:
        raise ProtocolError(f"a frame names a range outside the slot or across blocks: {error}") from error
