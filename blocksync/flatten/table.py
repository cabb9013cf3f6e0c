"""Writing a partition table: exactly the bytes of one, GPT or MBR, and nothing else of the disk.

By us and not by sfdisk, since a bare machine may have neither that nor sgdisk, and since the same plan must give the
same bytes each time: a pass that resumes compares them with what is there. Formats: UEFI 2.10, section 5.3, for
the GPT and its protective record; four entries of 16 bytes at 446 for the MBR. Bytes 0 to 439 are the boot
loader's and are left alone.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass

from blocksync.errors import FlattenTableError

ALIGNMENT_BYTES = 1 << 20
GPT_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_MBR_ENTRY = struct.Struct("<B3sB3sII")
assert (_ENTRY.size, _HEADER.size, _MBR_ENTRY.size) == (128, 92, 16)
BOOT_CODE_BYTES = 440
_MBR_MOST_SECTORS = 0xFFFFFFFF
MBR_MOST_PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One partition to be.

    Args:
        number: its own, from 1.
        offset, size: bytes, multiples of the sector.
        type_id: a GUID, or ``0x83``.
        uuid: PARTUUID; not used in an MBR, whose PARTUUIDs come of its signature.
        name: GPT only, at most 36 UTF-16 units.
        bootable: the active flag of an MBR.
        attributes: of a GPT entry.
    """

    number: int
    offset: int
    size: int
    type_id: str
    uuid: str = ""
    name: str = ""
    bootable: bool = False
    attributes: int = 0


def table_tail_bytes(kind: str, sector_bytes: int) -> int:
    """What a table needs at the end of the disk."""
    return sector_bytes + GPT_ENTRIES * _ENTRY.size if kind == "gpt" else 0


def encode(
    kind: str, identity: str, slices: tuple[Slice, ...], disk_bytes: int, sector_bytes: int
) -> list[tuple[int, bytes]]:
    """``(offset, bytes)`` of a whole table.

    Args:
        kind: ``gpt`` or ``mbr``.
        identity: the disk's GUID, or the eight hex digits of an MBR.

    Raises:
        FlattenTableError: the table cannot describe this.
    """
    if kind == "gpt":
        return _gpt(identity, slices, disk_bytes, sector_bytes)
    return [(BOOT_CODE_BYTES, _mbr(identity, slices, sector_bytes))]


def _mbr(identity: str, slices: tuple[Slice, ...], sector_bytes: int) -> bytes:
    if len(slices) > MBR_MOST_PARTITIONS:
        raise FlattenTableError(f"a master boot record holds 4 partitions, and {len(slices)} are needed")
    entries = [bytes(_MBR_ENTRY.size)] * MBR_MOST_PARTITIONS
    for part in slices:
        first, count = part.offset // sector_bytes, part.size // sector_bytes
        if not 1 <= part.number <= MBR_MOST_PARTITIONS or first + count > _MBR_MOST_SECTORS:
            raise FlattenTableError(
                f"a master boot record cannot describe partition {part.number}: it ends too far out"
            )
        status = 0x80 if part.bootable else 0
        kind = int(part.type_id, 16)
        entries[part.number - 1] = _MBR_ENTRY.pack(
            status, _cylinders(first), kind, _cylinders(first + count - 1), first, count
        )
    return struct.pack("<IH", int(identity, 16), 0) + b"".join(entries) + b"\x55\xaa"


def _cylinders(sector: int) -> bytes:
    """A place as cylinder, head and sector of a disk with 255 heads and 63 sectors; the highest where it is beyond."""
    cylinder, rest = divmod(sector, 255 * 63)
    head, index = divmod(rest, 63)
    if cylinder > 1023:
        return b"\xfe\xff\xff"
    return bytes((head, (index + 1) | (cylinder >> 2) & 0xC0, cylinder & 0xFF))


def _gpt(identity: str, slices: tuple[Slice, ...], disk_bytes: int, sector_bytes: int) -> list[tuple[int, bytes]]:
    sectors = disk_bytes // sector_bytes
    array_sectors = GPT_ENTRIES * _ENTRY.size // sector_bytes
    first_usable, last_usable = 2 + array_sectors, sectors - 2 - array_sectors
    entries = [bytes(_ENTRY.size)] * GPT_ENTRIES
    for part in slices:
        first, last = part.offset // sector_bytes, (part.offset + part.size) // sector_bytes - 1
        if not 1 <= part.number <= GPT_ENTRIES or not first_usable <= first <= last <= last_usable:
            raise FlattenTableError(f"partition {part.number} does not fit into the GPT of {disk_bytes} bytes")
        name = part.name.encode("utf-16-le")[:72]
        entries[part.number - 1] = _ENTRY.pack(
            uuid.UUID(part.type_id).bytes_le, uuid.UUID(part.uuid).bytes_le, first, last, part.attributes, name
        )
    array = b"".join(entries)
    guid = uuid.UUID(identity).bytes_le

    def header(this: int, other: int, entries_at: int) -> bytes:
        fields = (b"EFI PART", 0x00010000, _HEADER.size, 0, 0, this, other, first_usable, last_usable)
        bare = _HEADER.pack(*fields, guid, entries_at, GPT_ENTRIES, _ENTRY.size, zlib.crc32(array))
        sealed = bare[:16] + struct.pack("<I", zlib.crc32(bare)) + bare[20:]
        return sealed.ljust(sector_bytes, b"\0")

    protective = _MBR_ENTRY.pack(0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, _MBR_MOST_SECTORS))
    record = bytes(6) + protective + bytes(3 * _MBR_ENTRY.size) + b"\x55\xaa"
    last = sectors - 1
    return [
        (BOOT_CODE_BYTES, record),
        (sector_bytes, header(1, last, 2)),
        (2 * sector_bytes, array),
        ((last - array_sectors) * sector_bytes, array),
        (last * sector_bytes, header(last, 1, last - array_sectors)),
    ]
