"""What is recognised, but not looked into: encrypted volumes, members of software RAIDs, read-only and foreign
filesystems. No allocation map is taken from any of these."""

from __future__ import annotations

import struct
import uuid

from blocksync.volumes.filesystems.base import Filesystem, text_of
from blocksync.volumes.reader import Reader

_LUKS = b"LUKS\xba\xbe"
_MD_MAGIC = struct.pack("<I", 0xA92B4EFC)
_MD_RESERVED = 64 << 10
_SQUASHFS = b"hsqs"
_ISO_AT = 32768


def luks(reader: Reader) -> Filesystem | None:
    """LUKS 1 and 2 headers begin alike; the UUID stands at 168, LUKS 2's label at 24."""
    raw = _read(reader, 0, 208)
    if not raw.startswith(_LUKS):
        return None
    version = int.from_bytes(raw[6:8], "big")
    return Filesystem(kind="luks", uuid=text_of(raw[168:208]), label=text_of(raw[24:72]) if version == 2 else "")


def md(reader: Reader) -> Filesystem | None:
    """Superblocks 1.1 and 1.2 at the start, 1.0 and 0.90 at the end (``include/uapi/linux/raid/md_p.h``)."""
    for at in (0, 4096, (reader.size - 8192) // 4096 * 4096):
        raw = _read(reader, at, 64)
        if raw[:4] == _MD_MAGIC and raw[4:8] == b"\1\0\0\0":
            return Filesystem(kind="md", uuid=str(uuid.UUID(bytes=raw[16:32])), label=text_of(raw[32:64]))
    raw = _read(reader, reader.size // _MD_RESERVED * _MD_RESERVED - _MD_RESERVED, 64)
    if raw[:4] == _MD_MAGIC and raw[4:8] == b"\0\0\0\0":
        return Filesystem(kind="md", uuid=str(uuid.UUID(bytes=raw[20:24] + raw[52:64])))
    return None


def exfat(reader: Reader) -> Filesystem | None:
    """exFAT specification, section 3.1."""
    raw = _read(reader, 0, 512)
    if raw[3:11] != b"EXFAT   " or raw[510:512] != b"\x55\xaa":
        return None
    sectors, (serial,) = struct.unpack_from("<Q", raw, 72)[0], struct.unpack_from("<I", raw, 100)
    shift = raw[108]
    return Filesystem(
        kind="exfat",
        uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
        size=sectors << shift if 9 <= shift <= 12 and sectors < 1 << 50 else None,
        block_bytes=1 << shift + raw[109] if 9 <= shift + raw[109] <= 25 else 0,
        clean=not raw[106] & 2,
    )


def squashfs(reader: Reader) -> Filesystem | None:
    raw = _read(reader, 0, 96)
    if not raw.startswith(_SQUASHFS) or raw[28:30] != b"\4\0":
        return None
    (used,) = struct.unpack_from("<Q", raw, 40)
    return Filesystem(kind="squashfs", size=used, used=used, clean=True)


def iso9660(reader: Reader) -> Filesystem | None:
    raw = _read(reader, _ISO_AT, 128)
    if raw[1:6] != b"CD001":
        return None
    blocks, block = struct.unpack_from("<I", raw, 80)[0], 2048
    return Filesystem(kind="iso9660", label=text_of(raw[40:72]), size=blocks * block, used=blocks * block)


def _read(reader: Reader, offset: int, length: int) -> bytes:
    """The bytes, or none where the reader does not reach so far."""
    if offset < 0 or offset + length > reader.size:
        return b""
    return reader.pread(offset, length)
