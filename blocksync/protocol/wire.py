"""The data port's structs, as docs/PROTOCOL.md lays them out.

One header of 64 bytes opens every frame. It is little-endian, carries its own CRC-32 so that a reader that lost
its place stops at once, and names every length before anything is allocated. TLS guards against strangers; the
checksum guards against us.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from blocksync.errors import ProtocolError, VersionSkewError

PROTOCOL_VERSION = 1
MAGIC = b"BSYN"
HEADER = struct.Struct("<4sBBBBQQQQI16sI")
HEADER_BYTES = 64
assert HEADER.size == HEADER_BYTES
HELLO = struct.Struct("<16s32sHH12x")
HELLO_BYTES = 64
assert HELLO.size == HELLO_BYTES
_HELLO_USED_BYTES = HELLO_BYTES - 12
RANGE = struct.Struct("<QQ")
assert RANGE.size == 16
PATCH_BLOCK = struct.Struct("<HH")
PATCH_RUN = struct.Struct("<HH")
assert PATCH_BLOCK.size == PATCH_RUN.size == 4

NO_DIGEST = bytes(16)
MAX_U64 = (1 << 64) - 1
# What may come before a connection has proven itself: one HELLO. Nothing larger is ever allocated for a stranger.
MAX_GREETING_BYTES = HELLO_BYTES
# An answer (DONE with the ranges to send again, ERROR with a text) is bounded whatever was negotiated.
MAX_ANSWER_BYTES = 1 << 20


class FrameKind(enum.IntEnum):
    HELLO = 1
    WELCOME = 2
    DATA = 3
    PATCH = 4
    ZERO = 5
    END = 6
    DONE = 7
    ERROR = 8


class Codec(enum.IntEnum):
    RAW = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A header, checked and decoded; the payload travels beside it in a buffer of the driver's.

    Args:
        kind: what the frame says.
        codec: how the payload is packed.
        epoch: of the session; frames of another epoch are dropped.
        sequence: counts the frames of one connection and direction from 0.
        offset: in the disk, bytes; END carries the number of frames before it.
        plain_length: bytes the payload has once unpacked; for ZERO the length of the range.
        payload_length: bytes that follow the header.
        digest: of the plain content, see docs/PROTOCOL.md; zeros where a frame has none.
    """

    kind: FrameKind
    codec: Codec = Codec.RAW
    epoch: int
    sequence: int
    offset: int = 0
    plain_length: int = 0
    payload_length: int = 0
    digest: bytes = NO_DIGEST

    def encode(self) -> bytes:
        head = HEADER.pack(
            MAGIC,
            PROTOCOL_VERSION,
            self.kind,
            self.codec,
            0,
            self.epoch,
            self.sequence,
            self.offset,
            self.plain_length,
            self.payload_length,
            self.digest,
            0,
        )
        return head[:-4] + zlib.crc32(head[:-4]).to_bytes(4, "little")


def decode_header(header: bytes | bytearray | memoryview) -> Frame:
    """Decode 64 bytes.

    Raises:
        VersionSkewError: the peer speaks another version of the protocol.
        ProtocolError: anything else that is no header of ours.
    """
    if len(header) != HEADER_BYTES:
        raise ProtocolError(f"a frame header has {HEADER_BYTES} bytes, not {len(header)}")
    magic, version, kind, codec, flags, epoch, sequence, offset, plain, payload, digest, checksum = HEADER.unpack(
        header
    )
    if magic != MAGIC:
        raise ProtocolError("the data connection carries something that is not a blocksync frame")
    if version != PROTOCOL_VERSION:
        raise VersionSkewError(f"the peer speaks data protocol {version}, this end {PROTOCOL_VERSION}")
    if zlib.crc32(memoryview(header)[:-4]) != checksum:
        raise ProtocolError("a frame header is damaged: its checksum does not match")
    if flags:
        raise ProtocolError(f"unknown frame flags {flags:#x}")
    try:
        return Frame(
            kind=FrameKind(kind),
            codec=Codec(codec),
            epoch=epoch,
            sequence=sequence,
            offset=offset,
            plain_length=plain,
            payload_length=payload,
            digest=digest,
        )
    except ValueError as error:
        raise ProtocolError(f"unknown frame kind {kind} or codec {codec}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a data connection says of itself: the session it belongs to and the session's secret token."""

    session: bytes
    token: bytes
    ordinal: int

    def encode(self) -> bytes:
        return HELLO.pack(self.session, self.token, self.ordinal, PROTOCOL_VERSION)

    @classmethod
    def decode(cls, payload: bytes | memoryview) -> Hello:
        if len(payload) != HELLO_BYTES:
            raise ProtocolError(f"a HELLO has {HELLO_BYTES} bytes, not {len(payload)}")
        session, token, ordinal, version = HELLO.unpack(payload)
        if version != PROTOCOL_VERSION:
            raise VersionSkewError(f"the peer speaks data protocol {version}, this end {PROTOCOL_VERSION}")
        if any(payload[_HELLO_USED_BYTES:]):
            raise ProtocolError("the reserved bytes of a HELLO are not zero")
        return cls(session=session, token=token, ordinal=ordinal)


def encode_ranges(ranges: Sequence[tuple[int, int]]) -> bytes:
    """DONE's payload: ``(offset, length)`` of what the sender must send again as whole blocks."""
    return b"".join(RANGE.pack(offset, length) for offset, length in ranges)


def decode_ranges(payload: bytes | memoryview) -> list[tuple[int, int]]:
    if len(payload) % RANGE.size:
        raise ProtocolError("a list of ranges is cut short")
    return [(offset, length) for offset, length in RANGE.iter_unpack(payload)]


@dataclass(frozen=True, slots=True)
class BlockPatch:
    """The pages of one block that changed.

    Args:
        index: of the block, counted from the frame's offset.
        runs: ``(first page, pages)`` within the block, ascending, not touching.
    """

    index: int
    runs: tuple[tuple[int, int], ...]


def encode_patch_table(patches: Sequence[BlockPatch]) -> bytes:
    """The table at the head of a PATCH; the pages follow in the table's order."""
    parts = [len(patches).to_bytes(4, "little")]
    for patch in patches:
        parts.append(PATCH_BLOCK.pack(patch.index, len(patch.runs)))
        parts.extend(PATCH_RUN.pack(first, count - 1) for first, count in patch.runs)
    return b"".join(parts)


def decode_patch_table(payload: memoryview, *, blocks: int, pages_per_block: int) -> tuple[list[BlockPatch], int]:
    """Read the table at the head of an unpacked PATCH.

    Args:
        payload: the unpacked bytes.
        blocks: indexes must be below this.
        pages_per_block: pages must be below this.

    Returns:
        the patches, and the offset in ``payload`` at which their pages begin.

    Raises:
        ProtocolError: the table is cut, out of order or out of bounds.
    """
    total = len(payload)
    if total < 4:
        raise ProtocolError("a PATCH is cut short")
    count = int.from_bytes(payload[:4], "little")
    if not 0 < count <= blocks:
        raise ProtocolError(f"a PATCH names {count} blocks where {blocks} are possible")
    at = 4
    patches: list[BlockPatch] = []
    last_index = -1
    for _ in range(count):
        if at + PATCH_BLOCK.size > total:
            raise ProtocolError("a PATCH is cut short")
        index, run_count = PATCH_BLOCK.unpack_from(payload, at)
        at += PATCH_BLOCK.size
        if index <= last_index or index >= blocks or not 0 < run_count <= pages_per_block:
            raise ProtocolError("a PATCH names blocks out of order or out of bounds")
        if at + run_count * PATCH_RUN.size > total:
            raise ProtocolError("a PATCH is cut short")
        patches.append(BlockPatch(index, _decode_runs(payload, at, run_count, pages_per_block)))
        at += run_count * PATCH_RUN.size
        last_index = index
    return patches, at


def _decode_runs(payload: memoryview, at: int, count: int, pages_per_block: int) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    free_from = 0
    for first, more in PATCH_RUN.iter_unpack(payload[at : at + count * PATCH_RUN.size]):
        if first < free_from or first + more >= pages_per_block:
            raise ProtocolError("a PATCH names pages out of order or out of bounds")
        runs.append((first, more + 1))
        free_from = first + more + 1
    return tuple(runs)
