"""One data connection at the receiver: the whole data plane on a page.

A thread runs :func:`serve` for each proven connection. It reads a frame into the connection's buffer, unpacks it, and
lands it; the next frame is not read before that is done, so TCP's own window is the credit that the sender gets, and
a connection never holds more than one frame.
"""

from __future__ import annotations

import contextlib

from blocksync.codec import Unpacker
from blocksync.engine.landing import Landing
from blocksync.errors import BlocksyncError, NetworkError
from blocksync.protocol.limits import patch_blocks
from blocksync.protocol.receiver import Binding, DataReceiver
from blocksync.protocol.wire import Codec, Frame, FrameKind, decode_patch_table
from blocksync.transports.link import Link


def serve(link: Link, core: DataReceiver, binding: Binding, landing: Landing) -> None:
    """Land the frames of a connection until its END; answers, and closes the link in any case.

    Raises:
        BlocksyncError: what ended the connection early; the sender has been told where that was possible.
    """
    try:
        link.send(core.welcome(binding))
        unpacker = Unpacker()
        while True:
            frame, payload = read_frame(link, core)
            core.accept(frame)
            if frame.kind is FrameKind.END:
                link.send(core.done(landing.take_again()))
                return
            with landing.work.running():
                _land(frame, payload, unpacker, binding, landing)
    except BlocksyncError as error:
        if not isinstance(error, NetworkError):
            with contextlib.suppress(BlocksyncError):
                link.send(core.refuse(error))
        raise
    finally:
        link.close()


def read_frame(link: Link, core: DataReceiver) -> tuple[Frame, memoryview]:
    """The next whole frame; the payload is valid until the next call."""
    while True:
        complete = core.reader.filled(link.recv_into(core.reader.want()))
        if complete is not None:
            return complete


def _land(frame: Frame, payload: memoryview, unpacker: Unpacker, binding: Binding, landing: Landing) -> None:
    if frame.kind is FrameKind.ZERO:
        landing.zero(frame.offset, frame.plain_length)
        return
    if frame.codec is Codec.ZSTD:
        payload = memoryview(unpacker.unpack(payload, frame.plain_length))
    if frame.kind is FrameKind.DATA:
        landing.data(frame.offset, payload, frame.digest)
        return
    geometry = binding.geometry
    patches, pages_at = decode_patch_table(
        payload, blocks=patch_blocks(geometry), pages_per_block=geometry.pages_per_block
    )
    landing.patch(frame.offset, patches, payload[pages_at:], frame.digest)
