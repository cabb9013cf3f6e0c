"""Filesystems and other content, recognised by their signatures; maps of what they use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from blocksync.errors import LayoutError, LayoutUnknownError
from blocksync.volumes.filesystems import btrfs, ext, ext_map, fat, markers, ntfs, swap, xfs
from blocksync.volumes.filesystems.base import AllocationMap, Filesystem
from blocksync.volumes.reader import Reader

__all__ = ["AllocationMap", "Filesystem", "detect", "open_map"]

# A boot sector of FAT or NTFS comes last: it is what a later use most often leaves behind.
_PROBES: dict[str, Callable[[Reader], Filesystem | None]] = {
    "luks": markers.luks,
    "xfs": xfs.probe,
    "ext": ext.probe,
    "btrfs": btrfs.probe,
    "swap": swap.probe,
    "md": markers.md,
    "squashfs": markers.squashfs,
    "ntfs": ntfs.probe,
    "exfat": markers.exfat,
    "fat": fat.probe,
    "iso9660": markers.iso9660,
}


def detect(reader: Reader) -> Filesystem | None:
    """What lies in a reader: the first that is recognised, with the kinds of all others in ``others``.

    A superblock that is there and does not hold gives its kind with nothing more, and ``clean`` false.

    Raises:
        SourceError: the disk cannot be read.
    """
    found: list[Filesystem] = []
    for kind, probe in _PROBES.items():
        try:
            said = probe(reader)
        except LayoutError:
            said = Filesystem(kind=kind, clean=False)
        if said is not None:
            found.append(said)
    if not found:
        return None
    return dataclasses.replace(found[0], others=tuple(other.kind for other in found[1:]))


_MAPS: dict[str, Callable[[Reader], AllocationMap]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ext_map.ExtMap),
    "xfs": xfs.XfsMap,
    "btrfs": btrfs.BtrfsMap,
    "ntfs": ntfs.NtfsMap,
    **dict.fromkeys(("fat12", "fat16", "fat32"), fat.FatMap),
    "swap": swap.SwapMap,
}


def open_map(reader: Reader, filesystem: Filesystem) -> AllocationMap:
    """The allocation map of what :func:`detect` found.

    Raises:
        FilesystemDirtyError: it was not cleanly unmounted.
        LayoutUnknownError: it is of a kind that no map is made of, or several signatures leave open what it is.
        LayoutDamagedError: it does not hold.
    """
    if filesystem.others:
        raise LayoutUnknownError(
            f"signatures of {', '.join((filesystem.kind, *filesystem.others))} leave open what it is",
            remedy="remove the leftover with wipefs, or send every block",
        )
    make = _MAPS.get(filesystem.kind)
    if make is None:
        raise LayoutUnknownError(f"no allocation map is made of {filesystem.kind}")
    return make(reader)
