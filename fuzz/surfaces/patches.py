"""Small structures within frames and answers: patch tables, HELLO, ranges, ERROR's JSON, a segment of a manifest."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.segments import decode_segment
from blocksync.manifest.working import BlockMap
from blocksync.protocol.sender import peer_error
from blocksync.protocol.wire import Hello, decode_patch_table, decode_ranges
from fuzz.surfaces import Surface

GEOMETRY = Geometry(300 << 10, 65536)


def run(data: bytes) -> None:
    if not data:
        return
    what, rest = data[0] % 6, data[1:]
    if what == 0:
        patches, at = decode_patch_table(memoryview(rest), blocks=16, pages_per_block=16)
        assert 0 < at <= len(rest)
        assert patches
    elif what == 1:
        assert len(Hello.decode(rest).token) == 32
    elif what == 2:
        decode_ranges(rest)
    elif what == 3:
        raise peer_error(rest)
    elif what == 4:
        segment = decode_segment(rest, GEOMETRY, GEOMETRY.block_count)
        assert segment.encode() == rest
    else:
        blocks = BlockMap(GEOMETRY, DigestKind.XXH3, bytes(32))
        blocks.import_segment(0, rest[0] if rest else 0, rest[1:])
        list(blocks.claimed_runs())
        blocks.root()


def seeds() -> Iterator[bytes]:
    yield b"\0\x02\0\0\0\0\0\x01\0\0\0\0\0\x03\0\x02\0\x01\0\x02\0\x05\0\x00\0"
    yield b"\x01" + bytes(48) + b"\0\0\x01\0" + bytes(12)
    yield b"\x02" + bytes(32)
    yield b'\x03{"code": "BS0800", "message": "gone"}'
    yield b"\x03" + b"[" * 2000
    for known in (0, 1, 31):
        size = 1 + 5 * 16 + 5 * 16 * 4
        body = bytearray([known]) + bytes(size - 1)
        yield b"\x04" + bytes(body)
        yield b"\x05\x02" + bytes(body)
    yield b"\x05\x01"


SURFACE = Surface(
    run=run,
    seeds=seeds,
    modules=("blocksync.protocol", "blocksync.manifest.segments", "blocksync.manifest.working"),
)
