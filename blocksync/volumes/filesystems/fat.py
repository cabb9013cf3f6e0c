"""FAT12, FAT16 and FAT32: Microsoft's "FAT: General Overview of On-Disk Format" 1.03, little-endian.

The number of clusters alone decides which of the three it is. Used is what lies before the first cluster (boot
sector, tables, a root folder of fixed size) and every cluster whose entry is not zero. Entries say nothing about
order, so the table is walked in pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError
from blocksync.volumes.filesystems.base import Filesystem, clipped, text_of
from blocksync.volumes.reader import Reader, read_bounded

_PIECE_ENTRIES = 48 << 10  # a multiple of 2, so that FAT12's pairs stay together
_FAT16_CLEAN = 0xC000  # of entry 1: cleanly unmounted, and no errors met
_FAT32_CLEAN = 0x0C000000
_DIRTY = 1  # of the boot sector's state byte, which Linux and Windows NT set


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes and offsets in bytes, clusters by count."""

    bits: int
    size: int
    table_at: int
    table_bytes: int
    data_at: int
    cluster_bytes: int
    clusters: int
    root_cluster: int
    root_at: int
    root_bytes: int
    state: int
    uuid: str
    label: str


def read_layout(reader: Reader) -> Layout | None:
    """The boot sector; None where it is none of FAT's."""
    raw = reader.pread(0, min(512, reader.size))
    if raw[510:] != b"\x55\xaa":
        return None
    sector, per_cluster, reserved, tables, roots, small, media, table16 = struct.unpack_from("<HBHBHHBH", raw, 11)
    (large,) = struct.unpack_from("<I", raw, 32)
    if (
        raw[0] not in (0xEB, 0xE9)
        or sector not in (512, 1024, 2048, 4096)
        or per_cluster not in (1, 2, 4, 8, 16, 32, 64, 128)
        or not reserved
        or not 1 <= tables <= 4
        or (media != 0xF0 and media < 0xF8)
    ):
        return None
    wide = table16 == 0
    table = struct.unpack_from("<I", raw, 36)[0] if wide else table16
    sectors = small or large
    data = reserved + tables * table + -(-roots * 32 // sector)
    if not table or sectors <= data:
        return None
    clusters = (sectors - data) // per_cluster
    bits = 32 if wide else 12 if clusters < 4085 else 16
    if (clusters + 2) * bits > table * sector * 8 or (not wide and clusters >= 65525):
        return None
    tail = raw[64:90] if wide else raw[36:62]
    signature, serial = tail[2], struct.unpack_from("<I", tail, 3)[0]
    flags = struct.unpack_from("<H", raw, 40)[0] if wide else 0
    active = flags & 0xF if flags & 0x80 else 0
    if active >= tables:
        return None
    label = text_of(tail[7:18], "latin-1") if signature == 0x29 else ""
    return Layout(
        bits=bits,
        size=sectors * sector,
        table_at=(reserved + active * table) * sector,
        table_bytes=table * sector,
        data_at=data * sector,
        cluster_bytes=per_cluster * sector,
        clusters=clusters,
        root_cluster=struct.unpack_from("<I", raw, 44)[0] if wide else 0,
        root_at=(reserved + tables * table) * sector,
        root_bytes=roots * 32,
        state=tail[1],
        uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}" if signature in (0x28, 0x29) else "",
        label="" if label == "NO NAME" else label,
    )


def probe(reader: Reader) -> Filesystem | None:
    found = read_layout(reader)
    if found is None:
        return None
    used: int | None = None
    if found.size <= reader.size:
        used = sum(end - start for start, end in _used(reader, found, 0, found.size))
    return Filesystem(
        kind=f"fat{found.bits}",
        uuid=found.uuid,
        label=_root_label(reader, found) or found.label,
        size=found.size,
        used=used,
        block_bytes=found.cluster_bytes,
        clean=_clean(reader, found),
    )


def _root_label(reader: Reader, found: Layout) -> str:
    """The entry of the root folder that is no file: it outranks the boot sector's field."""
    if found.bits == 32:
        at, length = found.data_at + (found.root_cluster - 2) * found.cluster_bytes, found.cluster_bytes
    else:
        at, length = found.root_at, found.root_bytes
    if at < 0 or at + length > reader.size:
        return ""
    raw = read_bounded(reader, at, length, "FAT root folder")
    for index in range(0, len(raw) - 31, 32):
        entry = raw[index : index + 32]
        if not entry[0]:
            break
        if entry[0] != 0xE5 and entry[11] & 0x08 and entry[11] != 0x0F:
            return text_of(entry[:11], "latin-1")
    return ""


def _clean(reader: Reader, found: Layout) -> bool:
    if found.state & _DIRTY:
        return False
    if found.bits == 12:
        return True
    raw = read_bounded(reader, found.table_at, 8, "FAT")
    if found.bits == 16:
        return int.from_bytes(raw[2:4], "little") & _FAT16_CLEAN == _FAT16_CLEAN
    return int.from_bytes(raw[4:8], "little") & _FAT32_CLEAN == _FAT32_CLEAN


class FatMap:
    """The allocation map.

    Raises:
        FilesystemDirtyError: not cleanly unmounted.
        LayoutDamagedError: it is none, or larger than what it lies in.
    """

    def __init__(self, reader: Reader) -> None:
        found = read_layout(reader)
        if found is None or found.size > reader.size:
            raise LayoutDamagedError("the FAT filesystem does not fit what it lies in")
        if not _clean(reader, found):
            raise FilesystemDirtyError(
                f"no allocation map of the fat{found.bits} filesystem: it was not cleanly unmounted"
            )
        self._reader = reader
        self._layout = found
        self.size = found.size

    def mark(self) -> bytes:
        # The boot sectors with the free-cluster counts, and the flags in the first entries.
        head = self._reader.pread(0, min(self._layout.table_at, 4096))
        return head + self._reader.pread(self._layout.table_at, min(self._layout.table_bytes, 4096))

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        return clipped(_used(self._reader, self._layout, first, stop), first, min(stop, self.size))


def _used(reader: Reader, found: Layout, first: int, stop: int) -> Iterator[tuple[int, int]]:
    if first < found.data_at:
        yield 0, found.data_at
    unit = found.cluster_bytes
    start = max(first - found.data_at, 0) // unit // _PIECE_ENTRIES * _PIECE_ENTRIES
    while start < found.clusters and found.data_at + start * unit < stop:
        count = min(_PIECE_ENTRIES, found.clusters - start)
        for low, high in _runs(_entries(reader, found, start + 2, count)):
            yield found.data_at + (start + low) * unit, found.data_at + (start + high) * unit
        start += count
    # Sectors behind the last whole cluster belong to nobody, but a few bytes are no reason to leave them out.
    tail = found.data_at + found.clusters * unit
    if tail < min(stop, found.size):
        yield tail, found.size


def _entries(reader: Reader, found: Layout, first: int, count: int) -> list[int] | tuple[int, ...]:
    if found.bits == 12:
        at = first // 2 * 3  # first is even
        raw = read_bounded(reader, found.table_at + at, -(-count * 3 // 2), "FAT")
        raw += bytes(3)
        pairs = (int.from_bytes(raw[i : i + 3], "little") for i in range(0, count // 2 * 3 + 3, 3))
        return [entry for pair in pairs for entry in (pair & 0xFFF, pair >> 12)][:count]
    width = found.bits // 8
    raw = read_bounded(reader, found.table_at + first * width, count * width, "FAT")
    if width == 2:
        return struct.unpack(f"<{count}H", raw)
    return [entry & 0x0FFFFFFF for entry in struct.unpack(f"<{count}I", raw)]


def _runs(entries: list[int] | tuple[int, ...]) -> Iterator[tuple[int, int]]:
    start = -1
    for index, entry in enumerate(entries):
        if entry:
            if start < 0:
                start = index
        elif start >= 0:
            yield start, index
            start = -1
    if start >= 0:
        yield start, len(entries)
