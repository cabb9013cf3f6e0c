"""btrfs: the superblock, the chunk tree and the extent tree.

Format after ``include/uapi/linux/btrfs_tree.h``, little-endian. The chunk tree says which ranges of the device hold
which ranges of the filesystem's own address space, the extent tree says which of those are used; what is in no chunk is
free. Every block is read with its checksum, its address, its owner and the generation that its parent expects.

There is no mark of a clean unmount, since the trees on disk are always whole. But a log tree, which an fsync leaves
behind, pins blocks that the extent tree does not know: such a filesystem counts as dirty.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.filesystems.base import Filesystem, clipped, text_of
from blocksync.volumes.reader import Reader, read_bounded

SUPERBLOCK_AT = 64 << 10
SUPERBLOCK_BYTES = 4096
_MAGIC = b"_BHRfS_M"
# All features up to RAID1C34, and simple quotas; not zoned, extent tree v2, raid stripe tree.
_KNOWN_INCOMPATIBLE = 0xFFF | 0x10000
_MIRROR_AT = (64 << 10, 64 << 20, 256 << 30)
_MIRROR_BYTES = 64 << 10  # what the kernel keeps free of extents around each copy
_RESERVED_BYTES = 1 << 20  # no chunk begins below; boot loaders live there
_HEADER_BYTES = 101
_KEY = struct.Struct("<QBQ")
_POINTER = struct.Struct("<QBQQQ")
_ITEM = struct.Struct("<QBQII")
_CHUNK = struct.Struct("<QQQQIIIHH")
_STRIPE = struct.Struct("<QQ16s")
_EXTENT_TREE = 2
_ROOT_ITEM, _EXTENT_ITEM, _METADATA_ITEM, _CHUNK_ITEM = 132, 168, 169, 228
_FIRST_CHUNK = 256
_STRIPED = (1 << 3) | (1 << 6) | (1 << 7) | (1 << 8)  # RAID0, RAID10, RAID5, RAID6
_MOST_LEVEL = 7
_MOST_CHUNKS = 1 << 20  # of 1 GiB: a pebibyte


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


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of the device and the run of the filesystem's address space that it holds."""

    physical: int
    logical: int
    length: int


class BtrfsMap:
    """The allocation map of one device.

    Raises:
        FilesystemDirtyError: it has a log tree.
        LayoutUnknownError: a feature or a profile changes what is read here.
        LayoutDamagedError: a checksum or a pointer does not hold.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._super = said = read_superblock(reader)
        if said.incompatible & ~_KNOWN_INCOMPATIBLE:
            raise LayoutUnknownError(
                f"the btrfs filesystem has features that are not read here: {said.incompatible:#x}"
            )
        if said.log_root:
            raise FilesystemDirtyError("no allocation map of the btrfs filesystem: its log waits to be replayed")
        if said.device_bytes > reader.size:
            raise LayoutDamagedError(f"the btrfs device has {said.device_bytes} bytes and lies in {reader.size}")
        self.size = said.device_bytes
        self._pieces: list[_Piece] = sorted(self._system_pieces(), key=_by_logical)
        tree = (said.chunk_root, said.chunk_level, said.chunk_root_generation)
        found = [
            piece
            for _, kind, logical, raw in self._items(*tree, (_FIRST_CHUNK, _CHUNK_ITEM, 0))
            if kind == _CHUNK_ITEM
            for piece in self._chunk(logical, raw)[0]
        ]
        if len(found) > _MOST_CHUNKS:
            raise LayoutDamagedError("btrfs: there are more chunks than are read here")
        self._pieces = sorted(found, key=_by_logical)
        self._by_place = sorted(found, key=lambda piece: piece.physical)
        if any(
            a.physical + a.length > b.physical for a, b in zip(self._by_place, self._by_place[1:], strict=False)
        ):
            raise LayoutDamagedError("btrfs: chunks overlap on the device")
        self._extents = self._tree(_EXTENT_TREE)

    def _system_pieces(self) -> Iterator[_Piece]:
        raw = self._super.system_chunks
        at = 0
        while at + _KEY.size + _CHUNK.size <= len(raw):
            _, kind, logical = _KEY.unpack_from(raw, at)
            if kind != _CHUNK_ITEM:
                break
            pieces, length = self._chunk(logical, raw[at + _KEY.size :])
            yield from pieces
            at += _KEY.size + length
        if at != len(raw):
            raise LayoutDamagedError("btrfs: the system chunks of the superblock do not hold")

    def _chunk(self, logical: int, raw: bytes) -> tuple[list[_Piece], int]:
        """The parts of a chunk that lie on this device, and the length of its item."""
        if len(raw) < _CHUNK.size:
            raise LayoutDamagedError("btrfs: a chunk item is cut short")
        length, _, _, kind, _, _, _, stripes, _ = _CHUNK.unpack_from(raw)
        end = _CHUNK.size + stripes * _STRIPE.size
        if not length or not stripes or end > len(raw) or logical + length >= 1 << 63:
            raise LayoutDamagedError("btrfs: a chunk item does not hold")
        if kind & _STRIPED and stripes > 1:
            raise LayoutUnknownError("the btrfs filesystem has a striped profile, which is not read here")
        pieces = []
        for index in range(stripes):
            device, offset, _ = _STRIPE.unpack_from(raw, _CHUNK.size + index * _STRIPE.size)
            if device != self._super.device:
                continue
            if offset + length > self.size:
                raise LayoutDamagedError("btrfs: a chunk leaves the device")
            pieces.append(_Piece(offset, logical, length))
        return pieces, end

    def _tree(self, number: int) -> tuple[int, int, int]:
        """Address, level and generation of a tree's root."""
        said = self._super
        root = (said.root, said.root_level, said.generation)
        for objectid, kind, _, raw in self._items(*root, (number, _ROOT_ITEM, 0)):
            if (objectid, kind) == (number, _ROOT_ITEM) and len(raw) >= 239:
                generation, _, address = struct.unpack_from("<QQQ", raw, 160)
                return address, raw[238], generation
            break
        raise LayoutDamagedError(f"btrfs: there is no tree {number}")

    def _node(self, address: int, level: int, generation: int) -> bytes:
        said = self._super
        piece = self._find(address)
        if piece is None or address + said.node_bytes > piece.logical + piece.length:
            raise LayoutDamagedError(f"btrfs: block {address} is in no chunk of this device")
        place = piece.physical + address - piece.logical
        raw = read_bounded(self._reader, place, said.node_bytes, "btrfs tree block")
        verify(said.checksum, raw, f"tree block {address}")
        found, _, _, made = struct.unpack_from("<QQ16sQ", raw, 48)
        count, its_level = struct.unpack_from("<IB", raw, 96)
        room = (len(raw) - _HEADER_BYTES) // (_POINTER.size if level else _ITEM.size)
        if (
            found != address
            or raw[32:48] != said.metadata_fsid
            or made != generation
            or its_level != level
            or count > room
        ):
            raise LayoutDamagedError(f"btrfs: tree block {address} is not the one that was to be there")
        return raw

    def _find(self, address: int) -> _Piece | None:
        low, high = 0, len(self._pieces)
        while low < high:
            middle = (low + high) // 2
            if self._pieces[middle].logical <= address:
                low = middle + 1
            else:
                high = middle
        piece = self._pieces[low - 1] if low else None
        return piece if piece is not None and address < piece.logical + piece.length else None

    def _items(
        self, address: int, level: int, generation: int, least: tuple[int, int, int]
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """``(objectid, type, offset, content)`` of a tree's items from the key ``least`` on, in order."""
        if level > _MOST_LEVEL:
            raise LayoutDamagedError("btrfs: a tree is too deep")
        raw = self._node(address, level, generation)
        (count,) = struct.unpack_from("<I", raw, 96)
        last = (-1, 0, 0)
        for index in range(count):
            at = _HEADER_BYTES + index * (_POINTER.size if level else _ITEM.size)
            key = _KEY.unpack_from(raw, at)
            if key <= last:
                raise LayoutDamagedError(f"btrfs: tree block {address} is not in order")
            last = key
            if level:
                following = at + _POINTER.size
                if index + 1 < count and _KEY.unpack_from(raw, following) <= least:
                    continue
                child, made = struct.unpack_from("<QQ", raw, at + _KEY.size)
                yield from self._items(child, level - 1, made, least)
            elif key >= least:
                offset, size = struct.unpack_from("<II", raw, at + _KEY.size)
                if _HEADER_BYTES + offset + size > len(raw):
                    raise LayoutDamagedError(f"btrfs: an item leaves tree block {address}")
                yield *key, raw[_HEADER_BYTES + offset : _HEADER_BYTES + offset + size]

    def mark(self) -> bytes:
        return self._reader.pread(SUPERBLOCK_AT, SUPERBLOCK_BYTES)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        fixed = [(0, _RESERVED_BYTES)]
        fixed += [(at, at + _MIRROR_BYTES) for at in _MIRROR_AT if at < self.size]
        return clipped(heapq.merge(sorted(fixed), self._used(first, stop)), first, min(stop, self.size))

    def _used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        for piece in self._by_place:
            if piece.physical >= stop:
                return
            if piece.physical + piece.length <= first:
                continue
            for start, end in self._extents_in(piece.logical, piece.logical + piece.length):
                yield start - piece.logical + piece.physical, end - piece.logical + piece.physical

    def _extents_in(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        at = first
        for address, kind, offset, _ in self._items(*self._extents, (first, 0, 0)):
            if address >= stop:
                return
            if kind not in (_EXTENT_ITEM, _METADATA_ITEM):
                continue
            end = address + (offset if kind == _EXTENT_ITEM else self._super.node_bytes)
            if address < at or end > stop or end <= address:
                raise LayoutDamagedError("btrfs: extents overlap, or leave their chunk")
            at = end
            yield address, end


def _by_logical(piece: _Piece) -> int:
    return piece.logical
