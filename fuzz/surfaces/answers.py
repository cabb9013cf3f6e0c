"""What a sender hears on a data connection: WELCOME, DONE with ranges, ERROR with JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from blocksync.protocol.sender import DataSender
from blocksync.protocol.wire import Frame, FrameKind, Hello, encode_ranges
from fuzz.surfaces import Surface
from fuzz.surfaces.frames import EPOCH, REPAIR, SEQUENCE, repaired

HELLO = Hello(session=bytes(16), token=bytes(32), ordinal=0)
ENDED = 4


def run(data: bytes) -> None:
    if len(data) < 2:
        return
    mode, cut, stream = data[0], 1 + data[1] * 8, data[2:]
    if mode & REPAIR:
        stream = repaired(stream, sequence=bool(mode & SEQUENCE))
    core = DataSender(EPOCH)
    core.hello(HELLO)
    view = memoryview(stream)
    said_end = False
    while view:
        buffer = core.reader.want()
        count = min(len(buffer), len(view), cut)
        buffer[:count] = view[:count]
        view = view[count:]
        complete = core.reader.filled(count)
        if complete is None:
            continue
        again = core.heard(*complete)
        for offset, length in again:
            assert 0 <= offset < 1 << 64
            assert length >= 0
        if mode & ENDED and not said_end:
            core.end()
            said_end = True


def seeds() -> Iterator[bytes]:
    welcome = Frame(kind=FrameKind.WELCOME, epoch=EPOCH, sequence=0).encode()
    ranges = encode_ranges([(0, 65536), (1 << 20, 4096)])
    done = Frame(kind=FrameKind.DONE, epoch=EPOCH, sequence=1, payload_length=len(ranges)).encode() + ranges
    text = json.dumps({"code": "BS0502", "exit_code": 5, "message": "the disk is gone", "remedy": "look"}).encode()
    error = Frame(kind=FrameKind.ERROR, epoch=EPOCH, sequence=1, payload_length=len(text)).encode() + text
    for mode in (ENDED, ENDED | REPAIR, ENDED | REPAIR | SEQUENCE, REPAIR | SEQUENCE):
        yield bytes((mode, 255)) + welcome + done
        yield bytes((mode, 9)) + welcome + error


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.protocol",))
