"""A disk with a partition table, MBR or GPT."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterator

from blocksync.volumes.partitions import partition_reader, read_partitions
from blocksync.volumes.reader import BytesReader
from fuzz.surfaces import Surface

REPAIR, SECTORS = 1, 2
SIZE = 24 << 10


def repaired(disk: bytes) -> bytes:
    """The same with a boot signature, and GPT headers and entries whose checksums hold."""
    fixed = bytearray(disk)
    fixed[510:512] = b"\x55\xaa"
    for at in (512, len(fixed) - 512):
        if fixed[at : at + 8] != b"EFI PART":
            continue
        size = int.from_bytes(fixed[at + 12 : at + 16], "little")
        entries_at, count, entry = struct.unpack_from("<QII", fixed, at + 72)
        if count * entry <= 1 << 20 and entries_at < 1 << 20:
            start = entries_at * 512
            fixed[at + 88 : at + 92] = zlib.crc32(fixed[start : start + count * entry]).to_bytes(4, "little")
        fixed[at + 16 : at + 20] = bytes(4)
        if size <= 512:
            fixed[at + 16 : at + 20] = zlib.crc32(fixed[at : at + size]).to_bytes(4, "little")
    return bytes(fixed)


def run(data: bytes) -> None:
    if len(data) < 600:
        return
    disk = data[1:] + bytes(-(len(data) - 1) % 512)
    if data[0] & REPAIR:
        disk = repaired(disk)
    reader = BytesReader(disk)
    table = read_partitions(reader, sector_bytes=512 if data[0] & SECTORS else None)
    if table is None:
        return
    for partition in table.partitions:
        assert 0 <= partition.offset < partition.end <= reader.size or partition.container
        if not partition.container:
            part = partition_reader(reader, partition)
            part.pread(0, min(part.size, 512))


def gpt() -> bytes:
    """A small disk with two partitions and both copies of its table."""
    sectors = SIZE // 512
    entries = bytearray(4 * 128)
    for index, (first, last) in enumerate(((8, 15), (16, 30))):
        struct.pack_into(
            "<16s16sQQQ72s", entries, index * 128, uuid.UUID(int=index + 1).bytes_le, uuid.UUID(int=index + 9).bytes_le,
            first, last, 0, "name".encode("utf-16-le"),
        )  # fmt: skip
    disk = bytearray(SIZE)
    disk[446:462] = struct.pack("<B3sB3sII", 0, bytes(3), 0xEE, bytes(3), 1, sectors - 1)
    disk[510:512] = b"\x55\xaa"
    for this, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 2)):
        head = struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, this, other, 6, sectors - 4, bytes(16), at, 4, 128,
            zlib.crc32(entries),
        )  # fmt: skip
        head = head[:16] + zlib.crc32(head).to_bytes(4, "little") + head[20:]
        disk[this * 512 : this * 512 + 92] = head
        disk[at * 512 : at * 512 + len(entries)] = entries
    return bytes(disk)


def mbr() -> bytes:
    disk = bytearray(SIZE)
    for index, (kind, first, count) in enumerate(((0x83, 2, 4), (0x05, 8, 20))):
        struct.pack_into("<B3sB3sII", disk, 446 + index * 16, 0, bytes(3), kind, bytes(3), first, count)
    for at, kind, first, count, more in ((8, 0x83, 1, 3, 8), (16, 0x82, 1, 3, 0)):
        struct.pack_into("<B3sB3sII", disk, at * 512 + 446, 0, bytes(3), kind, bytes(3), first, count)
        if more:
            struct.pack_into("<B3sB3sII", disk, at * 512 + 462, 0, bytes(3), 5, bytes(3), more, 6)
        disk[at * 512 + 510 : at * 512 + 512] = b"\x55\xaa"
    disk[510:512] = b"\x55\xaa"
    return bytes(disk)


def seeds() -> Iterator[bytes]:
    for mode in (0, REPAIR, REPAIR | SECTORS):
        yield bytes([mode]) + gpt()
        yield bytes([mode]) + mbr()


SURFACE = Surface(
    run=run, seeds=seeds, modules=("blocksync.volumes.gpt", "blocksync.volumes.mbr", "blocksync.volumes.partitions"),
    most_bytes=SIZE + 1,
)  # fmt: skip
