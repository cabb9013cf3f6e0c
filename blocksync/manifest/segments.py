"""One segment of claims in memory, and its canonical form."""

from __future__ import annotations

from dataclasses import dataclass

from blocksync.errors import ProtocolError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.format import SegmentState, known_bytes, payload_bytes

_TO_DIGITS = bytes([48, 49]) + bytes(range(2, 256))
_FROM_DIGITS = bytes(48) + bytes([0, 1]) + bytes(206)


@dataclass(slots=True)
class Segment:
    """Claims of one segment's blocks.

    Args:
        known: one byte a block, 1 where it is claimed.
        digests: 16 bytes a block; zeros where unknown.
        pages: 4 bytes a page; zeros where unknown.
    """

    known: bytearray
    digests: bytearray
    pages: bytearray

    def encode(self) -> bytes:
        """The canonical payload: known map, digests, sub-digests."""
        bits = int(bytes(self.known[::-1]).translate(_TO_DIGITS), 2)
        return b"".join((bits.to_bytes(known_bytes(len(self.known)), "little"), self.digests, self.pages))


def empty_segment(geometry: Geometry, blocks: int) -> Segment:
    return Segment(
        bytearray(blocks),
        bytearray(blocks * DIGEST_BYTES),
        bytearray(blocks * geometry.pages_per_block * PAGE_DIGEST_BYTES),
    )


def zero_segment(geometry: Geometry, kind: DigestKind, key: bytes, index: int) -> Segment:
    """The segment's claims where all of it is known to be zero; the disk's last block may be short."""
    blocks = geometry.blocks_in_segment(index)
    digest, pages = _zero_block(geometry.block_bytes, geometry, kind, key)
    segment = Segment(bytearray(b"\1" * blocks), bytearray(digest * blocks), bytearray(pages * blocks))
    last = index * geometry.segment_blocks + blocks - 1
    length = geometry.block_length(last)
    if length != geometry.block_bytes:
        digest, pages = _zero_block(length, geometry, kind, key)
        segment.digests[-DIGEST_BYTES:] = digest
        if pages:
            segment.pages[-len(pages) :] = pages
    return segment


def _zero_block(length: int, geometry: Geometry, kind: DigestKind, key: bytes) -> tuple[bytes, bytes]:
    digest = bytearray(DIGEST_BYTES)
    pages = bytearray(geometry.pages_per_block * PAGE_DIGEST_BYTES)
    scan(bytes(length), geometry.block_bytes, kind, key, digest, pages)
    return bytes(digest), bytes(pages)


def decode_segment(payload: bytes, geometry: Geometry, blocks: int) -> Segment:
    """Read a canonical payload.

    Raises:
        ProtocolError: it has another length, or is not canonical (a digest for an unknown block).
    """
    if len(payload) != payload_bytes(geometry, blocks):
        raise ProtocolError(f"a segment's payload has {len(payload)} bytes, not {payload_bytes(geometry, blocks)}")
    at = known_bytes(blocks)
    bits = int.from_bytes(payload[:at], "little")
    if bits >> blocks:
        raise ProtocolError("a segment's known map names blocks beyond its end")
    known = bytearray(f"{bits:0{blocks}b}".encode()[::-1].translate(_FROM_DIGITS))
    digests_end = at + blocks * DIGEST_BYTES
    segment = Segment(known, bytearray(payload[at:digests_end]), bytearray(payload[digests_end:]))
    per_block = geometry.pages_per_block * PAGE_DIGEST_BYTES
    start = known.find(0)
    while start >= 0:
        end = known.find(1, start)
        end = blocks if end < 0 else end
        if segment.digests.count(0, start * DIGEST_BYTES, end * DIGEST_BYTES) != (end - start) * DIGEST_BYTES or (
            segment.pages.count(0, start * per_block, end * per_block) != (end - start) * per_block
        ):
            raise ProtocolError("a segment has digests for unknown blocks")
        start = known.find(0, end)
    return segment


class Templates:
    """The constant segments of one disk: all unknown and all zero, with their digests; full-sized and last."""

    def __init__(self, geometry: Geometry, kind: DigestKind, key: bytes) -> None:
        self._geometry = geometry
        self._made: dict[tuple[SegmentState, bool], tuple[Segment, bytes]] = {}
        self._kind = kind
        self._key = key

    def get(self, state: SegmentState, index: int) -> tuple[Segment, bytes]:
        """The constant segment of a state (not STORED) and its digest; not to be changed."""
        geometry = self._geometry
        last = index == geometry.segment_count - 1
        made = self._made.get((state, last))
        if made is None:
            if state is SegmentState.UNKNOWN:
                segment = empty_segment(geometry, geometry.blocks_in_segment(index))
            else:
                segment = zero_segment(geometry, self._kind, self._key, index)
            made = self._made[state, last] = (segment, fold(self._kind, self._key, segment.encode()))
        return made
