"""The data port of a receiver: a stream of frames, as a paired sender or a stranger may send them.

Checksums are hard to guess for a fuzzer, and no obstacle for somebody hostile: depending on the first byte, headers are
repaired before they are fed, so that what lies behind the checksum is reached too.
"""

from __future__ import annotations

import importlib
import mmap
import zlib
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from blocksync.codec import Packer, Unpacker
from blocksync.engine.inbound import _land
from blocksync.geometry import Geometry
from blocksync.protocol.limits import limits_for
from blocksync.protocol.receiver import Binding, DataReceiver
from blocksync.protocol.states import State
from blocksync.protocol.wire import HEADER_BYTES, BlockPatch, Codec, Frame, FrameKind, Hello
from fuzz.surfaces import Surface

BLOCK = 4096
GEOMETRY = Geometry((1 << 18) - 512, BLOCK)
EPOCH = 5
BINDING = Binding(epoch=EPOCH, geometry=GEOMETRY, limits=limits_for(GEOMETRY, 1))
HELLO = Hello(session=bytes(16), token=bytes(32), ordinal=0).encode()
GREETING = Frame(kind=FrameKind.HELLO, epoch=EPOCH, sequence=0, payload_length=len(HELLO)).encode() + HELLO
REPAIR, SEQUENCE, GREETED = 1, 2, 4
# A frame may be cut anywhere; where this many pieces have come, the rest comes in as large ones as there is room for.
PIECES = 24
# A connection has one of each for all its frames; to make them anew costs more than all the rest of an input.
UNPACKER = Unpacker()
reader: Any = importlib.import_module("blocksync.protocol.reader")
BUFFERS = SimpleNamespace(PAGESIZE=mmap.PAGESIZE, mmap=lru_cache(4)(mmap.mmap))


class _Landing:
    """Stands where the engine does: whatever arrives here must be within the slot."""

    def data(self, offset: int, plain: memoryview, digest: bytes) -> None:
        GEOMETRY.blocks_of(offset, len(plain))
        assert len(digest) == 16

    def zero(self, offset: int, length: int) -> None:
        GEOMETRY.blocks_of(offset, length)

    def patch(self, offset: int, patches: list[BlockPatch], pages: memoryview, digest: bytes) -> None:
        assert patches
        assert not offset % GEOMETRY.block_bytes
        at = -1
        for patch in patches:
            assert patch.index > at
            at, page = patch.index, 0
            assert patch.runs
            for first, count in patch.runs:
                assert page <= first < first + count <= GEOMETRY.pages_per_block
                page = first + count


def repaired(stream: bytes, *, sequence: bool) -> bytes:
    """The same frames with headers that hold."""
    fixed = bytearray(stream)
    at = count = 0
    while at + HEADER_BYTES <= len(fixed):
        fixed[at : at + 5] = b"BSYN\x01"
        fixed[at + 7] = 0
        if sequence:
            fixed[at + 8 : at + 16] = EPOCH.to_bytes(8, "little")
            fixed[at + 16 : at + 24] = count.to_bytes(8, "little")
        fixed[at + 60 : at + 64] = zlib.crc32(fixed[at : at + 60]).to_bytes(4, "little")
        count += 1
        at += HEADER_BYTES + int.from_bytes(fixed[at + 40 : at + 44], "little")
    return bytes(fixed)


def run(data: bytes) -> None:
    if len(data) < 2:
        return
    mode, cut, stream = data[0], 1 + data[1] * 8, data[2:]
    if mode & GREETED:
        stream = GREETING + stream
    if mode & REPAIR:
        stream = repaired(stream, sequence=bool(mode & SEQUENCE))
    reader.mmap = BUFFERS
    try:
        _feed(memoryview(stream), cut)
    finally:
        reader.mmap = mmap


def _feed(view: memoryview, cut: int) -> None:
    core, landing = DataReceiver(), _Landing()
    pieces = 0
    while view:
        buffer = core.reader.want()
        assert 0 < len(buffer) <= BINDING.limits.frame_bytes
        pieces += 1
        count = min(len(buffer), len(view), cut if pieces <= PIECES else len(view))
        buffer[:count] = view[:count]
        view = view[count:]
        complete = core.reader.filled(count)
        if complete is None:
            continue
        frame, payload = complete
        assert len(payload) == frame.payload_length
        if core.state is State.NEW:
            assert len(payload) <= 64
            core.greeting(frame, payload)
            core.welcome(BINDING)
            continue
        core.accept(frame)
        assert frame.epoch == EPOCH
        if frame.kind is FrameKind.END:
            core.done([])
            return
        _land(frame, payload, UNPACKER, BINDING, landing)  # type: ignore[arg-type]


def seeds() -> Iterator[bytes]:
    plain = bytes(range(256)) * (BLOCK // 256)
    packed = Packer().pack(bytes(BLOCK), 1) or b""
    table = b"\x01\0\0\0" + b"\0\0\x01\0" + b"\x01\0\0\0"
    patch = table + bytes(4096)
    frames = [
        Frame(kind=FrameKind.DATA, epoch=EPOCH, sequence=1, plain_length=len(plain), payload_length=len(plain)),
        Frame(kind=FrameKind.DATA, codec=Codec.ZSTD, epoch=EPOCH, sequence=2, offset=BLOCK, plain_length=BLOCK,
              payload_length=len(packed)),
        Frame(kind=FrameKind.ZERO, epoch=EPOCH, sequence=3, offset=32768, plain_length=65536),
        Frame(kind=FrameKind.PATCH, epoch=EPOCH, sequence=4, plain_length=len(patch), payload_length=len(patch)),
        Frame(kind=FrameKind.END, epoch=EPOCH, sequence=5, offset=5),
    ]  # fmt: skip
    whole = b"".join(
        frame.encode() + payload for frame, payload in zip(frames, (plain, packed, b"", patch, b""), strict=True)
    )
    for mode in (GREETED, GREETED | REPAIR, GREETED | REPAIR | SEQUENCE):
        yield bytes((mode, 255)) + whole
    yield bytes((REPAIR, 1)) + GREETING
    yield bytes((GREETED | REPAIR | SEQUENCE, 20)) + frames[3].encode() + patch
    yield bytes((GREETED | REPAIR | SEQUENCE, 20)) + frames[1].encode() + packed


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.protocol", "blocksync.engine.inbound", "blocksync.codec", "blocksync.geometry"),
    most_bytes=12 << 10,
)
