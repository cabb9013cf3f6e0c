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
    LayoutError,
    ProtocolError,
    TargetError,
    from_os_error,
)
from blocksync.flatten.mounts import Place, mounted, privately
from blocksync.targets.base import Target
from blocksync.volumes import lvm_groups
from blocksync.volumes.filesystems import Filesystem, detect
from blocksync.volumes.layout import Disk, Part, read_disk
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.patterns import out_of_volume
from blocksync.volumes.reader import FileReader, Reader, Window, resolve

_MOUNTABLE = frozenset(("ext2", "ext3", "ext4", "xfs", "ntfs"))  # those that files are left out of
_MOST_NAMES = 5000  # of one request; a sender makes several
_MOST_PIECES = 64  # of a volume: loop devices
_SECTOR_BYTES = 512
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
        for place, there, filesystem in _filesystems(reader, disk, physical, places):
            if filesystem is None or filesystem.kind not in _MOUNTABLE:
                kind = filesystem.kind if filesystem is not None else "what is there"
                found[place] = f"{kind} is not mounted for this"
            elif isinstance(there, str):
                found[place] = there
            else:
                found[place] = _place(path, there, filesystem)
        return found
    finally:
        os.close(descriptor)


def _place(path: str, there: Reader, filesystem: Filesystem) -> Place | str:
    pieces = _pieces(there)
    if not pieces or any(offset % _SECTOR_BYTES or length % _SECTOR_BYTES for offset, length in pieces):
        return "it lies in too many or too small pieces"
    return Place(
        path=path,
        offset=pieces[0][0],
        size=there.size,
        kind=filesystem.kind,
        pieces=tuple(pieces) if len(pieces) > 1 else (),
    )


def _pieces(reader: Reader) -> list[tuple[int, int]]:
    """``(offset, length)`` on the disk of what a volume is made of, in its order; none where they are too many."""
    found: list[tuple[int, int]] = []
    for base, at, length in resolve(reader, 0, reader.size):
        if base is None or len(found) > _MOST_PIECES:
            return []
        if found and sum(found[-1]) == at:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((at, length))
    return found


def _filesystems(
    whole: Reader, disk: Disk, physical: list[Part], places: dict[str, Any]
) -> Iterator[tuple[str, Reader | str, Filesystem | None]]:
    """``(place, reader, filesystem)`` of those that are named; a text in place of a reader says why there is none."""
    if "" in places:
        yield "", whole, disk.filesystem
    for partition in disk.partitions:
        if str(partition.number) in places:
            there = Window(whole, partition.offset, partition.size)
            yield str(partition.number), there, partition.filesystem
    if not any("/" in place for place in places):
        return
    for group in lvm_groups.read_groups(part.device for part in physical):
        for volume in group.volumes.values():
            name = f"{group.name}/{volume.name}"
            if name in places:
                try:
                    reader = open_volume(group, volume.name)
                except LayoutError:
                    continue
                yield name, (_unwritable(group, volume) or reader), detect(reader)


def _unwritable(group: lvm_groups.Group, volume: lvm_groups.LogicalVolume) -> str:
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
