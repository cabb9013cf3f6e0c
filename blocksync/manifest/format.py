"""The structs of docs/MANIFEST.md: manifest header, segment table, journal records. Little-endian throughout."""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from dataclasses import dataclass

from blocksync.errors import StateDamagedError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind

FORMAT_VERSION = 2
# Those whose header is laid out as here: what a slot was for is known of them, though not what it holds.
HEADER_VERSIONS = (1, FORMAT_VERSION)
MANIFEST_MAGIC = b"BSMANIF1"
HEADER_BYTES = 4096
HEADER = struct.Struct("<8sII16sQIIQQIIQ32s16sQHH")
assert HEADER.size == 140
TEXT_AT = 256
MAX_TEXT_BYTES = 1024
# Of generations, epochs and records: no honest count comes near, and one more than it still fits its field.
MAX_COUNTER = (1 << 63) - 1
ENTRY = struct.Struct("<B3sIQ16s")
assert ENTRY.size == 32

JOURNAL_MAGIC = 0x314A5342  # "BSJ1"
RECORD = struct.Struct("<IHHQQQIIQ")
assert RECORD.size == 48
MAX_RECORD_BYTES = 4 << 20
RUN = struct.Struct("<QQ")
assert RUN.size == 16
BEGIN = struct.Struct("<16sQQ")
assert BEGIN.size == 32


class SegmentState(enum.IntEnum):
    UNKNOWN = 0
    ZERO = 1
    STORED = 2


class RecordKind(enum.IntEnum):
    BEGIN = 1
    EPOCH = 2
    INTENT = 3
    CLAIM = 4
    CLAIM_ZERO = 5
    WITHDRAW = 6
    REST = 7


def entry(state: int, payload: bytes, offset: int, digest: bytes, known: int) -> bytes:
    """A segment's entry in the table.

    Args:
        state: one of :class:`SegmentState`.
        payload: of a STORED segment, else empty.
        offset: of the payload in the file.
        digest: of the segment.
        known: claimed blocks of a STORED segment, else 0; at most 65536, those of 256 MiB in blocks of 4 KiB.
    """
    return ENTRY.pack(state, known.to_bytes(3, "little"), len(payload), offset, digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A manifest's first page.

    Args:
        manifest_id: 16 random bytes, kept over generations; a new one when the slot starts anew.
        generation: number of committed passes.
        complete: whether it is the end of a pass (else a pass in progress that was compacted).
        covered: journal records up to this sequence number are contained.
        epoch: the last one handed out.
        geometry, kind, key: how blocks are cut and digested.
        root: of the digest tree.
        source_identity, write_mark: texts of at most 1024 bytes.
    """

    manifest_id: bytes
    generation: int
    complete: bool
    covered: int
    epoch: int
    geometry: Geometry
    kind: DigestKind
    key: bytes
    root: bytes
    table_checksum: int
    source_identity: str
    write_mark: str

    def encode(self) -> bytes:
        identity, mark = _encoded(fitted(self.source_identity)), _encoded(fitted(self.write_mark))
        head = HEADER.pack(
            MANIFEST_MAGIC,
            FORMAT_VERSION,
            int(self.complete),
            self.manifest_id,
            self.generation,
            self.geometry.block_bytes,
            self.geometry.sector_bytes,
            self.geometry.size,
            self.covered,
            self.kind,
            self.table_checksum,
            self.epoch,
            self.key,
            self.root,
            0,
            len(identity),
            len(mark),
        )
        page = bytearray(HEADER_BYTES)
        page[: len(head)] = head
        page[TEXT_AT : TEXT_AT + len(identity)] = identity
        page[TEXT_AT + MAX_TEXT_BYTES : TEXT_AT + MAX_TEXT_BYTES + len(mark)] = mark
        page[-4:] = zlib.crc32(page[:-4]).to_bytes(4, "little")
        return bytes(page)

    @classmethod
    def decode(cls, page: bytes, versions: tuple[int, ...] = (FORMAT_VERSION,)) -> Header:
        """Read a header page of one of these formats.

        Raises:
            StateDamagedError: its checksum does not match, or a field is out of range.
        """
        if len(page) != HEADER_BYTES or page[:8] != MANIFEST_MAGIC:
            raise StateDamagedError("the manifest does not begin as a manifest")
        if zlib.crc32(page[:-4]) != int.from_bytes(page[-4:], "little"):
            raise StateDamagedError("the manifest's header is damaged: its checksum does not match")
        (_, version, complete, manifest_id, generation, block, sector, size, covered, kind, table, epoch, key, root,
         _, identity_length, mark_length) = HEADER.unpack_from(page)  # fmt: skip
        if version not in versions:
            raise StateDamagedError(
                f"the manifest has format {version}, this version of blocksync knows {FORMAT_VERSION}",
                remedy="use the version of blocksync that wrote it, or make the manifest anew by reading the target: "
                "blocksync manifest rebuild SLOT --target PATH",
            )
        if max(generation, covered, epoch) > MAX_COUNTER:
            raise StateDamagedError("the manifest's header is damaged: a counter is out of range")
        texts = page[TEXT_AT : TEXT_AT + 2 * MAX_TEXT_BYTES]
        try:
            return cls(
                manifest_id=manifest_id,
                generation=generation,
                complete=bool(complete),
                covered=covered,
                epoch=epoch,
                geometry=Geometry(size, block, sector),
                kind=DigestKind(kind),
                key=key,
                root=root,
                table_checksum=table,
                source_identity=texts[:identity_length].decode(errors="surrogatepass"),
                write_mark=texts[MAX_TEXT_BYTES : MAX_TEXT_BYTES + mark_length].decode(errors="surrogatepass"),
            )
        except Exception as error:
            raise StateDamagedError(f"the manifest's header is out of range: {error}") from error


def fitted(text: str) -> str:
    """A text as a header keeps it: one that is too long becomes its beginning and its digest, so that it stays itself.

    Paths may be of any bytes; those that are no UTF-8 come as lone surrogates, and are kept as such.
    """
    raw = _encoded(text)
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    mark = f"...sha256:{hashlib.sha256(raw).hexdigest()}"
    return raw[: MAX_TEXT_BYTES - len(mark) - 8].decode(errors="ignore") + mark


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def known_bytes(blocks: int) -> int:
    """Length of a segment's known map: one bit a block, least significant bit first."""
    return -(-blocks // 8)


def claimed_in(payload: bytes, blocks: int) -> int:
    """Blocks that a canonical payload claims."""
    return int.from_bytes(payload[: known_bytes(blocks)], "little").bit_count()


def payload_bytes(geometry: Geometry, blocks: int) -> int:
    """Length of a segment's canonical payload: known map, digests, sub-digests."""
    return known_bytes(blocks) + blocks * (DIGEST_BYTES + PAGE_DIGEST_BYTES * geometry.pages_per_block)
