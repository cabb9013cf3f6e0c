"""XFS: the superblock, the allocation groups and their free-space trees.

Format after ``fs/xfs/libxfs/xfs_format.h``, big-endian except for the checksums. Free is what the tree sorted by block
number lists; everything else is used, so the free list of each group, log, inodes and trees are used by
construction. Version 5 guards every block with CRC-32C, and says whose it is and where it belongs; all of that is
verified. The map is made a group at a time, a leaf at a time.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import Filesystem, clipped, complement, text_of
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
        verify(whole, _CRC_AT, "superblock")
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


def verify(raw: bytes, at: int, what: str) -> None:
    """A CRC-32C over all of ``raw`` with the four bytes at ``at`` taken as zeros, stored little-endian."""
    found = crc32c(raw[:at] + bytes(4) + raw[at + 4 :]) ^ 0xFFFFFFFF
    if found != struct.unpack_from("<I", raw, at)[0]:
        raise LayoutDamagedError(f"XFS {what}: its checksum does not match")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A kind of short-form B-tree: magics of versions 4 and 5, sizes of records and keys in bytes."""

    name: str
    magics: tuple[bytes, bytes]
    record_bytes: int
    key_bytes: int


_FREE = Tree(name="free-space tree", magics=(b"ABTB", b"AB3B"), record_bytes=8, key_bytes=8)
_COUNTS = Tree(name="reference-count tree", magics=(b"", b"R3FC"), record_bytes=12, key_bytes=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """An allocation group's header of free space: length in blocks, roots and levels of its trees."""

    length: int
    root: int
    levels: int
    counts_root: int
    counts_levels: int


class Groups:
    """The allocation groups of an XFS filesystem.

    Args:
        reader: of the filesystem.

    Raises:
        LayoutUnknownError: a feature changes what is read here.
        LayoutDamagedError: it is larger than the reader, or contradicts itself.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.super = said = read_superblock(reader)
        if said.incompatible & ~_KNOWN_INCOMPATIBLE:
            raise LayoutUnknownError(
                f"the XFS filesystem has features that are not read here: {said.incompatible:#x}"
            )
        if said.incompatible & _NEEDS_REPAIR or said.in_progress:
            raise FilesystemDirtyError("the XFS filesystem needs xfs_repair")
        if said.blocks * said.block_bytes > reader.size:
            raise LayoutDamagedError(
                f"the XFS filesystem has {said.blocks * said.block_bytes} bytes and lies in {reader.size}"
            )
        self._owner_uuid = said.meta_uuid if said.incompatible & _META_UUID else said.uuid

    def first_block(self, group: int) -> int:
        return group * self.super.group_blocks

    def blocks_in(self, group: int) -> int:
        return min(self.super.group_blocks, self.super.blocks - self.first_block(group))

    def linear(self, block: int) -> int:
        """A filesystem block number, which has the group in its upper bits, as a count from the start.

        Raises:
            LayoutDamagedError: there is no such block.
        """
        group, within = block >> self.super.group_log, block & ((1 << self.super.group_log) - 1)
        if group >= self.super.groups or within >= self.blocks_in(group):
            raise LayoutDamagedError(f"XFS: there is no block {block}")
        return self.first_block(group) + within

    def header(self, group: int) -> Group:
        """The AGF of a group, the second sector."""
        said = self.super
        at = self.first_block(group) * said.block_bytes + said.sector_bytes
        raw = read_bounded(self.reader, at, said.sector_bytes, f"XFS free-space header of group {group}")
        if said.crc:
            verify(raw, 216, f"free-space header of group {group}")
        magic, _, number, length, root, _, _, levels = struct.unpack_from(">4s7I", raw)
        if magic != b"XAGF" or number != group or length != self.blocks_in(group):
            raise LayoutDamagedError(f"XFS: the free-space header of group {group} contradicts the superblock")
        counts_root, counts_levels = struct.unpack_from(">II", raw, 88)
        return Group(length=length, root=root, levels=levels, counts_root=counts_root, counts_levels=counts_levels)

    def free(self, group: int, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Free runs ``(start, end)`` in blocks of the group that begin in ``[first, stop)`` or just before."""
        header = self.header(group)
        at = 0
        for record in self._records(_FREE, group, header.root, header.levels, first, stop, [0]):
            start, count = struct.unpack(">II", record)
            if start < at or not count or start + count > header.length:
                raise LayoutDamagedError(f"XFS: the free-space tree of group {group} is not in order")
            at = start + count
            yield start, at

    def shared(self, group: int) -> Iterator[tuple[int, int]]:
        """Runs of blocks of the group that several files share; empty without reflink."""
        if not self.super.reflink:
            return
        header = self.header(group)
        for record in self._records(
            _COUNTS, group, header.counts_root, header.counts_levels, 0, header.length, [0]
        ):
            start, count, references = struct.unpack(">III", record)
            # The upper bit marks blocks of a copy on write that is under way: nobody else's yet.
            if not start >> 31 and references > 1:
                yield start, start + count

    def _records(
        self, tree: Tree, group: int, block: int, levels: int, first: int, stop: int, visits: list[int]
    ) -> Iterator[bytes]:
        """The records of a tree whose range can touch ``[first, stop)``, in order."""
        visits[0] += 1
        if not 1 <= levels <= _MOST_LEVELS or visits[0] > self.super.group_blocks:
            raise LayoutDamagedError(f"XFS: the {tree.name} of group {group} does not end")
        raw, count, at = self._node(tree, group, block, levels - 1)
        size = tree.record_bytes
        if levels == 1:
            for index in range(count):
                record = raw[at + index * size : at + (index + 1) * size]
                if int.from_bytes(record[:4], "big") & 0x7FFFFFFF >= stop:
                    return
                yield record
            return
        most = (len(raw) - at) // (tree.key_bytes + 4)
        keys = [int.from_bytes(raw[at + i * tree.key_bytes :][:4], "big") for i in range(count)]
        pointers = struct.unpack_from(f">{count}I", raw, at + most * tree.key_bytes)
        for index, pointer in enumerate(pointers):
            if keys[index] >= stop and keys[index] < 1 << 31:
                return
            if index + 1 < count and keys[index + 1] <= first:
                continue
            yield from self._records(tree, group, pointer, levels - 1, first, stop, visits)

    def _node(self, tree: Tree, group: int, block: int, level: int) -> tuple[bytes, int, int]:
        """A block of a tree: its bytes, how many entries it has, where they begin."""
        said = self.super
        what = f"{tree.name} of group {group}"
        if block >= self.blocks_in(group):
            raise LayoutDamagedError(f"XFS {what}: it leaves the group")
        place = (self.first_block(group) + block) * said.block_bytes
        raw = read_bounded(self.reader, place, said.block_bytes, f"XFS {what}")
        magic, found, count = struct.unpack_from(">4sHH", raw)
        if said.crc:
            verify(raw, 52, what)
            (daddr,) = struct.unpack_from(">Q", raw, 16)
            (owner,) = struct.unpack_from(">I", raw, 48)
            if daddr * 512 != place or owner != group or raw[32:48] != self._owner_uuid:
                raise LayoutDamagedError(f"XFS {what}: a block belongs elsewhere")
        at = 56 if said.crc else 16
        room = (len(raw) - at) // (tree.record_bytes if level == 0 else tree.key_bytes + 4)
        if magic != tree.magics[1 if said.crc else 0] or found != level or count > room:
            raise LayoutDamagedError(f"XFS {what}: a block is not what it should be")
        return raw, count, at


class XfsMap:
    """The allocation map.

    Raises:
        FilesystemDirtyError: its log waits to be replayed.
        LayoutUnknownError, LayoutDamagedError: as :class:`Groups`.
    """

    def __init__(self, reader: Reader) -> None:
        from blocksync.volumes.filesystems.xfs_log import log_state

        self._groups = groups = Groups(reader)
        state = log_state(groups)
        if state:
            raise FilesystemDirtyError(f"no allocation map of the xfs filesystem: {state}")
        self.size = groups.super.blocks * groups.super.block_bytes

    def mark(self) -> bytes:
        from blocksync.volumes.filesystems.xfs_log import log_end

        return log_end(self._groups)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        return clipped(self._used(first, min(stop, self.size)), first, stop)

    def _used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        groups, unit = self._groups, self._groups.super.block_bytes
        for group in range(first // unit // groups.super.group_blocks, groups.super.groups):
            base = groups.first_block(group)
            if base * unit >= stop:
                return
            low = max(first // unit - base, 0)
            high = min(-(-stop // unit) - base, groups.blocks_in(group))
            for start, end in complement(groups.free(group, low, high), low, high):
                yield (base + start) * unit, (base + end) * unit
