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
from blocksync.volumes.reader import FileReader, Reader, Window

_MOUNTABLE = frozenset(("ext2", "ext3", "ext4", "xfs"))  # those that files are left out of, but for ntfs
_MOST_NAMES = 5000
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
        for place, start, length, filesystem in _filesystems(disk, physical, places):
            if filesystem is None or filesystem.kind not in _MOUNTABLE:
                kind = filesystem.kind if filesystem is not None else "what is there"
                found[place] = f"{kind} is not mounted for this"
            elif start < 0:
                found[place] = "it does not lie in one piece"
            else:
                found[place] = Place(path=path, offset=offset + start, size=length, kind=filesystem.kind)
        return found
    finally:
        os.close(descriptor)


def _filesystems(
    disk: Disk, physical: list[Part], places: dict[str, Any]
) -> Iterator[tuple[str, int, int, Filesystem | None]]:
    """``(place, offset, size, filesystem)`` of those that are named; -1 for the offset of one that lies in pieces."""
    if "" in places:
        yield "", 0, disk.size, disk.filesystem
    for partition in disk.partitions:
        if str(partition.number) in places:
            yield str(partition.number), partition.offset, partition.size, partition.filesystem
    if not any("/" in place for place in places):
        return
    starts = {part.number: part.offset for part in disk.partitions}
    members = {part.device.uuid: starts.get(part.number, 0) for part in physical}
    for group in lvm_groups.read_groups(part.device for part in physical):
        for volume in group.volumes.values():
            name = f"{group.name}/{volume.name}"
            if name in places:
                try:
                    reader: Reader = open_volume(group, volume.name)
                except LayoutError:
                    continue
                yield name, _piece(group, volume, members), reader.size, detect(reader)


def _piece(group: lvm_groups.Group, volume: lvm_groups.LogicalVolume, members: dict[str, int]) -> int:
    """Where a volume begins on the disk; -1 where it does not lie there in one piece."""
    begin = -1
    for segment in volume.segments:
        legs = segment.section.pairs("stripes") if segment.type in ("striped", "linear") else []
        if len(legs) != 1 or legs[0][0] not in group.members:
            return -1
        member = group.members[legs[0][0]]
        at = members[member.uuid] + member.pe_start + (legs[0][1] - segment.start_extent) * group.extent_bytes
        if begin not in (-1, at):
            return -1
        begin = at
    return begin


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
