"""What an EFI program tells of itself: whether it is signed, what a shim starts, whether it looks on an old volume.

Format: PE/COFF, "Optional Header Data Directories" of Microsoft's specification; the certificate table is the fifth.
Whose signature it is, and whether a firmware accepts it, is not looked at.
"""

from __future__ import annotations

import struct

_OPTIONAL_HEADER = 24  # behind the signature: that, and the file header
_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # offset in the optional header, by its magic
_CERTIFICATES = 4
LOADERS = ("grubx64.efi", "grub.efi")
"""What a shim starts, by distribution: SUSE's starts ``grub.efi``, all others ``grubx64.efi``."""


def is_signed(image: bytes) -> bool:
    """Whether a program carries certificates."""
    try:
        (start,) = struct.unpack_from("<I", image, 0x3C)
        if image[:2] != b"MZ" or image[start : start + 4] != b"PE\0\0":
            return False
        (magic,) = struct.unpack_from("<H", image, start + _OPTIONAL_HEADER)
        directories = start + _OPTIONAL_HEADER + _DIRECTORIES.get(magic, len(image))
        count: int = struct.unpack_from("<I", image, directories - 4)[0]
        offset: int
        length: int
        offset, length = struct.unpack_from("<II", image, directories + 8 * _CERTIFICATES)
    except struct.error:
        return False
    return count > _CERTIFICATES and 0 < offset < offset + length <= len(image)


def started_by(image: bytes) -> str:
    """The loader that a shim starts; empty where the program is no shim."""
    return next((name for name in LOADERS if f"\\{name}".encode("utf-16-le") in image), "")


def names_volume(image: bytes) -> bool:
    """Whether a GRUB has its prefix on a logical volume: signed ones look beside themselves."""
    return b"(lvmid/" in image or b"(lvm/" in image
