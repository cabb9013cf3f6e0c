"""Master boot records and the chain of extended boot records (the "DOS" partition table).

Format: four entries of 16 bytes at 446 and ``55 aa`` at 510; each entry is a status byte (0x00 or 0x80), three
bytes of cylinder/head/sector, the type, three more, u32 first sector, u32 number of sectors, little-endian. An
extended partition (types 05, 0f, 85) starts with an extended boot record: its data entries count from that record,
its link to the next record counts from the start of the extended partition. The links are followed as the kernel
does (``block/partitions/msdos.c``), but what the kernel overlooks silently is refused here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.reader import Reader, read_bounded
from blocksync.volumes.tables import Partition, PartitionTable, refuse_overlap

_SIGNATURE = b"\x55\xaa"
_ENTRY = struct.Struct("<B3sB3sII")
assert _ENTRY.size == 16
_PROTECTIVE = 0xEE
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_FIRST_LOGICAL = 5
_MOST_LOGICAL = 256  # Linux gives out no more minors than that; a longer chain is a loop or garbage


@dataclass(frozen=True, slots=True)
class _Entry:
    status: int
    kind: int
    start: int
    count: int

    @property
    def empty(self) -> bool:
        return not self.kind or not self.count


def _entries(boot: bytes) -> list[_Entry]:
    raw = (_ENTRY.unpack_from(boot, 446 + 16 * index) for index in range(4))
    return [_Entry(status, kind, start, count) for status, _, kind, _, start, count in raw]


def is_table(boot: bytes) -> bool:
    """Whether a first sector is a partition table at all, and not the boot sector of a filesystem."""
    if boot[510:512] != _SIGNATURE or _is_filesystem(boot):
        return False
    return all(entry.status in (0x00, 0x80) for entry in _entries(boot))


def _is_filesystem(boot: bytes) -> bool:
    return boot[3:11] in (b"NTFS    ", b"EXFAT   ") or boot[54:57] == b"FAT" or boot[82:87] == b"FAT32"


def announces_gpt(boot: bytes) -> bool:
    """Whether a master boot record protects a GUID partition table."""
    return boot[510:512] == _SIGNATURE and any(entry.kind == _PROTECTIVE for entry in _entries(boot))


def read(reader: Reader, boot: bytes, sector_bytes: int) -> PartitionTable | None:
    """The table in ``boot``, the first sector, with its logical partitions; None where it is no table.

    Raises:
        LayoutDamagedError: an entry leaves the disk, entries overlap, or the chain of extended records is broken.
    """
    if not is_table(boot):
        return None
    identity = f"{struct.unpack_from('<I', boot, 440)[0]:08x}"
    primary: list[Partition] = []
    logical: list[Partition] = []
    reserved = [(0, 512)]
    for index, entry in enumerate(_entries(boot)):
        if entry.empty:
            continue
        partition = _partition(reader, identity, index + 1, entry, 0, sector_bytes)
        primary.append(partition)
        if partition.container:
            first = _FIRST_LOGICAL + len(logical)
            for found, record in _logical(reader, identity, partition, first, sector_bytes):
                logical.extend(found)
                reserved.append((record, 512))
    refuse_overlap(primary)
    refuse_overlap(logical)
    if not primary and identity == "00000000":
        return None  # boot code without a table, as on an unpartitioned disk with a boot loader
    return PartitionTable(
        kind="mbr",
        sector_bytes=sector_bytes,
        identity=identity,
        partitions=tuple(primary + logical),
        reserved=tuple(reserved),
    )


def _partition(
    reader: Reader, identity: str, number: int, entry: _Entry, base: int, sector_bytes: int
) -> Partition:
    offset = base + entry.start * sector_bytes
    size = entry.count * sector_bytes
    if offset == base or offset + size > reader.size:
        raise LayoutDamagedError(
            f"partition {number} is said to lie at [{offset}, {offset + size}) of {reader.size} bytes",
            remedy="if this image is complete, check its table with fdisk -l or sfdisk --verify",
        )
    return Partition(
        number=number,
        offset=offset,
        size=size,
        type_id=f"0x{entry.kind:02x}",
        uuid=f"{identity}-{number:02x}",
        bootable=entry.status == 0x80,
        container=entry.kind in _EXTENDED,
    )


def _logical(
    reader: Reader, identity: str, extended: Partition, first: int, sector_bytes: int
) -> Iterator[tuple[list[Partition], int]]:
    """Walk the chain: the partitions that each record names, and where the record lies."""
    at = extended.offset
    visited: set[int] = set()
    number = first
    while True:
        if at in visited or len(visited) > _MOST_LOGICAL:
            raise LayoutDamagedError("the chain of extended boot records does not end")
        visited.add(at)
        record = read_bounded(reader, at, 512, "extended boot record")
        if record[510:512] != _SIGNATURE:
            if at == extended.offset and not any(record):
                return  # an extended partition that was never used
            raise LayoutDamagedError(f"the extended boot record at {at} has no signature")
        used = [entry for entry in _entries(record) if not entry.empty]
        found = [
            _partition(reader, identity, number + index, entry, at, sector_bytes)
            for index, entry in enumerate(entry for entry in used if entry.kind not in _EXTENDED)
        ]
        for partition in found:
            if partition.offset < extended.offset or partition.end > extended.end:
                raise LayoutDamagedError(f"logical partition {partition.number} leaves the extended partition")
        yield found, at
        number += len(found)
        links = [entry.start for entry in used if entry.kind in _EXTENDED]
        if not links:
            return
        at = extended.offset + links[0] * sector_bytes
        if not extended.offset <= at <= extended.end - 512:
            raise LayoutDamagedError("the chain of extended boot records leaves the extended partition")
