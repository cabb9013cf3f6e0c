"""Files of ext2, ext3 and ext4: inodes, their extents or indirect blocks, folders.

Format after ``fs/ext4/ext4.h``, ``ext4_extents.h`` and the kernel's documentation, little-endian. With
``metadata_csum`` the checksums of inodes, of blocks of extent trees and of folders' blocks are verified. Folders
are read block by block: the index of a large one lies in records that look empty to this walk, as it does to old
kernels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.files import Entry, Node
from blocksync.volumes.filesystems.ext import Groups
from blocksync.volumes.reader import Reader, read_bounded

_EXTENTS, _INLINE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_FOLDER, _FILE = 0x4000, 0x8000
_MAGIC = 0xF30A
_ENTRY = struct.Struct("<HHHHI")
_LONGEST = 32768  # a longer extent is one that was allocated and not yet written
_MOST_DEPTH = 5
_TAIL = struct.Struct("<IHBBI")
_MOST_FOLDER_BYTES = 1 << 32


@dataclass(frozen=True, slots=True)
class _Inode:
    number: int
    mode: int
    links: int
    size: int
    flags: int
    block: bytes
    seed: int


class ExtFiles:
    """See :class:`~blocksync.volumes.files.Files`."""

    ignores_case = False
    root = 2

    def __init__(self, reader: Reader) -> None:
        self._groups = Groups(reader)
        self._super = self._groups.super

    def _inode(self, number: int) -> _Inode:
        said = self._super
        if not 0 < number <= said.inodes:
            raise LayoutDamagedError(f"ext: there is no inode {number}")
        group, index = divmod(number - 1, said.inodes_per_group)
        table = self._groups.descriptor(group).inode_table
        at = table * said.block_bytes + index * said.inode_bytes
        raw = read_bounded(self._groups.reader, at, said.inode_bytes, f"ext inode {number}")
        seed = crc32c(struct.pack("<I", number) + raw[100:104], said.seed) if said.checksums else 0
        if said.checksums:
            self._verify(number, raw, seed)
        mode, _, low = struct.unpack_from("<HHI", raw)
        (links,) = struct.unpack_from("<H", raw, 26)
        (flags,) = struct.unpack_from("<I", raw, 32)
        (high,) = struct.unpack_from("<I", raw, 108)
        folder = mode & 0xF000 == _FOLDER
        return _Inode(
            number, mode, links, low | (0 if folder and not high else high << 32), flags, raw[40:100], seed
        )

    def _verify(self, number: int, raw: bytes, seed: int) -> None:
        wide = len(raw) > 128 and struct.unpack_from("<H", raw, 128)[0] >= 4
        stored = struct.unpack_from("<H", raw, 124)[0]
        plain = raw[:124] + bytes(2) + raw[126:]
        if wide:
            stored |= struct.unpack_from("<H", raw, 130)[0] << 16
            plain = plain[:130] + bytes(2) + plain[132:]
        if crc32c(plain, seed) & (0xFFFFFFFF if wide else 0xFFFF) != stored:
            raise LayoutDamagedError(f"the checksum of ext inode {number} does not match")

    def node(self, number: int) -> Node:
        found = self._inode(number)
        kind = {_FOLDER: "folder", _FILE: "file"}.get(found.mode & 0xF000, "other")
        return Node(kind=kind, links=found.links, size=found.size)

    def extents(self, number: int) -> Iterator[tuple[int, int]]:
        unit = self._super.block_bytes
        for _, start, count in self._blocks(self._inode(number)):
            yield start * unit, (start + count) * unit

    def _blocks(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        """``(block of the file, block of the disk, count)`` in order; none for content inside the inode."""
        if inode.flags & _INLINE:
            return
        last = 0
        runs = self._tree(inode, inode.block, _MOST_DEPTH) if inode.flags & _EXTENTS else self._indirect(inode)
        for first, start, count in runs:
            if first < last or not start or start + count > self._super.blocks:
                raise LayoutDamagedError(f"the blocks of ext inode {inode.number} are not in order")
            last = first + count
            yield first, start, count

    def _tree(self, inode: _Inode, raw: bytes, most: int) -> Iterator[tuple[int, int, int]]:
        magic, count, room, depth, _ = _ENTRY.unpack_from(raw)
        if magic != _MAGIC or count > room or 12 * (count + 1) > len(raw) or depth > most:
            raise LayoutDamagedError(f"an extent tree of ext inode {inode.number} does not hold")
        for index in range(count):
            at = 12 * (index + 1)
            if depth:
                _, low, high = struct.unpack_from("<IIH", raw, at)
                yield from self._tree(inode, self._tree_block(inode, low | high << 32), depth - 1)
            else:
                first, length, high, low = struct.unpack_from("<IHHI", raw, at)
                length -= _LONGEST if length > _LONGEST else 0
                yield first, low | high << 32, length

    def _tree_block(self, inode: _Inode, block: int) -> bytes:
        raw = self._groups.read_block(block, f"an extent tree of ext inode {inode.number}")
        if self._super.checksums:
            (room,) = struct.unpack_from("<H", raw, 4)
            end = 12 * (room + 1)
            if end + 4 > len(raw) or crc32c(raw[:end], inode.seed) != struct.unpack_from("<I", raw, end)[0]:
                raise LayoutDamagedError(
                    f"the checksum of an extent tree of ext inode {inode.number} does not match"
                )
        return raw

    def _indirect(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        pointers = struct.unpack("<15I", inode.block)
        blocks = -(-inode.size // self._super.block_bytes)
        at = 0
        for level, block in [(0, block) for block in pointers[:12]] + list(enumerate(pointers[12:], 1)):
            span = (self._super.block_bytes // 4) ** level
            if at >= blocks:
                return
            if block:
                yield from self._level(inode, block, level, at, blocks)
            at += span

    def _level(self, inode: _Inode, block: int, level: int, at: int, blocks: int) -> Iterator[tuple[int, int, int]]:
        if level == 0:
            yield at, block, 1
            return
        raw = self._groups.read_block(block, f"indirect block of ext inode {inode.number}")
        span = (self._super.block_bytes // 4) ** (level - 1)
        for pointer in struct.unpack(f"<{len(raw) // 4}I", raw):
            if at >= blocks:
                return
            if pointer:
                yield from self._level(inode, pointer, level - 1, at, blocks)
            at += span

    def entries(self, folder: int) -> Iterator[Entry]:
        inode = self._inode(folder)
        if inode.mode & 0xF000 != _FOLDER or inode.size > _MOST_FOLDER_BYTES:
            raise LayoutDamagedError(f"ext inode {folder} is no folder")
        if inode.flags & (_INLINE | _ENCRYPTED):
            return  # a few names inside the inode, or names that only their key reads: kept, whatever they are
        for _, start, count in self._blocks(inode):
            for block in range(start, start + count):
                yield from self._folder_block(inode, self._groups.read_block(block, f"folder {folder}"))

    def _folder_block(self, inode: _Inode, raw: bytes) -> list[Entry]:
        found: list[Entry] = []
        at = 0
        while at + 8 <= len(raw):
            number, length, name_bytes = struct.unpack_from("<IHB", raw, at)
            length = len(raw) - at if length in (0, 65535) and len(raw) == 65536 else length
            if length < 8 or length % 4 or at + length > len(raw) or 8 + name_bytes > length:
                raise LayoutDamagedError(f"the entries of folder {inode.number} do not hold")
            text = raw[at + 8 : at + 8 + name_bytes]
            if number and text not in (b".", b"..") and b"/" not in text:
                found.append(Entry(text.decode("utf-8", "surrogateescape"), number))
            # The block of an index may still bear the tail of the time before; only one that is an entry counts.
            if at == len(raw) - _TAIL.size and self._super.checksums:
                self._verify_tail(inode, raw)
            at += length
        return found

    def _verify_tail(self, inode: _Inode, raw: bytes) -> None:
        number, length, name, kind, stored = _TAIL.unpack_from(raw, len(raw) - _TAIL.size)
        if (number, length, name, kind) == (0, 12, 0, 0xDE) and crc32c(raw[: -_TAIL.size], inode.seed) != stored:
            raise LayoutDamagedError(f"the checksum of folder {inode.number} does not match")

    def content(self, number: int, most: int) -> bytes:
        """The first ``most`` bytes of a file."""
        inode = self._inode(number)
        unit, size = self._super.block_bytes, min(inode.size, most)
        if inode.flags & _INLINE:
            return inode.block[: min(size, 60)]
        made = bytearray(size)
        for first, start, count in self._blocks(inode):
            at = first * unit
            if at >= size:
                break
            length = min(count * unit, size - at)
            made[at : at + length] = read_bounded(self._groups.reader, start * unit, length, "a file")
        return bytes(made)
