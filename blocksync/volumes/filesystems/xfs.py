"""XFS: the superblock, the allocation groups and their free-space trees.

Format after ``fs/xfs/libxfs/xfs_format.h``, big-endian except for the checksums. Free is what the tree sorted by block
number lists; everything else is used, so the free list of each group, log, inodes and trees are used by
construction. Version 5 guards every block with CRC-32C, and says whose it is and where it belongs; all of that is
verified. The map is made a group at a time, a leaf at a time.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import Filesystem, text_of
from blocksync.volumes.reader import Reader, read_bounded

_MAGIC = b"XFSB"
_SUPER_BYTES = 512
_HEAD = struct.Struct(">4sIQQQ16sQQQQIIIIIHHHH12sBBBBBBBBQQQQ")
assert _HEAD.size == 160
_INCOMPATIBLE_AT, _CRC_AT = 216, 224
# ftype, spinodes, meta_uuid, bigtime, needsrepair, nrext64, exchrange, parent
_FTYPE, _SPARSE, _META_UUID, _BIGTIME, _NEEDS_REPAIR, _NREXT64 = 1, 2, 4, 8, 16, 32
_KNOWN_INCOMPATIBLE = 0xFF
_MOST_LEVELS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that are needed; counts are blocks, sizes bytes."""

    block_bytes: int
    blocks: int
    free_blocks: int
    group_blocks: int
    groups: int
    log_start: int
    log_blocks: int
    root_inode: int
    sector_bytes: int
    inode_bytes: int
    inodes_per_block: int
    version: int
    features2: int
    read_only: int
    incompatible: int
    uuid: bytes
    meta_uuid: bytes
    label: str
    group_log: int
    directory_log: int
    in_progress: bool

    @property
    def crc(self) -> bool:
        return self.version == 5

    @property
    def ftype(self) -> bool:
        """Whether folder entries carry the kind of what they name."""
        return bool(self.incompatible & _FTYPE) if self.crc else bool(self.features2 & 0x200)

    @property
    def reflink(self) -> bool:
        return self.crc and bool(self.read_only & 4)


def has_signature(reader: Reader) -> bool:
    return reader.size >= _SUPER_BYTES and reader.pread(0, 4) == _MAGIC


def read_superblock(reader: Reader) -> Superblock:
    """The primary superblock.

    Raises:
        LayoutDamagedError: it is none, or its checksum or its numbers do not hold.
        LayoutUnknownError: neither version 4 nor 5.
    """
    raw = read_bounded(reader, 0, _SUPER_BYTES, "XFS superblock")
    fields = _HEAD.unpack_from(raw)
    magic, block, blocks, _, _, fsid, log_start, root, _, _, _, group, groups, _, log_blocks, version = fields[:16]
    sector, inode, per_block, label, _, _, _, _, group_log, _, in_progress, _, _, _, free, _ = fields[16:]
    if magic != _MAGIC:
        raise LayoutDamagedError("there is no XFS superblock")
    number = version & 0xF
    if number not in (4, 5):
        raise LayoutUnknownError(f"the XFS filesystem is of version {number}")
    if sector < 512 or sector > 32768 or sector & (sector - 1):
        raise LayoutDamagedError(f"XFS superblock: sectors of {sector} bytes")
    if number == 5:
        whole = read_bounded(reader, 0, sector, "XFS superblock")
        _verify(whole, _CRC_AT, "superblock")
    said = Superblock(
        block_bytes=block,
        blocks=blocks,
        free_blocks=free,
        group_blocks=group,
        groups=groups,
        log_start=log_start,
        log_blocks=log_blocks,
        root_inode=root,
        sector_bytes=sector,
        inode_bytes=inode,
        inodes_per_block=per_block,
        version=number,
        features2=struct.unpack_from(">I", raw, 200)[0] if version & 0x8000 or number == 5 else 0,
        read_only=struct.unpack_from(">I", raw, 212)[0] if number == 5 else 0,
        incompatible=struct.unpack_from(">I", raw, _INCOMPATIBLE_AT)[0] if number == 5 else 0,
        uuid=fsid,
        meta_uuid=raw[248:264],
        label=text_of(label),
        group_log=group_log,
        directory_log=raw[192],
        in_progress=bool(in_progress),
    )
    if (
        block not in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
        or not group
        or not groups
        or not (groups - 1) * group < blocks <= groups * group
        or not 256 <= inode <= 2048
        or inode & (inode - 1)
        or per_block != block // inode
        or 1 << group_log < group
        or said.directory_log > 8
        or free > blocks
    ):
        raise LayoutDamagedError("the XFS superblock contradicts itself")
    return said


def probe(reader: Reader) -> Filesystem | None:
    """What the superblock says; None where there is none."""
    if not has_signature(reader):
        return None
    said = read_superblock(reader)
    return Filesystem(
        kind="xfs",
        uuid=str(uuid.UUID(bytes=said.uuid)),
        label=said.label,
        size=said.blocks * said.block_bytes,
        used=(said.blocks - said.free_blocks) * said.block_bytes,
        block_bytes=said.block_bytes,
    )


def _verify(raw: bytes, at: int, what: str) -> None:
    """A CRC-32C over all of ``raw`` with the four bytes at ``at`` taken as zeros, stored little-endian."""
    found = crc32c(raw[:at] + bytes(4) + raw[at + 4 :]) ^ 0xFFFFFFFF
    if found != struct.unpack_from("<I", raw, at)[0]:
        raise LayoutDamagedError(f"XFS {what}: its checksum does not match")
