"""btrfs: the superblock, the chunk tree and the extent tree.

Format after ``include/uapi/linux/btrfs_tree.h``, little-endian.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import Filesystem, text_of
from blocksync.volumes.reader import Reader, read_bounded

SUPERBLOCK_AT = 64 << 10
SUPERBLOCK_BYTES = 4096
_MAGIC = b"_BHRfS_M"


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that are needed; sizes in bytes."""

    checksum: int
    generation: int
    root: int
    chunk_root: int
    chunk_root_generation: int
    log_root: int
    total: int
    used: int
    devices: int
    sector_bytes: int
    node_bytes: int
    incompatible: int
    root_level: int
    chunk_level: int
    device: int
    device_bytes: int
    fsid: bytes
    metadata_fsid: bytes
    label: str
    system_chunks: bytes


def has_signature(reader: Reader) -> bool:
    return (
        reader.size >= SUPERBLOCK_AT + SUPERBLOCK_BYTES and reader.pread(SUPERBLOCK_AT + 64, len(_MAGIC)) == _MAGIC
    )


def checksum(kind: int, data: bytes) -> bytes:
    """A checksum of btrfs's kinds: CRC-32C, xxHash64, SHA-256, BLAKE2b."""
    if kind == 0:
        return struct.pack("<I", crc32c(data) ^ 0xFFFFFFFF)
    if kind == 1:
        import xxhash

        return struct.pack("<Q", xxhash.xxh64_intdigest(data))
    if kind == 2:
        return hashlib.sha256(data).digest()
    if kind == 3:
        return hashlib.blake2b(data, digest_size=32).digest()
    raise LayoutUnknownError(f"the btrfs filesystem has checksums of kind {kind}")


def verify(kind: int, raw: bytes, what: str) -> None:
    """Check a block, whose first 32 bytes hold the checksum of the rest."""
    found = checksum(kind, raw[32:])
    if raw[: len(found)] != found:
        raise LayoutDamagedError(f"btrfs {what}: its checksum does not match")


def read_superblock(reader: Reader) -> Superblock:
    """The first superblock.

    Raises:
        LayoutDamagedError: it is none, or its checksum or its numbers do not hold.
    """
    raw = read_bounded(reader, SUPERBLOCK_AT, SUPERBLOCK_BYTES, "btrfs superblock")
    if raw[64:72] != _MAGIC:
        raise LayoutDamagedError("there is no btrfs superblock")
    (kind,) = struct.unpack_from("<H", raw, 196)
    verify(kind, raw, "superblock")
    generation, root, chunk_root, log_root, _, total, used, _, devices = struct.unpack_from("<9Q", raw, 72)
    sector, node, _, _, system = struct.unpack_from("<5I", raw, 144)
    (chunk_generation,) = struct.unpack_from("<Q", raw, 164)
    (incompatible,) = struct.unpack_from("<Q", raw, 188)
    device, device_bytes = struct.unpack_from("<QQ", raw, 201)
    fsid = raw[32:48]
    said = Superblock(
        checksum=kind,
        generation=generation,
        root=root,
        chunk_root=chunk_root,
        chunk_root_generation=chunk_generation,
        log_root=log_root,
        total=total,
        used=used,
        devices=devices,
        sector_bytes=sector,
        node_bytes=node,
        incompatible=incompatible,
        root_level=raw[198],
        chunk_level=raw[199],
        device=device,
        device_bytes=device_bytes,
        fsid=fsid,
        metadata_fsid=raw[571:587] if incompatible & 0x400 else fsid,
        label=text_of(raw[299:555]),
        system_chunks=raw[811 : 811 + min(system, 2048)],
    )
    if (
        node not in (4096, 8192, 16384, 32768, 65536)
        or sector not in (4096, 8192, 16384, 32768, 65536)
        or system > 2048
        or struct.unpack_from("<Q", raw, 48)[0] != SUPERBLOCK_AT
    ):
        raise LayoutDamagedError("the btrfs superblock contradicts itself")
    return said


def probe(reader: Reader) -> Filesystem | None:
    """What the superblock says; None where there is none."""
    if not has_signature(reader):
        return None
    said = read_superblock(reader)
    return Filesystem(
        kind="btrfs",
        uuid=str(uuid.UUID(bytes=said.fsid)),
        label=said.label,
        size=said.device_bytes,
        used=said.used if said.devices == 1 else None,
        block_bytes=said.sector_bytes,
    )
