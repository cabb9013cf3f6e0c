"""ext2, ext3 and ext4: the superblock and the group descriptors.

Format after ``fs/ext4/ext4.h`` and the kernel's ``Documentation/filesystems/ext4``, little-endian. With
``metadata_csum`` each checksum on the way is verified.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from functools import lru_cache

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import Filesystem, text_of
from blocksync.volumes.reader import Reader, read_bounded

SUPERBLOCK_AT = 1024
SUPERBLOCK_BYTES = 1024
_MAGIC = 0xEF53
_VALID, ERRORS = 1, 2
_HAS_JOURNAL, _SPARSE_SUPER2 = 0x4, 0x200
_RECOVER, _JOURNAL_DEV, _META_BG, _64BIT, _CSUM_SEED = 0x4, 0x8, 0x10, 0x80, 0x2000
_SPARSE_SUPER, _GDT_CSUM, _BIGALLOC, _METADATA_CSUM = 0x1, 0x10, 0x200, 0x400
# filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt,
# casefold
_KNOWN_INCOMPATIBLE = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x30000
_EXT3_INCOMPATIBLE = 0x2 | 0x4 | 0x10
_EXT3_READ_ONLY = 0x7
BLOCK_UNINIT = 2
_UNINIT_KINDS = _GDT_CSUM | _METADATA_CSUM
_CACHED_DESCRIPTORS = 64
_CACHED_DESCRIPTOR_BLOCKS = 64
BYTES_AT_ONCE = 1 << 16  # of descriptors, and of bitmaps: a disk answers that in the time of one block


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that are needed, sizes in bytes where the name says so, else in blocks."""

    block_bytes: int
    cluster_blocks: int
    blocks: int
    free_blocks: int
    first_data_block: int
    blocks_per_group: int
    inodes_per_group: int
    inodes: int
    inode_bytes: int
    compatible: int
    incompatible: int
    read_only: int
    state: int
    reserved_descriptors: int
    descriptor_bytes: int
    first_meta_group: int
    backup_groups: tuple[int, int]
    seed: int
    uuid: bytes
    label: str

    @property
    def groups(self) -> int:
        return -(-(self.blocks - self.first_data_block) // self.blocks_per_group)

    @property
    def checksums(self) -> bool:
        return bool(self.read_only & _METADATA_CSUM)

    @property
    def kind(self) -> str:
        if self.incompatible & _JOURNAL_DEV:
            return "jbd"
        if self.incompatible & ~_EXT3_INCOMPATIBLE or self.read_only & ~_EXT3_READ_ONLY:
            return "ext4"
        return "ext3" if self.compatible & _HAS_JOURNAL else "ext2"

    @property
    def clean(self) -> bool:
        return bool(self.state & _VALID) and not self.state & ERRORS and not self.incompatible & _RECOVER


def has_signature(reader: Reader) -> bool:
    return reader.size >= SUPERBLOCK_AT + SUPERBLOCK_BYTES and reader.pread(SUPERBLOCK_AT + 0x38, 2) == b"\x53\xef"


def probe(reader: Reader) -> Filesystem | None:
    """What the superblock says; None where there is none.

    Raises:
        LayoutDamagedError: its checksum or its numbers do not hold.
    """
    if not has_signature(reader):
        return None
    said = read_superblock(reader)
    return Filesystem(
        kind=said.kind,
        uuid=str(uuid.UUID(bytes=said.uuid)),
        label=said.label,
        size=said.blocks * said.block_bytes,
        used=(said.blocks - said.free_blocks) * said.block_bytes,
        block_bytes=said.block_bytes * said.cluster_blocks,
        clean=said.clean,
    )


def read_superblock(reader: Reader) -> Superblock:
    """The primary superblock.

    Raises:
        LayoutDamagedError: it is none, or its checksum or its numbers do not hold.
    """
    raw = read_bounded(reader, SUPERBLOCK_AT, SUPERBLOCK_BYTES, "ext superblock")

    def u32(at: int) -> int:
        return int.from_bytes(raw[at : at + 4], "little")

    def u16(at: int) -> int:
        return int.from_bytes(raw[at : at + 2], "little")

    if u16(0x38) != _MAGIC:
        raise LayoutDamagedError("there is no ext superblock")
    read_only, incompatible = u32(0x64), u32(0x60)
    if u32(0x4C) == 0:  # revision 0 has neither features nor sizes of its own
        read_only = incompatible = 0
    if read_only & _METADATA_CSUM and crc32c(raw[:0x3FC]) != u32(0x3FC):
        raise LayoutDamagedError("the checksum of the ext superblock does not match")
    if u32(0x18) > 6:
        raise LayoutDamagedError(f"ext superblock: blocks of 2^{u32(0x18) + 10} bytes")
    block_bytes = 1024 << u32(0x18)
    wide = bool(incompatible & _64BIT)
    bigalloc = bool(read_only & _BIGALLOC)
    if bigalloc and not u32(0x18) <= u32(0x1C) <= 20:
        raise LayoutDamagedError("ext superblock: clusters out of proportion")
    cluster_blocks = 1 << (u32(0x1C) - u32(0x18)) if bigalloc else 1
    seed = u32(0x270) if incompatible & _CSUM_SEED else crc32c(raw[0x68:0x78])
    said = Superblock(
        block_bytes=block_bytes,
        cluster_blocks=cluster_blocks,
        blocks=u32(0x04) | (u32(0x150) << 32 if wide else 0),
        free_blocks=u32(0x0C) | (u32(0x158) << 32 if wide else 0),
        first_data_block=u32(0x14),
        blocks_per_group=u32(0x20),
        inodes_per_group=u32(0x28),
        inodes=u32(0),
        inode_bytes=u16(0x58) if u32(0x4C) else 128,
        compatible=u32(0x5C),
        incompatible=incompatible,
        read_only=read_only,
        state=u16(0x3A),
        reserved_descriptors=u16(0xCE),
        descriptor_bytes=(u16(0xFE) or 64) if wide else 32,
        first_meta_group=u32(0x104),
        backup_groups=(u32(0x24C), u32(0x250)),
        seed=seed,
        uuid=raw[0x68:0x78],
        label=text_of(raw[0x78:0x88]),
    )
    if not said.incompatible & _JOURNAL_DEV:
        _check(said)
    return said


def _check(said: Superblock) -> None:
    bits = said.block_bytes * 8
    clusters = said.blocks_per_group // said.cluster_blocks
    if (
        not said.blocks_per_group
        or said.blocks_per_group % said.cluster_blocks
        or clusters % 8
        or clusters > bits
        or not 0 < said.inodes_per_group <= bits
        or said.first_data_block >= said.blocks
        or said.first_data_block > 1
        or said.free_blocks > said.blocks
        or said.descriptor_bytes not in (32, 64, 128, 256, 512, 1024)
        or said.inode_bytes < 128
        or said.inode_bytes & (said.inode_bytes - 1)
        or said.inode_bytes > said.block_bytes
        or said.groups > 1 << 32
    ):
        raise LayoutDamagedError("the ext superblock contradicts itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One group's: where its bitmaps and its inode table lie, in blocks."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    flags: int
    unused_inodes: int
    bitmap_checksum: int


class Groups:
    """The group descriptors of an ext filesystem, read when they are asked for.

    Args:
        reader: of the filesystem.

    Raises:
        LayoutUnknownError: it has a feature that changes what is read here.
        LayoutDamagedError: it is larger than the reader, or contradicts itself.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.super = said = read_superblock(reader)
        unknown = said.incompatible & ~_KNOWN_INCOMPATIBLE
        if unknown:
            raise LayoutUnknownError(
                f"the {said.kind} filesystem has features that are not read here: {unknown:#x}"
            )
        if said.blocks * said.block_bytes > reader.size:
            raise LayoutDamagedError(
                f"the {said.kind} filesystem has {said.blocks * said.block_bytes} bytes and lies in {reader.size}"
            )
        self._per_block = said.block_bytes // said.descriptor_bytes
        self._block = lru_cache(maxsize=_CACHED_DESCRIPTOR_BLOCKS)(self._read_block)
        self._piece_blocks = max(1, BYTES_AT_ONCE // said.block_bytes)
        self._piece = lru_cache(maxsize=1)(self._read_piece)
        self.descriptor = lru_cache(maxsize=_CACHED_DESCRIPTORS)(self._read_descriptor)

    def first_block(self, group: int) -> int:
        return self.super.first_data_block + group * self.super.blocks_per_group

    def blocks_in(self, group: int) -> int:
        return min(self.super.blocks_per_group, self.super.blocks - self.first_block(group))

    def read_block(self, block: int, what: str) -> bytes:
        size = self.super.block_bytes
        return read_bounded(self.reader, block * size, size, what)

    def has_super(self, group: int) -> bool:
        """Whether a group begins with a copy of the superblock."""
        said = self.super
        if group == 0:
            return True
        if said.compatible & _SPARSE_SUPER2:
            return group in said.backup_groups
        if group == 1 or not said.read_only & _SPARSE_SUPER:
            return True
        return group & 1 == 1 and any(_is_power(group, base) for base in (3, 5, 7))

    def _read_block(self, index: int) -> bytes:
        said = self.super
        if not said.incompatible & _META_BG or index < said.first_meta_group:
            number, at = divmod(index, self._piece_blocks)
            at *= said.block_bytes
            return self._piece(number)[at : at + said.block_bytes]
        group = index * self._per_block
        block = self.first_block(group) + (1 if self.has_super(group) else 0)
        if said.block_bytes == 1024 and index == 0 and said.first_data_block == 0:
            block += 1
        return self.read_block(block, "ext group descriptors")

    def _read_piece(self, number: int) -> bytes:
        """Several blocks of the descriptors that stand together at the start."""
        said = self.super
        first = number * self._piece_blocks
        count = min(self._piece_blocks, -(-said.groups // self._per_block) - first)
        if said.incompatible & _META_BG:
            count = min(count, said.first_meta_group - first)
        begin = (1 if said.block_bytes == 1024 else 0) + 1 + first
        length = count * said.block_bytes
        return read_bounded(self.reader, begin * said.block_bytes, length, "ext group descriptors")

    def _read_descriptor(self, group: int) -> Descriptor:
        """One group's descriptor, checksum verified."""
        said = self.super
        index, at = divmod(group, self._per_block)
        size = said.descriptor_bytes
        raw = self._block(index)[at * size : (at + 1) * size]
        self._verify(group, raw)
        low = struct.unpack_from("<IIIHHHHIHHHH", raw)
        block_bitmap, inode_bitmap, inode_table, _, _, _, flags, _, bitmap_sum, _, unused, _ = low
        if size >= 64:
            high = struct.unpack_from("<IIIHHHHIHHI", raw, 32)
            block_bitmap |= high[0] << 32
            inode_bitmap |= high[1] << 32
            inode_table |= high[2] << 32
            unused |= high[6] << 16
            bitmap_sum |= high[8] << 16
        return Descriptor(
            block_bitmap=block_bitmap,
            inode_bitmap=inode_bitmap,
            inode_table=inode_table,
            flags=flags if said.read_only & _UNINIT_KINDS else 0,
            unused_inodes=unused,
            bitmap_checksum=bitmap_sum,
        )

    def _verify(self, group: int, raw: bytes) -> None:
        said = self.super
        (stored,) = struct.unpack_from("<H", raw, 0x1E)
        number = struct.pack("<I", group)
        if said.checksums:
            found = crc32c(number + raw[:0x1E] + bytes(2) + raw[0x20:], said.seed) & 0xFFFF
        elif said.read_only & _GDT_CSUM:
            found = _crc16(said.uuid + number + raw[:0x1E] + raw[0x20:])
        else:
            return
        if found != stored:
            raise LayoutDamagedError(f"the checksum of the descriptor of ext group {group} does not match")

    def base_blocks(self, group: int) -> int:
        """Blocks at a group's start for copies of the superblock and of descriptors, at the most."""
        said = self.super
        own = 1 if self.has_super(group) else 0
        if not said.incompatible & _META_BG or group < said.first_meta_group * self._per_block:
            if not own:
                return 0
            blocks = -(-said.groups // self._per_block)
            if said.incompatible & _META_BG:
                blocks = min(blocks, said.first_meta_group)
            return own + blocks + said.reserved_descriptors
        return own + (1 if group % self._per_block in (0, 1, self._per_block - 1) else 0)


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _crc16(data: bytes) -> int:
    """CRC-16 as the kernel's ``crc16``: reflected 0x8005, start of all ones."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
