"""The allocation map of ext2, ext3 and ext4, from the block bitmaps.

The map is made a group at a time from the group's bitmap; a group whose descriptor says BLOCK_UNINIT has none on
disk, and uses what the kernel's ``ext4_init_block_bitmap`` would set: its copies of the superblock and of the
descriptors, and those of its own bitmaps and inode tables that lie in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError
from blocksync.volumes.bitmaps import set_runs
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import clipped
from blocksync.volumes.filesystems.ext import (
    BLOCK_UNINIT,
    BYTES_AT_ONCE,
    ERRORS,
    SUPERBLOCK_AT,
    SUPERBLOCK_BYTES,
    Descriptor,
    Groups,
)
from blocksync.volumes.reader import Reader, read_bounded


class ExtMap:
    """The allocation map.

    Raises:
        FilesystemDirtyError: not cleanly unmounted, or with errors.
        LayoutUnknownError, LayoutDamagedError: as :class:`Groups`.
    """

    def __init__(self, reader: Reader) -> None:
        self._groups = groups = Groups(reader)
        said = groups.super
        if not said.clean:
            reason = "it has errors" if said.state & ERRORS else "it was not cleanly unmounted"
            raise FilesystemDirtyError(f"no allocation map of the {said.kind} filesystem: {reason}")
        self.size = said.blocks * said.block_bytes
        self._held: tuple[int, bytes] = (0, b"")

    def mark(self) -> bytes:
        return self._groups.reader.pread(SUPERBLOCK_AT, SUPERBLOCK_BYTES)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        return clipped(self._used(first, min(stop, self.size)), first, stop)

    def _used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        groups = self._groups
        said = groups.super
        unit = said.block_bytes
        # With blocks of 1 KiB the superblock is block 1 and block 0, which may boot, is in no group.
        if first < said.first_data_block * unit:
            yield 0, said.first_data_block * unit
        per_group = said.blocks_per_group * unit
        start = max(first - said.first_data_block * unit, 0) // per_group
        for group in range(start, said.groups):
            begin = groups.first_block(group) * unit
            if begin >= stop:
                return
            end = begin + groups.blocks_in(group) * unit
            for low, high in self._group(group):
                yield begin + low * unit, min(begin + high * unit, end)

    def _group(self, group: int) -> Iterator[tuple[int, int]]:
        """Runs of used blocks, counted from the group's first."""
        groups = self._groups
        said = groups.super
        descriptor = groups.descriptor(group)
        if descriptor.flags & BLOCK_UNINIT:
            yield from self._uninitialised(group, descriptor)
            return
        bitmap = self._bitmap(group, descriptor.block_bitmap)
        per_group = said.blocks_per_group // said.cluster_blocks
        if said.checksums:
            found = crc32c(bitmap[: per_group // 8], said.seed)
            found &= 0xFFFFFFFF if said.descriptor_bytes >= 64 else 0xFFFF
            if found != descriptor.bitmap_checksum:
                raise LayoutDamagedError(f"the checksum of the block bitmap of ext group {group} does not match")
        count = -(-groups.blocks_in(group) // said.cluster_blocks)
        for low, high in set_runs(bitmap, count):
            yield low * said.cluster_blocks, high * said.cluster_blocks

    def _bitmap(self, group: int, block: int) -> bytes:
        """A block bitmap. Those of a flexible group lie side by side, and are read together."""
        groups = self._groups
        size = groups.super.block_bytes
        first, held = self._held
        at = (block - first) * size
        if not 0 <= at < len(held):
            # What lies between two of them and is not in use is read along: that costs less than a second read.
            count = ahead = 1
            while ahead < BYTES_AT_ONCE // size and group + ahead < groups.super.groups:
                following = groups.descriptor(group + ahead)
                if following.block_bitmap != block + ahead:
                    break
                ahead += 1
                if not following.flags & BLOCK_UNINIT:
                    count = ahead
            held = read_bounded(groups.reader, block * size, count * size, f"block bitmap of ext group {group}")
            self._held, at = (block, held), 0
        return held[at : at + size]

    def _uninitialised(self, group: int, descriptor: Descriptor) -> Iterator[tuple[int, int]]:
        groups = self._groups
        said = groups.super
        first, count = groups.first_block(group), groups.blocks_in(group)
        table = -(-said.inodes_per_group * said.inode_bytes // said.block_bytes)
        runs = [(first, first + groups.base_blocks(group))]
        runs += [(block, block + 1) for block in (descriptor.block_bitmap, descriptor.inode_bitmap)]
        runs.append((descriptor.inode_table, descriptor.inode_table + table))
        for low, high in sorted(runs):
            low, high = max(low - first, 0), min(high - first, count)  # noqa: PLW2901 - counted from the group
            if low < high:
                yield low, high
