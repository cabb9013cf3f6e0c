"""Thin pools: the metadata B-tree of dm-thin, and a thin volume as a reader.

Formats after ``drivers/md/dm-thin-metadata.c`` and ``persistent-data/dm-btree-internal.h``, little-endian. Metadata
come in blocks of 4 KiB, each with a CRC-32C over all but its first four bytes, and with its own number, so that a
misplaced block is noticed. Two trees lie over each other: device id → root, and under it virtual block → data block
(upper 40 bits) and time (lower 24).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from blocksync.errors import LayoutDamagedError, LayoutUnknownError, VolumeUnsettledError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.reader import Composite, Reader, Run, read_bounded

BLOCK_BYTES = 4096
_MAGIC = 27022010
_SUPERBLOCK_SALT = 160774
_NODE_SALT = 121107
_INTERNAL, _LEAF = 1, 2
_NODE = struct.Struct("<IIQIIII")
assert _NODE.size == 32
_MOST_DEPTH = 12  # 126 entries at the least half full: deeper than any metadata device allows
_CACHED_NODES = 1024
_NEEDS_CHECK = 1
_DETAILS = struct.Struct("<QQII")


@dataclass(frozen=True, slots=True)
class _Node:
    leaf: bool
    keys: tuple[int, ...]
    values: tuple[int, ...]


def _checked(raw: bytes, salt: int, block: int, what: str) -> None:
    (stored,) = struct.unpack_from("<I", raw)
    if crc32c(memoryview(raw)[4:]) ^ salt != stored:
        raise LayoutDamagedError(f"{what} in block {block}: its checksum does not match")
    if struct.unpack_from("<Q", raw, 8)[0] != block:
        raise LayoutDamagedError(f"{what} in block {block}: it belongs elsewhere")


class ThinPool:
    """A pool's metadata.

    Args:
        metadata: the pool's metadata volume.
        data: its data volume.
        chunk_bytes: what the volume group says of the pool.
        transaction_id: the same; None where it is not to be compared.

    Raises:
        LayoutDamagedError: a checksum or a size does not hold.
        LayoutUnknownError: another version, or incompatible features.
        VolumeUnsettledError: it needs a check, or the group is at another transaction.
    """

    def __init__(self, metadata: Reader, data: Reader, chunk_bytes: int, transaction_id: int | None = None) -> None:
        self._metadata = metadata
        self._blocks = metadata.size // BLOCK_BYTES
        self.data = data
        self.chunk_bytes = chunk_bytes
        raw = read_bounded(metadata, 0, BLOCK_BYTES, "thin pool superblock")
        magic, version = struct.unpack_from("<QI", raw, 32)
        if magic != _MAGIC:
            raise LayoutDamagedError("the thin pool's metadata have no superblock")
        _checked(raw, _SUPERBLOCK_SALT, 0, "thin pool superblock")
        self._superblock_sum, flags = struct.unpack_from("<II", raw)
        (transaction,) = struct.unpack_from("<Q", raw, 48)
        self._mapping_root, self._details_root = struct.unpack_from("<QQ", raw, 320)
        (sectors,) = struct.unpack_from("<I", raw, 336)
        (incompatible,) = struct.unpack_from("<I", raw, 360)
        if version not in (1, 2) or incompatible:
            raise LayoutUnknownError(
                f"the thin pool's metadata are of version {version}, features {incompatible:#x}"
            )
        if sectors * 512 != chunk_bytes or not chunk_bytes:
            raise LayoutDamagedError(f"the thin pool has chunks of {sectors} sectors, not of {chunk_bytes} bytes")
        if flags & _NEEDS_CHECK:
            raise VolumeUnsettledError("the thin pool needs a check", remedy="run thin_check or lvconvert --repair")
        if transaction_id is not None and transaction != transaction_id:
            raise VolumeUnsettledError(
                f"the thin pool is at transaction {transaction}, its volume group at {transaction_id}",
                remedy="activate the pool once, so that its pending messages are sent; or lvconvert --repair",
            )
        self._node = lru_cache(maxsize=_CACHED_NODES)(self._read_node)

    def mark(self) -> str:
        """Changes with every commit of the pool's metadata."""
        return f"{self._mapping_root}:{self._details_root}:{self._superblock_sum:08x}"

    def _read_node(self, block: int, value_bytes: int) -> _Node:
        raw = read_bounded(self._metadata, block * BLOCK_BYTES, BLOCK_BYTES, "thin pool node")
        _checked(raw, _NODE_SALT, block, "thin pool node")
        _, flags, _, count, most, size, _ = _NODE.unpack_from(raw)
        leaf = flags == _LEAF
        if flags not in (_INTERNAL, _LEAF) or count > most or size != (value_bytes if leaf else 8):
            raise LayoutDamagedError(f"thin pool node in block {block}: its header does not hold")
        if _NODE.size + most * (8 + size) > BLOCK_BYTES:
            raise LayoutDamagedError(f"thin pool node in block {block}: {most} entries do not fit")
        keys = struct.unpack_from(f"<{count}Q", raw, _NODE.size)
        at = _NODE.size + 8 * most
        # Of a device's details only the first number, its mapped blocks, is used here.
        values = tuple(struct.unpack_from("<Q", raw, at + size * index)[0] for index in range(count))
        if any(left >= right for left, right in pairwise(keys)):
            raise LayoutDamagedError(f"thin pool node in block {block}: its keys are not in order")
        return _Node(leaf, keys, values)

    def _lookup(self, root: int, key: int, value_bytes: int = 8) -> int | None:
        block = root
        for _ in range(_MOST_DEPTH):
            node = self._node(block, value_bytes)
            index = bisect_right(node.keys, key) - 1
            if index < 0:
                return None
            if node.leaf:
                return node.values[index] if node.keys[index] == key else None
            block = node.values[index]
        raise LayoutDamagedError("a tree of the thin pool is too deep")

    def _items(
        self, block: int, first: int, stop: int, visits: list[int], depth: int = 0
    ) -> Iterator[tuple[int, int]]:
        # A tree visits each block of the metadata at most once; one that was made to branch back does not end.
        visits[0] += 1
        if depth >= _MOST_DEPTH or visits[0] > self._blocks:
            raise LayoutDamagedError("a tree of the thin pool is too deep, or leads back into itself")
        node = self._node(block, 8)
        if node.leaf:
            for index in range(bisect_left(node.keys, first), len(node.keys)):
                if node.keys[index] >= stop:
                    return
                yield node.keys[index], node.values[index]
            return
        for index in range(max(bisect_right(node.keys, first) - 1, 0), len(node.keys)):
            if node.keys[index] >= stop:
                return
            limit = node.keys[index + 1] if index + 1 < len(node.keys) else stop
            # A child keeps to its range, so that no tree, however damaged, gives a block twice or out of order.
            start, end = max(first, node.keys[index]), min(stop, limit)
            yield from self._items(node.values[index], start, end, visits, depth + 1)

    def mapped_blocks(self, device_id: int) -> int | None:
        """How many chunks a device has, as its details say; None where the pool does not know it."""
        return self._lookup(self._details_root, device_id, _DETAILS.size)

    def root_of(self, device_id: int) -> int:
        """The root of a device's mapping.

        Raises:
            VolumeUnsettledError: the pool does not know the device (yet).
        """
        root = self._lookup(self._mapping_root, device_id)
        if root is None:
            raise VolumeUnsettledError(
                f"the thin pool has no device {device_id}", remedy="activate the pool once, so that it is made"
            )
        return root

    def mappings(self, root: int, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """``(virtual chunk, data chunk)`` in order, for virtual chunks in ``[first, stop)``.

        Raises:
            LayoutDamagedError: a mapping leaves the data volume.
        """
        most = -(-self.data.size // self.chunk_bytes)
        for key, value in self._items(root, first, stop, [0]):
            data_block = value >> 24
            if data_block >= most:
                raise LayoutDamagedError(f"the thin pool maps a chunk to {data_block} of {most}")
            yield key, data_block


class ThinReader(Composite):
    """A thin volume. What is not mapped reads as zeros, or from the external origin."""

    kind = "a thin volume"

    def __init__(self, pool: ThinPool, device_id: int, size: int, external: Reader | None = None) -> None:
        self._pool = pool
        self._root = pool.root_of(device_id)
        self._external = external
        self.size = size

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        unit = self._pool.chunk_bytes
        end = offset + length
        at = offset
        for key, data_block in self._pool.mappings(self._root, offset // unit, -(-end // unit)):
            start, stop = max(key * unit, offset), min((key + 1) * unit, end)
            if at < start:
                yield from self._unmapped(at, start - at)
            yield self._pool.data, data_block * unit + start - key * unit, stop - start
            at = stop
        if at < end:
            yield from self._unmapped(at, end - at)

    def _unmapped(self, offset: int, length: int) -> Iterator[Run]:
        origin = self._external
        there = 0 if origin is None else max(min(length, origin.size - offset), 0)
        if there:
            yield origin, offset, there
        if there < length:
            yield None, 0, length - there
