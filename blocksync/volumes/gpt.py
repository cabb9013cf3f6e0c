"""GUID partition tables, UEFI specification 2.10, section 5.3: the primary in sector 1, the backup in the last.

Both the header and the array of entries have a CRC-32; a copy counts only where both hold and the header says that it
lies where it was found. With a damaged primary the backup is used and that is noted; with both gone the table is
refused. GUIDs are stored with their first three fields little-endian.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.reader import Reader, read_bounded
from blocksync.volumes.tables import Partition, PartitionTable, refuse_overlap

_SIGNATURE = b"EFI PART"
# signature, revision, header size, its CRC, reserved, this LBA, the other's, first and last usable, disk GUID,
# LBA of the entries, their number, their size, their CRC
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
assert _HEADER.size == 92
_ENTRY = struct.Struct("<16s16sQQQ72s")
assert _ENTRY.size == 128
_REVISION = 0x00010000
_MOST_ENTRY_BYTES = 4 << 20  # 128 entries take 16 KiB; nobody makes more than a few thousand
_UNUSED = bytes(16)
_LEGACY_BOOTABLE = 1 << 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """One valid copy of the table."""

    header: int
    other: int
    first_usable: int
    last_usable: int
    guid: bytes
    entries_at: int
    entry_bytes: int
    entries: bytes


def has_signature(reader: Reader, sector_bytes: int) -> bool:
    """Whether sector 1 begins like a GPT header."""
    return reader.size >= 2 * sector_bytes and reader.pread(sector_bytes, 8) == _SIGNATURE


def read(reader: Reader, sector_bytes: int) -> PartitionTable:
    """Read the primary, or else the backup.

    Raises:
        LayoutDamagedError: neither copy holds, or the entries contradict each other.
        LayoutUnknownError: the revision is not 1.0.
    """
    last = reader.size // sector_bytes - 1
    notes: list[str] = []
    try:
        used = _read_copy(reader, sector_bytes, 1)
    except LayoutDamagedError as damage:
        try:
            used = _read_copy(reader, sector_bytes, last)
        except LayoutDamagedError as second:
            raise LayoutDamagedError(
                f"the GPT is damaged, and so is its backup: {damage}; {second}",
                remedy="repair it with gdisk, or send the disk as a whole",
            ) from second
        notes.append(f"the primary GPT is damaged ({damage}); its backup was used")
    else:
        notes += _look_at_backup(reader, sector_bytes, used, last)
    return _table(reader, sector_bytes, used, notes)


def _look_at_backup(reader: Reader, sector_bytes: int, used: _Copy, last: int) -> list[str]:
    if used.other > last:
        return ["the backup GPT lies beyond the end of the disk"]
    try:
        backup = _read_copy(reader, sector_bytes, used.other)
    except LayoutDamagedError as damage:
        return [f"the backup GPT is damaged ({damage})"]
    if (backup.guid, backup.entries) != (used.guid, used.entries):
        return ["the backup GPT differs from the primary, which was used"]
    return [] if used.other == last else ["the backup GPT does not lie at the end of the disk"]


def _read_copy(reader: Reader, sector_bytes: int, lba: int) -> _Copy:
    where = f"GPT header in sector {lba}"
    raw = read_bounded(reader, lba * sector_bytes, sector_bytes, where)
    fields = _HEADER.unpack_from(raw)
    signature, revision, size, crc, _, this, other, first, last, guid, entries_at, count, entry_bytes, array_crc = (
        fields
    )
    if signature != _SIGNATURE:
        raise LayoutDamagedError(f"{where}: no signature")
    if not _HEADER.size <= size <= sector_bytes:
        raise LayoutDamagedError(f"{where}: a size of {size} bytes")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc:
        raise LayoutDamagedError(f"{where}: its checksum does not match")
    if revision != _REVISION:
        raise LayoutUnknownError(f"{where}: revision {revision:#010x} is not 1.0")
    if this != lba:
        raise LayoutDamagedError(f"{where}: it says it belongs in sector {this}")
    if entry_bytes < _ENTRY.size or entry_bytes % 8 or count * entry_bytes > _MOST_ENTRY_BYTES:
        raise LayoutDamagedError(f"{where}: {count} entries of {entry_bytes} bytes")
    entries = read_bounded(reader, entries_at * sector_bytes, count * entry_bytes, f"{where}: its entries")
    if zlib.crc32(entries) != array_crc:
        raise LayoutDamagedError(f"{where}: the checksum of its entries does not match")
    return _Copy(
        header=this,
        other=other,
        first_usable=first,
        last_usable=last,
        guid=guid,
        entries_at=entries_at,
        entry_bytes=entry_bytes,
        entries=entries,
    )


def _table(reader: Reader, sector_bytes: int, used: _Copy, notes: list[str]) -> PartitionTable:
    partitions: list[Partition] = []
    for index in range(len(used.entries) // used.entry_bytes):
        entry = _ENTRY.unpack_from(used.entries, index * used.entry_bytes)
        kind, unique, first, last, attributes, name = entry
        if kind == _UNUSED:
            continue
        number = index + 1
        if not used.first_usable <= first <= last <= used.last_usable or (last + 1) * sector_bytes > reader.size:
            raise LayoutDamagedError(f"partition {number} (sectors {first} to {last}) leaves the usable area")
        partitions.append(
            Partition(
                number=number,
                offset=first * sector_bytes,
                size=(last + 1 - first) * sector_bytes,
                type_id=str(uuid.UUID(bytes_le=kind)),
                uuid=str(uuid.UUID(bytes_le=unique)),
                name=name.decode("utf-16-le", "replace").split("\0", 1)[0],
                bootable=bool(attributes & _LEGACY_BOOTABLE),
                attributes=attributes,
            )
        )
    refuse_overlap(partitions)
    return PartitionTable(
        kind="gpt",
        sector_bytes=sector_bytes,
        identity=str(uuid.UUID(bytes_le=used.guid)),
        partitions=tuple(partitions),
        reserved=_reserved(reader, sector_bytes, used),
        notes=tuple(notes),
    )


def _reserved(reader: Reader, sector_bytes: int, used: _Copy) -> tuple[tuple[int, int], ...]:
    """Boot record, header and entries; and the same at the other end, as far as the disk goes."""
    head = used.first_usable * sector_bytes
    tail = (used.last_usable + 1) * sector_bytes
    parts = [(0, min(head, reader.size)), (tail, reader.size - tail)]
    return tuple((offset, length) for offset, length in parts if length > 0)
