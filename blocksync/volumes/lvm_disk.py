"""LVM2 on disk: the label, the physical volume's header, and the ring buffers that hold the text.

Formats (all little-endian), as lvm2's ``lib/format_text/layout.h`` and ``lib/label/label.h`` define them:

* label, in one of the sectors 0 to 3: ``LABELONE``, u64 its own sector, u32 CRC over bytes 20 to 511, u32 offset of
  the header, ``LVM2 001``;
* header: 32 characters of UUID, u64 device size, then lists of {u64 offset, u64 size}, each ended by zeros: data
  areas, metadata areas; then an extension that says which areas hold boot loaders;
* metadata area: u32 CRC over bytes 4 to 511, a magic of 16 bytes, u32 version 1, u64 start, u64 size, then slots
  {u64 offset, u64 size, u32 CRC, u32 flags}; slot 0 is the committed text, which wraps at the area's end to 512.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from blocksync.errors import LayoutDamagedError, LayoutError, LayoutUnknownError
from blocksync.volumes import lvm_text
from blocksync.volumes.lvm_text import Section
from blocksync.volumes.reader import Reader, read_bounded

SECTOR_BYTES = 512
_LABEL = struct.Struct("<8sQII8s")
assert _LABEL.size == 32
_AREA = struct.Struct("<QQ")
_MDA = struct.Struct("<I16sIQQ")
assert _MDA.size == 40
_SLOT = struct.Struct("<QQII")
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_IGNORED = 1
_CRC_START = 0xF597A6CF


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataCopy:
    """The committed text of one metadata area."""

    seqno: int
    vg_name: str
    root: Section
    crc: int

    @property
    def vg(self) -> Section:
        return self.root.sections[self.vg_name]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalVolume:
    """What a physical volume says of itself.

    Args:
        uuid: with dashes, as ``pvs`` shows it.
        reader: its device.
        size: bytes, as its header says.
        data_areas: ``(offset, length)``; a length of 0 means to the end.
        copies: the texts that could be read, none where the volume has no area or is in no group.
        faults: why others could not be read.
    """

    uuid: str
    reader: Reader
    size: int
    data_areas: tuple[tuple[int, int], ...]
    metadata_areas: tuple[tuple[int, int], ...]
    copies: tuple[MetadataCopy, ...]
    faults: tuple[str, ...]


def lvm_crc(data: bytes) -> int:
    """LVM's checksum: a reflected CRC-32 with a start value of its own and no final inversion."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def dashed(uuid: str) -> str:
    """An LVM UUID of 32 characters with its dashes: 6-4-4-4-4-4-6."""
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(uuid[start:end] for start, end in pairwise(cuts))


def has_label(reader: Reader) -> bool:
    """Whether a device bears an LVM label, sound or not."""
    return _find_label(reader) is not None


def _find_label(reader: Reader) -> tuple[int, bytes] | None:
    """The first sound label of the four sectors, as LVM takes it; else the first one that is there."""
    first: tuple[int, bytes] | None = None
    for sector in range(min(4, reader.size // SECTOR_BYTES)):
        raw = reader.pread(sector * SECTOR_BYTES, SECTOR_BYTES)
        if raw.startswith(b"LABELONE") and raw[24:32] == b"LVM2 001":
            _, number, crc, _, _ = _LABEL.unpack_from(raw)
            if number == sector and lvm_crc(raw[20:]) == crc:
                return sector, raw
            first = first or (sector, raw)
    return first


def read_physical_volume(reader: Reader) -> PhysicalVolume | None:
    """Read a physical volume's header and all its metadata areas; None where there is no label.

    Raises:
        LayoutDamagedError: the label or the header does not hold. Damaged metadata areas are told in ``faults``,
            since another area or another volume of the group may have the text.
    """
    found = _find_label(reader)
    if found is None:
        return None
    sector, raw = found
    _, number, crc, header, _ = _LABEL.unpack_from(raw)
    if lvm_crc(raw[20:]) != crc:
        raise LayoutDamagedError("the checksum of the LVM label does not match")
    if number != sector or not 32 <= header <= SECTOR_BYTES - 40:
        raise LayoutDamagedError("the LVM label lies about its place")
    uuid = raw[header : header + 32].decode("latin-1")
    if not uuid.isascii() or not uuid.isalnum():
        raise LayoutDamagedError("the UUID of the physical volume is not one")
    (size,) = struct.unpack_from("<Q", raw, header + 32)
    data_areas, at = _areas(raw, header + 40)
    metadata_areas, _ = _areas(raw, at)
    copies: list[MetadataCopy] = []
    faults: list[str] = []
    for offset, length in metadata_areas:
        try:
            copy = _read_area(reader, offset, length)
        except LayoutError as fault:
            faults.append(fault.message)
        else:
            copies.extend([copy] if copy is not None else [])
    return PhysicalVolume(
        uuid=dashed(uuid),
        reader=reader,
        size=size,
        data_areas=data_areas,
        metadata_areas=metadata_areas,
        copies=tuple(copies),
        faults=tuple(faults),
    )


def _areas(raw: bytes, at: int) -> tuple[tuple[tuple[int, int], ...], int]:
    found: list[tuple[int, int]] = []
    while at + _AREA.size <= len(raw):
        offset, length = _AREA.unpack_from(raw, at)
        at += _AREA.size
        if not offset:
            return tuple(found), at
        found.append((offset, length))
    raise LayoutDamagedError("the list of areas of the physical volume does not end")


def _read_area(reader: Reader, offset: int, length: int) -> MetadataCopy | None:
    where = f"LVM metadata area at {offset}"
    raw = read_bounded(reader, offset, SECTOR_BYTES, where)
    crc, magic, version, start, size = _MDA.unpack_from(raw)
    if lvm_crc(raw[4:]) != crc:
        raise LayoutDamagedError(f"{where}: its checksum does not match")
    if magic != _MDA_MAGIC or start != offset or size != length:
        raise LayoutDamagedError(f"{where}: its header does not fit its place")
    if version != 1:
        raise LayoutUnknownError(f"{where}: version {version}")
    text_at, text_bytes, text_crc, flags = _SLOT.unpack_from(raw, _MDA.size)
    if not text_at or flags & _IGNORED:
        return None
    if not SECTOR_BYTES <= text_at < size or not 0 < text_bytes <= size - SECTOR_BYTES:
        raise LayoutDamagedError(f"{where}: its text lies outside")
    straight = min(text_bytes, size - text_at)
    text = read_bounded(reader, offset + text_at, straight, where)
    if text_bytes > straight:
        text += read_bounded(reader, offset + SECTOR_BYTES, text_bytes - straight, where)
    if lvm_crc(text) != text_crc:
        raise LayoutDamagedError(f"{where}: the checksum of its text does not match")
    return parse_metadata(text)


def parse_metadata(text: bytes) -> MetadataCopy:
    """A volume group's text, as it stands in a metadata area (and in ``vgcfgbackup``'s files).

    Raises:
        LayoutDamagedError: it does not hold exactly one volume group.
        LayoutUnknownError: it is of another version.
    """
    try:
        root = lvm_text.parse(text.rstrip(b"\0").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LayoutDamagedError("LVM metadata: not UTF-8") from error
    if root.text("contents", "") != "Text Format Volume Group" or root.number("version", 0) != 1:
        raise LayoutUnknownError("LVM metadata: not the text format, version 1")
    if len(root.sections) != 1:
        raise LayoutDamagedError("LVM metadata: not one volume group")
    (name,) = root.sections
    return MetadataCopy(seqno=root.sections[name].number("seqno"), vg_name=name, root=root, crc=lvm_crc(text))
