r"""What Windows answers about disks and volumes: control codes and structures, little-endian.

After Microsoft's reference of ``winioctl.h`` and ``ntdddisk.h``; numbers and offsets are compared with the header of
mingw-w64 by ``tests/windows``. Lengths in answers are checked before anything is made of them.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from blocksync.platforms.windows import ERROR_HANDLE_EOF, WindowsCalls, WindowsFault

IOCTL_DISK_GET_DRIVE_GEOMETRY_EX = 0x700A0
IOCTL_DISK_GET_LENGTH_INFO = 0x7405C
IOCTL_DISK_GET_DRIVE_LAYOUT_EX = 0x70050
IOCTL_STORAGE_QUERY_PROPERTY = 0x2D1400
IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS = 0x560000
FSCTL_GET_VOLUME_BITMAP = 0x9006F
FSCTL_GET_RETRIEVAL_POINTERS = 0x90073
FSCTL_GET_NTFS_VOLUME_DATA = 0x90064
FSCTL_ALLOW_EXTENDED_DASD_IO = 0x90083

GEOMETRY = struct.Struct("<qIIIIq")  # cylinders, media type, tracks, sectors a track, bytes a sector, disk size
ALIGNMENT = struct.Struct(
    "<7I"
)  # version, size, cache line, its offset, logical sector, physical sector, its offset
DEVICE = struct.Struct("<IIBBBBIIIIII")  # version, size, …, offsets of vendor, product, revision, serial; bus; raw
LAYOUT = struct.Struct("<II40s")  # style, count, MBR {signature, checksum} or GPT {disk id, …}
PARTITION = struct.Struct("<I4xqqIBB2x112s")  # style, start, length, number, rewrite, service, MBR or GPT
EXTENTS = struct.Struct("<I4x")  # how many
EXTENT = struct.Struct("<I4xqq")  # disk, start, length
BITMAP = struct.Struct("<qq")  # first cluster, how many from there to the end; then a bit a cluster
POINTERS = struct.Struct("<I4xq")  # how many, first cluster of the file
POINTER = struct.Struct("<qq")  # next cluster of the file, cluster of the volume or -1 for a hole
NTFS_DATA = struct.Struct("<5q4I")  # serial, sectors, clusters, free, reserved, bytes a sector, a cluster, …
assert (GEOMETRY.size, ALIGNMENT.size, DEVICE.size, LAYOUT.size, PARTITION.size) == (32, 28, 36, 48, 144)
assert (EXTENTS.size, EXTENT.size, BITMAP.size, POINTERS.size, NTFS_DATA.size) == (8, 24, 16, 16, 56)
_DEVICE_BEFORE_DATA = 36
_DEVICE_PROPERTY, _ALIGNMENT_PROPERTY = 0, 6
_MBR_STYLE, _GPT_STYLE = 0, 1
_MOST_PARTITIONS = 1024
_MOST_EXTENTS = 1024
_PIECE_BYTES = 1 << 20
_MOST_RUNS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsPartition:
    """A partition as Windows knows it; ``offset`` and ``length`` in bytes."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveLayout:
    """A disk's partition table as Windows knows it; ``identity`` is the GPT's GUID or the MBR's signature."""

    style: str
    identity: str
    partitions: tuple[WindowsPartition, ...]


@dataclass(frozen=True, slots=True)
class DiskExtent:
    """A piece of a volume: the number of the disk it lies on, start and length there in bytes."""

    disk: int
    offset: int
    length: int


def _short(what: str) -> OSError:
    return OSError(errno.EIO, f"Windows answered less than a whole {what}")


def _unpack(form: struct.Struct, raw: bytes, at: int, what: str) -> tuple[int, ...]:
    if at + form.size > len(raw):
        raise _short(what)
    return form.unpack_from(raw, at)


def length_of(calls: WindowsCalls, handle: int) -> int:
    """Bytes of a disk, volume or shadow copy (GET_LENGTH_INFORMATION)."""
    raw, _ = calls.control(handle, IOCTL_DISK_GET_LENGTH_INFO, b"", 8)
    return _unpack(struct.Struct("<q"), raw, 0, "length")[0]


def sector_bytes_of(calls: WindowsCalls, handle: int) -> int:
    """The logical sector, by STORAGE_ACCESS_ALIGNMENT_DESCRIPTOR, by DISK_GEOMETRY_EX where a driver has none."""
    try:
        raw, _ = calls.control(
            handle, IOCTL_STORAGE_QUERY_PROPERTY, struct.pack("<III", _ALIGNMENT_PROPERTY, 0, 0), ALIGNMENT.size
        )
        found = _unpack(ALIGNMENT, raw, 0, "alignment")[4]
    except OSError:
        raw, _ = calls.control(handle, IOCTL_DISK_GET_DRIVE_GEOMETRY_EX, b"", 256)
        found = _unpack(GEOMETRY, raw, 0, "geometry")[4]
    if found < 512 or found & (found - 1) or found > 65536:
        raise OSError(errno.EIO, f"Windows tells of sectors of {found} bytes")
    return found


def serial_of(calls: WindowsCalls, handle: int) -> str:
    """A disk's product and serial number (STORAGE_DEVICE_DESCRIPTOR); empty where it tells no serial number."""
    try:
        raw, _ = calls.control(
            handle, IOCTL_STORAGE_QUERY_PROPERTY, struct.pack("<III", _DEVICE_PROPERTY, 0, 0), 4096
        )
    except OSError:
        return ""
    if len(raw) < _DEVICE_BEFORE_DATA:
        return ""
    product, serial = struct.unpack_from("<I", raw, 16)[0], struct.unpack_from("<I", raw, 24)[0]
    number = _text_at(raw, serial)
    return f"{_text_at(raw, product)}:{number}" if number else ""


def _text_at(raw: bytes, at: int) -> str:
    if not _DEVICE_BEFORE_DATA <= at < len(raw):
        return ""
    return raw[at:].split(b"\0", 1)[0].decode("ascii", "replace").strip()


def layout_of(calls: WindowsCalls, handle: int) -> DriveLayout:
    """The partition table (DRIVE_LAYOUT_INFORMATION_EX)."""
    raw, more = calls.control(
        handle, IOCTL_DISK_GET_DRIVE_LAYOUT_EX, b"", LAYOUT.size + _MOST_PARTITIONS * PARTITION.size
    )
    if more or len(raw) < LAYOUT.size:
        raise _short("partition table")
    style, count, head = LAYOUT.unpack_from(raw)
    if style not in (_MBR_STYLE, _GPT_STYLE):
        return DriveLayout(style="", identity="", partitions=())
    identity = str(UUID(bytes_le=head[:16])) if style == _GPT_STYLE else f"{struct.unpack_from('<I', head)[0]:08x}"
    found = []
    for index in range(min(count, _MOST_PARTITIONS)):
        _, start, length, number, _, _, _ = _unpack(
            PARTITION, raw, LAYOUT.size + index * PARTITION.size, "partition"
        )
        if number and length > 0 and start >= 0:
            found.append(WindowsPartition(number=number, offset=start, length=length))
    return DriveLayout(style="gpt" if style == _GPT_STYLE else "mbr", identity=identity, partitions=tuple(found))


def extents_of(calls: WindowsCalls, handle: int) -> tuple[DiskExtent, ...]:
    """Where a volume lies (VOLUME_DISK_EXTENTS); a volume that spans disks has several."""
    raw, more = calls.control(
        handle, IOCTL_VOLUME_GET_VOLUME_DISK_EXTENTS, b"", EXTENTS.size + _MOST_EXTENTS * EXTENT.size
    )
    (count,) = _unpack(EXTENTS, raw, 0, "list of extents")
    if more or count > _MOST_EXTENTS:
        raise _short("list of extents")
    return tuple(
        DiskExtent(*_unpack(EXTENT, raw, EXTENTS.size + index * EXTENT.size, "extent")) for index in range(count)
    )


def cluster_bytes_of(calls: WindowsCalls, handle: int) -> int:
    """Bytes of a cluster of a mounted NTFS (NTFS_VOLUME_DATA_BUFFER)."""
    raw, _ = calls.control(handle, FSCTL_GET_NTFS_VOLUME_DATA, b"", 256)
    found = _unpack(NTFS_DATA, raw, 0, "description of an NTFS")[6]
    if found < 512 or found & (found - 1) or found > 2 << 20:
        raise OSError(errno.EIO, f"Windows tells of clusters of {found} bytes")
    return found


def allow_whole_volume(calls: WindowsCalls, handle: int) -> None:
    """Let reads go beyond what the filesystem says is its last sector; devices that have no filesystem refuse it."""
    try:
        calls.control(handle, FSCTL_ALLOW_EXTENDED_DASD_IO, b"", 0)
    except WindowsFault:
        return


def bitmap_piece(calls: WindowsCalls, handle: int, first: int) -> tuple[int, int, bytes]:
    """A piece of a volume's bitmap.

    Args:
        first: cluster from which on; the driver rounds it down.

    Returns:
        the first cluster told, how many clusters there are from there to the volume's end, bits of the first of them.
    """
    raw, _ = calls.control(handle, FSCTL_GET_VOLUME_BITMAP, struct.pack("<q", first), BITMAP.size + _PIECE_BYTES)
    start, count = _unpack(BITMAP, raw, 0, "bitmap")
    if not 0 <= start <= first or count < 0:
        raise OSError(errno.EIO, "Windows answered with another part of the bitmap than was asked for")
    return start, count, raw[BITMAP.size :]


def runs_of(calls: WindowsCalls, handle: int) -> Iterator[tuple[int, int]]:
    """``(cluster of the volume, count)`` of a file's content (RETRIEVAL_POINTERS_BUFFER), holes left out."""
    at = told = 0
    more = True
    while more:
        try:
            raw, more = calls.control(
                handle, FSCTL_GET_RETRIEVAL_POINTERS, struct.pack("<q", at), POINTERS.size + 4096 * POINTER.size
            )
        except WindowsFault as fault:
            if fault.number == ERROR_HANDLE_EOF:  # nothing of it lies in clusters, or no more does
                return
            raise
        count, start = _unpack(POINTERS, raw, 0, "list of a file's clusters")
        for index in range(count):
            following, cluster = _unpack(POINTER, raw, POINTERS.size + index * POINTER.size, "run of a file")
            told += 1
            if following <= start or told > _MOST_RUNS:
                raise OSError(errno.EIO, "Windows answered with runs of a file that do not hold")
            if cluster >= 0:
                yield cluster, following - start
            start = following
        if more and start <= at:
            raise OSError(errno.EIO, "Windows answered with runs of a file that do not end")
        at = start
