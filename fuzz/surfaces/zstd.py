"""Packed payloads: frames that lie about their size, bombs, dictionaries, damage."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from blocksync.codec import Unpacker
from fuzz.surfaces import Surface

UNPACKER = Unpacker()


def run(data: bytes) -> None:
    if len(data) < 3:
        return
    length = int.from_bytes(data[:3], "little")
    plain = UNPACKER.unpack(memoryview(data)[3:], length)
    assert len(plain) == length


def seeds() -> Iterator[bytes]:
    for plain in (b"", b"a", bytes(4096), bytes(1 << 20), bytes(range(256)) * 16):
        for level in (-5, 1, 19):
            packed = zstandard.ZstdCompressor(level=level).compress(plain)
            for claimed in (len(plain), len(plain) + 1, 0):
                yield claimed.to_bytes(3, "little") + packed
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8192))
    yield (8192).to_bytes(3, "little") + unsized
    yield (8192).to_bytes(3, "little") + zstandard.ZstdCompressor(write_checksum=True).compress(bytes(8192)) + b"x"


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.codec",), most_bytes=2000)
