"""The names of excluded files, removed from a target.

A pass leaves out their content: on the target they are files of zeros until their names are removed. That happens
after the last pass, through mounts that nobody else sees (:mod:`~blocksync.flatten.mounts`), without following
symlinks. Names come from the peer, and reach nothing but files of the slot's own target.

It changes blocks that the manifest claims. As with a repair the target's write mark tells that, and the slot reads the
target again before the next pass trusts a claim; so a target without a mark is left as it is.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from blocksync.errors import (
    BlocksyncError,
    GuestFileError,
    GuestMountError,
    LayoutDamagedError,
    LayoutError,
    ProtocolError,
    TargetError,
    from_os_error,
)
from blocksync.flatten.attaching import Piece
from blocksync.flatten.mounts import Place, mounted, privately
from blocksync.targets.base import Target
from blocksync.volumes import lvm_groups
from blocksync.volumes.filesystems import Filesystem, detect
from blocksync.volumes.layout import Disk, read_disk
from blocksync.volumes.lvm_groups import SECTOR_BYTES, Group, LogicalVolume
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.patterns import out_of_volume
from blocksync.volumes.reader import FileReader, Reader, Window, resolve

_MOUNTABLE = frozenset(("ext2", "ext3", "ext4", "xfs", "ntfs"))  # those that files are left out of
_MOST_NAMES = 5000  # of one request; a sender makes several
_MOST_RANGES = 64  # of a volume: loop devices
_MOST_CHARACTERS = 4096  # of a path, as the kernel's PATH_MAX
_MOST_DEPTH = 128  # two descriptors each
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Removed:
    """What became of the names.

    Args:
        removed: names that are gone, those below folders too.
        remaining: why others stay, in words.
    """

    removed: int = 0
    remaining: list[str] = field(default_factory=list)


def remove_names(
    target: Target,
    wanted: dict[str, Any],
    *,
    path: str = "",
    offset: int = 0,
    touch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Remove names from the filesystems of a target.

    Args:
        target: open and ours; nothing writes to it meanwhile.
        wanted: ``names``, as a result has them.
        path: where the target lies; its name where that is it.
        offset: of the target there, in bytes.
        touch: called before anything is written.

    Returns:
        ``removed`` and ``remaining`` of :class:`Removed`, for JSON.

    Raises:
        ProtocolError: the names are none.
    """
    places = _places(wanted)
    done = Removed()
    if not target.write_mark():
        done.remaining.append(f"{target.name} is no file or device of this machine, which could be mounted")
    else:
        try:
            privately(lambda: _remove_all(target, path or target.name, offset, places, touch, done))
        except BlocksyncError as error:
            done.remaining.append(error.message)
    return {"removed": done.removed, "remaining": done.remaining}


def _places(wanted: dict[str, Any]) -> dict[str, list[tuple[str, ...]]]:
    """Paths as parts, by the volume they are in."""
    names = wanted.get("names")
    if not isinstance(names, list) or len(names) > _MOST_NAMES:
        raise ProtocolError("the names to remove are no list, or too many")
    places: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        if not isinstance(name, str) or len(name) > _MOST_CHARACTERS or "\0" in name:
            raise ProtocolError("a name to remove is none")
        place, whole = out_of_volume(name)
        parts = tuple(part for part in whole.split("/") if part)
        if not parts or not whole.startswith("/") or "." in parts or ".." in parts:
            raise ProtocolError("a name to remove is no plain path")
        places.setdefault(place, []).append(parts)
    return places


def _remove_all(
    target: Target,
    path: str,
    offset: int,
    places: dict[str, list[tuple[str, ...]]],
    touch: Callable[[], None],
    done: Removed,
) -> None:
    target.sync()
    found = _found(path, offset, target.size, places)
    touch()
    for place, paths in places.items():
        where = f"in {place}" if place else "on the disk"
        there = found.get(place)
        if isinstance(there, Place):
            try:
                with mounted(there, read_only=False) as (tree, folder):
                    del tree
                    _remove_below(folder, paths, done)
            except (GuestMountError, GuestFileError) as error:
                done.remaining.append(f"{where}: {error.message}")
        else:
            done.remaining.append(f"{where}: {there or 'there is no such volume on the target'}")
    target.sync()


def _found(path: str, offset: int, size: int, places: dict[str, Any]) -> dict[str, Place | str]:
    """Where the filesystems lie that are named; or why they cannot be mounted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, TargetError, f"cannot open the target {path}") from error
    try:
        reader = Window(FileReader(descriptor), offset, size)
        disk, physical = read_disk(path, reader)
        found: dict[str, Place | str] = {}
        for place, pieces, filesystem in _filesystems(offset, disk, places):
            found[place] = _place(path, pieces, filesystem)
        if any("/" in place for place in places):
            for group in lvm_groups.read_groups(part.device for part in physical):
                for volume in group.volumes.values():
                    name = f"{group.name}/{volume.name}"
                    if name in places:
                        found[name] = _volume(path, group, volume)
        return found
    finally:
        os.close(descriptor)


def _filesystems(
    base: int, disk: Disk, places: dict[str, Any]
) -> Iterator[tuple[str, list[Piece], Filesystem | None]]:
    """``(place, pieces, filesystem)`` of the disk and its partitions, those that are named."""
    if "" in places:
        yield "", [Piece(length=disk.size, offsets=(base,))], disk.filesystem
    for partition in disk.partitions:
        if str(partition.number) in places:
            pieces = [Piece(length=partition.size, offsets=(base + partition.offset,))]
            yield str(partition.number), pieces, partition.filesystem


def _volume(path: str, group: Group, volume: LogicalVolume) -> Place | str:
    try:
        there = open_volume(group, volume.name)
        return _unwritable(group, volume) or _place(path, _pieces(group, volume), detect(there))
    except LayoutError as error:
        return error.message


def _place(path: str, pieces: list[Piece], filesystem: Filesystem | None) -> Place | str:
    if filesystem is None or filesystem.kind not in _MOUNTABLE:
        return f"{filesystem.kind if filesystem is not None else 'what is there'} is not mounted for this"
    if not pieces or not all(piece.sectors() for piece in pieces):
        return "it lies in too many or too small pieces"
    alone = len(pieces) == len(pieces[0].offsets) == 1
    return Place(
        path=path,
        offset=pieces[0].offsets[0],
        size=sum(piece.length for piece in pieces),
        kind=filesystem.kind,
        pieces=() if alone else tuple(pieces),
    )


def _pieces(group: Group, volume: LogicalVolume) -> list[Piece]:
    """What a linear or striped volume is made of, in its order; none where that is too much.

    Raises:
        LayoutError: it does not lie where its group says.
    """
    found: list[Piece] = []
    for segment in volume.segments:
        legs = segment.section.pairs("stripes")
        length = segment.extent_count * group.extent_bytes
        if not legs or length % len(legs):
            return []
        offsets = [_at(group.area(name), first * group.extent_bytes, length // len(legs)) for name, first in legs]
        stripe = segment.section.number("stripe_size") * SECTOR_BYTES if len(legs) > 1 else 0
        last = found[-1] if found else None
        if last and len(last.offsets) == len(legs) == 1 and last.offsets[0] + last.length == offsets[0]:
            found[-1] = Piece(length=last.length + length, offsets=last.offsets)
        else:
            found.append(Piece(length=length, offsets=tuple(offsets), stripe_bytes=stripe))
    return found if sum(len(piece.offsets) for piece in found) <= _MOST_RANGES else []


def _at(area: Reader, offset: int, length: int) -> int:
    """Where a range of a physical volume lies on its disk, which it does in one piece."""
    ((base, at, count),) = resolve(area, offset, length)
    if base is None or count != length:
        raise LayoutDamagedError("a segment does not lie on its physical volume")
    return at


def _unwritable(group: Group, volume: LogicalVolume) -> str:
    """Why a volume's blocks must not be written where they lie; empty where nothing else depends on them."""
    if any(shot.origin == volume.name for shot in group.snapshots.values()):
        return "a snapshot stands on it"
    for segment in volume.segments:
        legs = segment.section.pairs("stripes") if segment.type in ("striped", "linear") else ()
        if not legs or any(name not in group.members for name, _ in legs):
            return f"it is of type {segment.type[:40]}, which is not written to without LVM"
    return ""


def _remove_below(folder: str, paths: list[tuple[str, ...]], done: Removed) -> None:
    top = os.open(folder, _FOLDER)
    try:
        for parts in paths:
            try:
                _remove_path(top, parts, done)
            except FileNotFoundError:
                pass  # removed before: a removal that broke off is begun anew
            except OSError as error:
                done.remaining.append(f"/{'/'.join(parts)}: {os.strerror(error.errno or 0)}")
    finally:
        os.close(top)


def _remove_path(top: int, parts: tuple[str, ...], done: Removed) -> None:
    current = os.dup(top)
    try:
        for part in parts[:-1]:
            following = os.open(part, _FOLDER, dir_fd=current)
            os.close(current)
            current = following
        _remove(current, parts[-1], 0, done)
    finally:
        os.close(current)


def _remove(folder: int, name: str, depth: int, done: Removed) -> None:
    """Remove a name, with all below it where it is a folder; symlinks are removed, not followed."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        if depth > _MOST_DEPTH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        below = os.open(name, _FOLDER, dir_fd=folder)
        try:
            with os.scandir(below) as entries:
                for entry in entries:
                    _remove(below, entry.name, depth + 1, done)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)
    done.removed += 1
