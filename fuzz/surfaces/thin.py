"""A thin pool's metadata: damaged trees, loops, numbers out of bounds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from blocksync.volumes import thin
from blocksync.volumes.reader import BytesReader
from blocksync.volumes.thin import BLOCK_BYTES, ThinPool, ThinReader
from fuzz.surfaces import Surface

BLOCKS = 6
ROOM = 160
"""Bytes of each block that come from the fuzzer: two areas of 80, at its start and where the superblock's roots are."""
CHUNK = 65536
DATA = BytesReader(bytes(4 * CHUNK))
SUPER, NODE = 160774, 121107
# Castagnoli's checksum costs milliseconds a block in Python; any other, on both sides, guards the same places.
thin.crc32c = zlib.crc32  # type: ignore[assignment, attr-defined]


def metadata(data: bytes, *, repair: bool) -> bytes:
    """Six blocks with the fuzzer's bytes in their places, their numbers and checksums right where that is wanted."""
    blocks = []
    for number in range(BLOCKS):
        part = data[number * ROOM : (number + 1) * ROOM].ljust(ROOM, b"\0")
        block = bytearray(BLOCK_BYTES)
        block[:80], block[320:400] = part[:80], part[80:]
        if number:
            # Values of a node of at most 6 entries lie right behind its keys, within the first area.
            block[80:160] = part[80:]
        if repair:
            struct.pack_into("<Q", block, 8, number)
            if not number:
                struct.pack_into("<Q", block, 32, 27022010)
            struct.pack_into("<I", block, 0, zlib.crc32(block[4:]) ^ (NODE if number else SUPER))
        blocks.append(bytes(block))
    return b"".join(blocks)


def run(data: bytes) -> None:
    if not data:
        return
    pool = ThinPool(BytesReader(metadata(data[1:], repair=bool(data[0] & 1))), DATA, CHUNK)
    for device in range(3):
        pool.mapped_blocks(device)
    reader = ThinReader(pool, 1, 64 * CHUNK)
    read = sum(len(reader.pread(at * CHUNK, CHUNK)) for at in range(64))
    assert read == reader.size
    assert len(reader.pread(1000, 3 * CHUNK)) == 3 * CHUNK


def _node(flags: int, entries: list[tuple[int, int]], most: int = 4) -> bytes:
    node = struct.pack("<IIQIIII", 0, flags, 0, len(entries), most, 8, 0)
    node += b"".join(struct.pack("<Q", key) for key, _ in entries).ljust(8 * most, b"\0")
    node += b"".join(struct.pack("<Q", value) for _, value in entries)
    return node.ljust(ROOM, b"\0")


def seeds() -> Iterator[bytes]:
    head = bytearray(ROOM)
    struct.pack_into("<I", head, 40, 2)  # version
    struct.pack_into("<QQI", head, 80, 1, 3, CHUNK // 512)
    leaf = _node(2, [(0, 1 << 24), (2, 3 << 24)])
    for root in (_node(2, [(1, 2)]), _node(1, [(0, 1)]), _node(1, [(1, 4)])):
        yield b"\x01" + bytes(head) + root + leaf + _node(2, [(1, 9)]) + _node(2, [(1, 2)])
    yield b"\0" + bytes(head)


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.volumes.thin",), most_bytes=1 + BLOCKS * ROOM)
