"""The exception store of a classic snapshot: no checksums, so every number may be anything."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.volumes.cow import CowStore, SnapshotReader
from blocksync.volumes.reader import BytesReader
from fuzz.surfaces import Surface

CHUNK = 512
ORIGIN = BytesReader(bytes(range(256)) * 64)


def run(data: bytes) -> None:
    if not data:
        return
    store = CowStore(BytesReader(data[1:] + bytes(-(len(data) - 1) % CHUNK)), CHUNK << (data[0] & 1))
    snapshot = SnapshotReader(ORIGIN, store)
    assert len(snapshot.pread(0, ORIGIN.size)) == ORIGIN.size
    assert len(snapshot.pread(700, 1000)) == 1000


def seeds() -> Iterator[bytes]:
    for sectors in (1, 2):
        head = struct.pack("<IIII", 0x70416E53, 1, 1, sectors).ljust(CHUNK * sectors, b"\0")
        table = struct.pack("<QQQQ", 0, 2, 3, 3).ljust(CHUNK * sectors, b"\0")
        yield bytes([sectors - 1]) + head + table + bytes(CHUNK * sectors * 4)
        yield bytes([sectors - 1]) + head
    yield b"\0" + struct.pack("<IIII", 0x70416E53, 0, 1, 1).ljust(2048, b"\0")


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.volumes.cow",), most_bytes=6145)
