"""NTFS: the boot sector, records of the master file table, runs, and the volume's bitmap.

After the documentation of the Linux-NTFS project and ``fs/ntfs/layout.h``, little-endian. Records and index blocks
carry fix-ups (the last two bytes of each sector), which are verified, as NTFS has no checksums. Used is what
``$Bitmap`` says; the backup of the boot sector lies behind the last cluster and is used too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.bitmaps import set_runs
from blocksync.volumes.filesystems.base import Filesystem, clipped
from blocksync.volumes.reader import Reader, read_bounded

SECTOR_BYTES = 512
_MFT, _LOG_FILE, _VOLUME, _BITMAP = 0, 2, 3, 6
ATTRIBUTE_LIST, NAME, VOLUME_NAME, VOLUME_INFORMATION, DATA = 0x20, 0x30, 0x60, 0x70, 0x80
_END = 0xFFFFFFFF
_VOLUME_DIRTY = 1
_VOLUME_CLEAN = 2
_NO_CLIENT = 0xFFFF
_MOST_RUNS = 1 << 20
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """The boot sector; sizes in bytes."""

    sector_bytes: int
    cluster_bytes: int
    sectors: int
    mft_cluster: int
    record_bytes: int
    index_bytes: int
    serial: int

    @property
    def clusters(self) -> int:
        return self.sectors * self.sector_bytes // self.cluster_bytes

    @property
    def size(self) -> int:
        """The backup boot sector behind the last sector included."""
        return (self.sectors + 1) * self.sector_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute of a record: its bytes where it is resident, else its runs.

    Args:
        runs: ``(first cluster of the attribute, count, cluster on the volume)``, None for a hole.
        size: bytes of content.
        flags: compressed 1, encrypted 0x4000, sparse 0x8000.
    """

    kind: int
    name: str
    flags: int
    resident: bytes | None
    runs: tuple[tuple[int, int, int | None], ...]
    first: int
    size: int


def read_boot(reader: Reader) -> Boot | None:
    """The boot sector; None where it is none of NTFS's.

    Raises:
        LayoutDamagedError: its numbers do not hold.
    """
    if reader.size < SECTOR_BYTES:
        return None
    raw = reader.pread(0, SECTOR_BYTES)
    if raw[3:11] != b"NTFS    " or raw[510:512] != b"\x55\xaa":
        return None
    sector, shift = struct.unpack_from("<HB", raw, 11)
    per_cluster = shift if shift <= 0x80 else 1 << 256 - shift
    sectors, mft, _ = struct.unpack_from("<QQQ", raw, 40)
    cluster = sector * per_cluster
    if sector not in (512, 1024, 2048, 4096) or not cluster or cluster & (cluster - 1) or cluster > 2 << 20:
        raise LayoutDamagedError("the NTFS boot sector contradicts itself")
    boot = Boot(
        sector_bytes=sector,
        cluster_bytes=cluster,
        sectors=sectors,
        mft_cluster=mft,
        record_bytes=_shifted(raw[64], cluster),
        index_bytes=_shifted(raw[68], cluster),
        serial=struct.unpack_from("<Q", raw, 72)[0],
    )
    if (
        boot.record_bytes not in (512, 1024, 2048, 4096)
        or not 512 <= boot.index_bytes <= 1 << 20
        or mft >= boot.clusters
        or sectors >= 1 << 55
    ):
        raise LayoutDamagedError("the NTFS boot sector contradicts itself")
    return boot


def _shifted(value: int, cluster: int) -> int:
    """Clusters where positive, else the power of two of the bytes."""
    if value < 128:
        return value * cluster
    return 1 << min(256 - value, 32)


class Ntfs:
    """A volume: its records by number.

    Raises:
        LayoutDamagedError: there is none, or what it says of itself does not hold.
    """

    def __init__(self, reader: Reader) -> None:
        boot = read_boot(reader)
        if boot is None:
            raise LayoutDamagedError("there is no NTFS boot sector")
        if boot.sectors * boot.sector_bytes > reader.size:
            raise LayoutDamagedError(
                f"the NTFS filesystem has {boot.sectors * boot.sector_bytes} bytes and lies in {reader.size}"
            )
        self.reader = reader
        self.boot = boot
        self._mft: Attribute | None = None
        raw = read_bounded(reader, boot.mft_cluster * boot.cluster_bytes, boot.record_bytes, "NTFS record 0")
        attributes = self._attributes(self._fixed(raw, b"FILE", "record 0"), 0)
        self._mft = self._joined(0, attributes, DATA)

    @property
    def records(self) -> int:
        """How many there are."""
        assert self._mft is not None
        return self._mft.size // self.boot.record_bytes

    def record(self, number: int) -> bytes:
        """A record, fix-ups applied.

        Raises:
            LayoutDamagedError: it does not hold.
        """
        assert self._mft is not None
        raw = self.read(self._mft, number * self.boot.record_bytes, self.boot.record_bytes)
        return self._fixed(raw, b"FILE", f"record {number}")

    def attribute(self, number: int, kind: int, name: str = "") -> Attribute | None:
        """An attribute of a record, put together from extension records where it has some."""
        attributes = self._attributes(self.record(number), number)
        if not any(found.kind in (kind, ATTRIBUTE_LIST) for found in attributes):
            return None
        return self._joined(number, attributes, kind, name)

    def attributes(self, number: int) -> list[Attribute]:
        """The attributes that stand in a record itself."""
        return self._attributes(self.record(number), number)

    def _joined(self, number: int, attributes: list[Attribute], kind: int, name: str = "") -> Attribute:
        parts = [found for found in attributes if found.kind == kind and found.name == name]
        listed = next((found for found in attributes if found.kind == ATTRIBUTE_LIST), None)
        if listed is not None:
            for other in sorted(set(self.elsewhere(listed, kind, name)) - {number}):
                found = self._attributes(self.record(other), other)
                parts += [part for part in found if part.kind == kind and part.name == name]
        parts.sort(key=lambda part: part.first)
        if not parts:
            raise LayoutDamagedError(f"NTFS record {number} has no attribute {kind:#x}")
        if len(parts) == 1:
            return parts[0]
        runs = tuple(run for part in parts for run in part.runs)
        head = parts[0]
        return Attribute(
            kind=kind,
            name=name,
            flags=head.flags,
            resident=head.resident,
            runs=runs,
            first=head.first,
            size=head.size,
        )

    def elsewhere(self, listed: Attribute, kind: int, name: str) -> Iterator[int]:
        """The records that an attribute list names for one attribute."""
        if listed.size > _PIECE_BYTES:
            raise LayoutDamagedError("an NTFS attribute list is out of proportion")
        raw = self.read(listed, 0, listed.size)
        at = 0
        while at + 26 <= len(raw):
            of_kind, length, characters, name_at, _, reference = struct.unpack_from("<IHBBQQ", raw, at)
            if length < 26 or at + length > len(raw):
                raise LayoutDamagedError("an NTFS attribute list does not hold")
            found = raw[at + name_at : at + name_at + 2 * characters].decode("utf-16-le", "replace")
            if of_kind == kind and found == name:
                yield reference & 0xFFFFFFFFFFFF
            at += length

    def read(self, attribute: Attribute, offset: int, length: int) -> bytes:
        """Content of an attribute, holes as zeros; within its size."""
        if offset < 0 or length < 0 or offset + length > attribute.size:
            raise LayoutDamagedError("a read leaves an NTFS attribute")
        if attribute.resident is not None:
            return attribute.resident[offset : offset + length]
        unit = self.boot.cluster_bytes
        pieces: list[bytes] = []
        end = offset + length
        at = offset
        for first, count, cluster in attribute.runs:
            start, stop = max(first * unit, at), min((first + count) * unit, end)
            if start >= stop:
                continue
            if start > at:
                break
            if cluster is None:
                pieces.append(bytes(stop - start))
            else:
                place = cluster * unit + start - first * unit
                pieces.append(read_bounded(self.reader, place, stop - start, "NTFS attribute"))
            at = stop
        if at != end:
            raise LayoutDamagedError("the runs of an NTFS attribute do not reach its end")
        return b"".join(pieces)

    def _fixed(self, raw: bytes, magic: bytes, what: str) -> bytes:
        """Undo the fix-ups: each sector's last two bytes must be the update number and are replaced."""
        if raw[:4] != magic:
            raise LayoutDamagedError(f"NTFS {what} is none")
        at, count = struct.unpack_from("<HH", raw, 4)
        sectors = len(raw) // SECTOR_BYTES
        if count != sectors + 1 or at + 2 * count > SECTOR_BYTES - 2 or at < 40 - 16:
            raise LayoutDamagedError(f"NTFS {what}: its fix-ups do not fit")
        number = raw[at : at + 2]
        fixed = bytearray(raw)
        for sector in range(sectors):
            end = (sector + 1) * SECTOR_BYTES
            if raw[end - 2 : end] != number:
                raise LayoutDamagedError(f"NTFS {what} was torn: its sectors are of different ages")
            fixed[end - 2 : end] = raw[at + 2 + 2 * sector : at + 4 + 2 * sector]
        return bytes(fixed)

    def index_block(self, raw: bytes) -> bytes:
        """A block of an index allocation, fix-ups applied."""
        return self._fixed(raw, b"INDX", "index block")

    def _attributes(self, raw: bytes, number: int) -> list[Attribute]:
        (at,) = struct.unpack_from("<H", raw, 20)
        used = min(struct.unpack_from("<I", raw, 24)[0], len(raw))
        found: list[Attribute] = []
        while at + 8 <= used:
            kind, length = struct.unpack_from("<II", raw, at)
            if kind == _END:
                return found
            if length < 24 or length % 8 or at + length > used:
                break
            found.append(self._attribute(raw[at : at + length], kind, number))
            at += length
        raise LayoutDamagedError(f"the attributes of NTFS record {number} do not end")

    def _attribute(self, raw: bytes, kind: int, number: int) -> Attribute:
        _, _, outside, characters, name_at, flags, _ = struct.unpack_from("<IIBBHHH", raw)
        name = raw[name_at : name_at + 2 * characters].decode("utf-16-le", "replace")
        if not outside:
            size, at = struct.unpack_from("<IH", raw, 16)
            if at + size > len(raw):
                raise LayoutDamagedError(f"an attribute of NTFS record {number} leaves the record")
            return Attribute(
                kind=kind, name=name, flags=flags, resident=raw[at : at + size], runs=(), first=0, size=size
            )
        if len(raw) < 64:
            raise LayoutDamagedError(f"an attribute of NTFS record {number} is cut short")
        first, _, runs_at = struct.unpack_from("<QQH", raw, 16)
        size = struct.unpack_from("<Q", raw, 48)[0] if not first else 0
        runs = tuple(self._runs(raw, runs_at, first, number))
        return Attribute(kind=kind, name=name, flags=flags, resident=None, runs=runs, first=first, size=size)

    def _runs(self, raw: bytes, at: int, first: int, number: int) -> Iterator[tuple[int, int, int | None]]:
        fault = LayoutDamagedError(f"the runs of NTFS record {number} do not hold")
        cluster = 0
        for _ in range(_MOST_RUNS):
            if at >= len(raw):
                raise fault
            head = raw[at]
            if not head:
                return
            count_bytes, place_bytes = head & 15, head >> 4
            end = at + 1 + count_bytes + place_bytes
            if not 1 <= count_bytes <= 8 or place_bytes > 8 or end > len(raw):
                raise fault
            count = int.from_bytes(raw[at + 1 : at + 1 + count_bytes], "little")
            cluster += int.from_bytes(raw[at + 1 + count_bytes : end], "little", signed=True)
            if not count or first + count > 1 << 48:
                raise fault
            if place_bytes and not 0 <= cluster <= cluster + count <= self.boot.clusters + 1:
                raise fault
            yield first, count, cluster if place_bytes else None
            first += count
            at = end

    # -- the volume -------------------------------------------------------------------------------------------

    def label(self) -> str:
        found = self.attribute(_VOLUME, VOLUME_NAME)
        if found is None or found.resident is None:
            return ""
        return found.resident.decode("utf-16-le", "replace")

    def clean(self) -> bool:
        """Neither marked dirty nor with a log that waits to be replayed."""
        found = self.attribute(_VOLUME, VOLUME_INFORMATION)
        if found is None or found.resident is None or len(found.resident) < 12:
            raise LayoutDamagedError("the NTFS volume does not say what it is")
        major = found.resident[8]
        if major not in (1, 3):
            raise LayoutUnknownError(f"the NTFS filesystem is of version {major}")
        if struct.unpack_from("<H", found.resident, 10)[0] & _VOLUME_DIRTY:
            return False
        return self._log_is_clean()

    def _log_is_clean(self) -> bool:
        """Both restart pages: no client, or marked clean; a log of all ones was emptied."""
        found = self.attribute(_LOG_FILE, DATA)
        if found is None or found.size < 8192:
            return False
        for page in (0, 4096):
            raw = self.read(found, page, 4096)
            if raw[:4] == b"\xff\xff\xff\xff":
                continue
            if raw[:4] != b"RSTR":
                return False
            (at,) = struct.unpack_from("<H", raw, 24)
            if at + 16 > 4096 - 2:
                return False
            in_use, flags = struct.unpack_from("<HH", raw, at + 12)
            if in_use != _NO_CLIENT and not flags & _VOLUME_CLEAN:
                return False
        return True

    def mark(self) -> bytes:
        """The flags of the volume and the log's restart pages."""
        found = self.attribute(_LOG_FILE, DATA)
        pages = self.read(found, 0, 8192) if found is not None and found.size >= 8192 else b""
        return self.record(_VOLUME) + pages

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges of clusters in ``[first, stop)`` that the bitmap marks."""
        found = self.attribute(_BITMAP, DATA)
        if found is None or found.size * 8 < self.boot.clusters:
            raise LayoutDamagedError("the NTFS bitmap does not cover the volume")
        stop = min(stop, self.boot.clusters)
        at = first // 8 // _PIECE_BYTES * _PIECE_BYTES
        while at * 8 < stop:
            count = min(_PIECE_BYTES, found.size - at)
            for low, high in set_runs(self.read(found, at, count), min(count * 8, stop - at * 8)):
                yield at * 8 + low, at * 8 + high
            at += count


def probe(reader: Reader) -> Filesystem | None:
    """What the volume says; None where there is none."""
    boot = read_boot(reader)
    if boot is None:
        return None
    volume = Ntfs(reader)
    return Filesystem(
        kind="ntfs",
        uuid=f"{boot.serial:016X}",
        label=volume.label(),
        size=boot.sectors * boot.sector_bytes,
        used=sum(high - low for low, high in volume.used(0, boot.clusters)) * boot.cluster_bytes,
        block_bytes=boot.cluster_bytes,
        clean=volume.clean(),
    )


class NtfsMap:
    """The allocation map.

    Raises:
        FilesystemDirtyError: marked dirty, or its log was not emptied.
        LayoutDamagedError, LayoutUnknownError: it cannot be read.
    """

    def __init__(self, reader: Reader) -> None:
        self._volume = volume = Ntfs(reader)
        if not volume.clean():
            raise FilesystemDirtyError("no allocation map of the ntfs filesystem: it was not cleanly unmounted")
        self.size = min(volume.boot.size, reader.size)

    def mark(self) -> bytes:
        return self._volume.mark()

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        unit = self._volume.boot.cluster_bytes
        return clipped(self._used(first // unit, -(-stop // unit)), first, min(stop, self.size))

    def _used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        boot = self._volume.boot
        for low, high in self._volume.used(first, stop):
            yield low * boot.cluster_bytes, high * boot.cluster_bytes
        # What is left behind the last whole cluster, with the backup of the boot sector.
        yield boot.clusters * boot.cluster_bytes, boot.size
