"""Files of XFS: inodes, their extents, folders in all their forms.

Format after ``fs/xfs/libxfs/xfs_format.h`` and ``xfs_da_format.h``, big-endian. The checksums of version 5 are
verified. Of a folder only its data blocks are read; hash tables and free lists lie behind 32 GiB of its address
space.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.files import Entry, Node
from blocksync.volumes.filesystems.base import complement
from blocksync.volumes.filesystems.xfs import Groups, verify
from blocksync.volumes.reader import Reader, read_bounded

_FOLDER, _FILE = 0x4000, 0x8000
_LOCAL, _EXTENTS, _BTREE = 1, 2, 3
_REALTIME = 1
_REFLINK, _MANY_EXTENTS = 2, 16
_LEAF_AT = 32 << 30
_FREE_TAG = 0xFFFF
_MOST_DEPTH = 9
_MOST_SHARED = 1 << 20


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    links: int
    size: int
    form: int
    extents: int
    realtime: bool
    reflink: bool
    fork: bytes


class XfsFiles:
    """See :class:`~blocksync.volumes.files.Files`."""

    ignores_case = False

    def __init__(self, reader: Reader) -> None:
        self._groups = Groups(reader)
        self._super = self._groups.super
        self.root = self._super.root_inode
        self._shared: tuple[int, list[tuple[int, int]]] = (-1, [])

    def _inode(self, number: int) -> _Inode:
        said = self._super
        per_block = said.inodes_per_block
        block = self._groups.linear(number // per_block) if number >= 0 else -1
        at = block * said.block_bytes + number % per_block * said.inode_bytes
        raw = read_bounded(self._groups.reader, at, said.inode_bytes, f"XFS inode {number}")
        magic, mode, version, form = struct.unpack_from(">2sHBB", raw)
        if magic != b"IN" or version not in (1, 2, 3) or (version == 3) != said.crc:
            raise LayoutDamagedError(f"XFS inode {number} is none")
        many = False
        reflink = False
        if version == 3:
            verify(raw, 100, f"inode {number}")
            flags2, own = struct.unpack_from(">Q", raw, 120)[0], struct.unpack_from(">Q", raw, 152)[0]
            if own != number:
                raise LayoutDamagedError(f"XFS inode {number} belongs elsewhere")
            reflink, many = bool(flags2 & _REFLINK), bool(flags2 & _MANY_EXTENTS)
        core = 176 if version == 3 else 100
        forkoff = raw[82] * 8
        end = core + forkoff if forkoff else len(raw)
        if end > len(raw):
            raise LayoutDamagedError(f"XFS inode {number} contradicts itself")
        (size,) = struct.unpack_from(">q", raw, 56)
        links = struct.unpack_from(">H", raw, 6)[0] if version == 1 else struct.unpack_from(">I", raw, 16)[0]
        count = struct.unpack_from(">Q", raw, 24)[0] if many else struct.unpack_from(">I", raw, 76)[0]
        flags = struct.unpack_from(">H", raw, 90)[0]
        return _Inode(
            number, mode, links, max(size, 0), form, count, bool(flags & _REALTIME), reflink, raw[core:end]
        )

    def node(self, number: int) -> Node:
        found = self._inode(number)
        kind = {_FOLDER: "folder", _FILE: "file"}.get(found.mode & 0xF000, "other")
        return Node(kind=kind, links=found.links, size=found.size)

    def extents(self, number: int) -> Iterator[tuple[int, int]]:
        inode = self._inode(number)
        if inode.realtime:
            return
        unit = self._super.block_bytes
        for _, start, count in self._blocks(inode):
            runs = self._own(start, start + count) if inode.reflink else [(start, start + count)]
            for low, high in runs:
                yield low * unit, high * unit

    def _own(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The blocks of a run that no other file shares."""
        group = start // self._super.group_blocks
        if self._shared[0] != group:
            base = self._groups.first_block(group)
            found: list[tuple[int, int]] = []
            for low, high in self._groups.shared(group):
                found.append((base + low, base + high))
                if len(found) > _MOST_SHARED:
                    raise LayoutDamagedError("XFS: more blocks are shared than are kept track of")
            self._shared = (group, found)
        shared = self._shared[1]
        first = max(bisect_right(shared, (start,)) - 1, 0)
        yield from complement(
            ((max(low, start), high) for low, high in shared[first:] if high > start and low < end), start, end
        )

    def _blocks(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        """``(block of the file, block of the disk counted linearly, count)`` in order."""
        if inode.form == _EXTENTS:
            if inode.extents * 16 > len(inode.fork):
                raise LayoutDamagedError(f"XFS inode {inode.number} has more extents than room")
            records: Iterator[bytes] = (inode.fork[16 * i : 16 * i + 16] for i in range(inode.extents))
        elif inode.form == _BTREE:
            records = self._tree_root(inode)
        else:
            return
        last = 0
        for record in records:
            value = int.from_bytes(record, "big")
            first, start, count = (
                value >> 73 & ((1 << 54) - 1),
                value >> 21 & ((1 << 52) - 1),
                value & ((1 << 21) - 1),
            )
            linear = self._groups.linear(start)
            if first < last or not count or linear + count > self._super.blocks:
                raise LayoutDamagedError(f"the extents of XFS inode {inode.number} are not in order")
            last = first + count
            yield first, linear, count

    def _tree_root(self, inode: _Inode) -> Iterator[bytes]:
        level, count = struct.unpack_from(">HH", inode.fork)
        room = (len(inode.fork) - 4) // 16
        if not 1 <= level <= _MOST_DEPTH or count > room:
            raise LayoutDamagedError(f"the extent tree of XFS inode {inode.number} does not hold")
        for block in struct.unpack_from(f">{count}Q", inode.fork, 4 + 8 * room):
            yield from self._tree(inode, block, level - 1)

    def _tree(self, inode: _Inode, block: int, level: int) -> Iterator[bytes]:
        said = self._super
        what = f"the extent tree of XFS inode {inode.number}"
        raw = read_bounded(
            self._groups.reader, self._groups.linear(block) * said.block_bytes, said.block_bytes, what
        )
        magic, found, count = struct.unpack_from(">4sHH", raw)
        at = 72 if said.crc else 24
        if said.crc:
            verify(raw, 64, what)
            if struct.unpack_from(">Q", raw, 56)[0] != inode.number:
                raise LayoutDamagedError(f"{what}: a block belongs elsewhere")
        room = (len(raw) - at) // 16
        if magic != (b"BMA3" if said.crc else b"BMAP") or found != level or count > room:
            raise LayoutDamagedError(f"{what} does not hold")
        if level:
            for child in struct.unpack_from(f">{count}Q", raw, at + 8 * room):
                yield from self._tree(inode, child, level - 1)
        else:
            for index in range(count):
                yield raw[at + 16 * index : at + 16 * index + 16]

    # -- folders ----------------------------------------------------------------------------------------------

    def entries(self, folder: int) -> Iterator[Entry]:
        inode = self._inode(folder)
        if inode.mode & 0xF000 != _FOLDER:
            raise LayoutDamagedError(f"XFS inode {folder} is no folder")
        if inode.form == _LOCAL:
            yield from self._short(inode)
            return
        said = self._super
        size = said.block_bytes << said.directory_log
        held = b""  # a folder's block may lie in several extents
        for first, start, count in self._blocks(inode):
            if first * said.block_bytes >= _LEAF_AT:
                return
            if not held and first % (1 << said.directory_log):
                raise LayoutDamagedError(f"the blocks of XFS folder {folder} do not join")
            for block in range(start, start + count):
                at = block * said.block_bytes
                held += read_bounded(self._groups.reader, at, said.block_bytes, f"XFS folder {folder}")
                if len(held) == size:
                    yield from self._folder_block(inode, held)
                    held = b""

    def _short(self, inode: _Inode) -> Iterator[Entry]:
        raw = inode.fork[: inode.size]
        wide = len(raw) > 1 and raw[1] > 0
        number_bytes = 8 if wide else 4
        at = 2 + number_bytes
        for _ in range(raw[0] if raw else 0):
            if at + 3 > len(raw):
                raise LayoutDamagedError(f"the entries of XFS folder {inode.number} do not hold")
            length = raw[at]
            end = at + 3 + length + (1 if self._super.ftype else 0)
            if end + number_bytes > len(raw):
                raise LayoutDamagedError(f"the entries of XFS folder {inode.number} do not hold")
            number = int.from_bytes(raw[end : end + number_bytes], "big")
            yield Entry(raw[at + 3 : at + 3 + length].decode("utf-8", "surrogateescape"), number)
            at = end + number_bytes

    def _folder_block(self, inode: _Inode, raw: bytes) -> Iterator[Entry]:
        magic = raw[:4]
        if self._super.crc:
            verify(raw, 4, f"folder {inode.number}")
            if magic not in (b"XDB3", b"XDD3") or struct.unpack_from(">Q", raw, 40)[0] != inode.number:
                raise LayoutDamagedError(f"a block of XFS folder {inode.number} belongs elsewhere")
        elif magic not in (b"XD2B", b"XD2D"):
            raise LayoutDamagedError(f"a block of XFS folder {inode.number} is none")
        at, end = 64 if self._super.crc else 16, len(raw)
        if magic in (b"XDB3", b"XD2B"):
            (count,) = struct.unpack_from(">I", raw, len(raw) - 8)
            end = len(raw) - 8 - 8 * count
        while at < end:
            if raw[at : at + 2] == b"\xff\xff":
                length = int.from_bytes(raw[at + 2 : at + 4], "big")
            else:
                name = raw[at + 9 : at + 9 + raw[at + 8]]
                length = (9 + len(name) + (1 if self._super.ftype else 0) + 2 + 7) // 8 * 8
                if name not in (b".", b".."):
                    number = int.from_bytes(raw[at : at + 8], "big")
                    yield Entry(name.decode("utf-8", "surrogateescape"), number)
            if length < 8 or length % 8 or at + length > end:
                raise LayoutDamagedError(f"the entries of XFS folder {inode.number} do not hold")
            at += length

    def content(self, number: int, most: int) -> bytes:
        """The first ``most`` bytes of a file."""
        inode = self._inode(number)
        unit, size = self._super.block_bytes, min(inode.size, most)
        made = bytearray(size)
        for first, start, count in self._blocks(inode):
            at = first * unit
            if at >= size:
                break
            length = min(count * unit, size - at)
            made[at : at + length] = read_bounded(self._groups.reader, start * unit, length, "a file")
        return bytes(made)
