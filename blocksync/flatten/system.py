"""The system on a target, put together from its partitions as its own fstab says.

The root is the partition with an fstab whose ``/`` is that very partition (or the only one with an fstab at all).
Beside it, only what the repair needs is mounted: ``/boot``, the EFI system partition, ``/usr``, ``/var`` and ``/etc``
where they are filesystems of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from blocksync.errors import FlattenError, GuestMountError, TargetError, from_os_error
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.debugfs import ExtTree
from blocksync.flatten.fat import FatTree
from blocksync.flatten.kinds import BIOS_BOOT_TYPE, ESP_TYPE
from blocksync.flatten.mounts import Place, mounted
from blocksync.flatten.tree import Guest, Tree, split
from blocksync.volumes.layout import Disk, read_layout
from blocksync.volumes.reader import FileReader

_NEEDED = ("/usr", "/etc", "/var", "/boot", "/boot/efi", "/efi", "/boot/grub2", "/boot/grub")
_MOUNTABLE = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_SUBVOLUMES = ("", "subvol=root", "subvol=@", "subvol=@rootfs")
_MOST_FSTAB_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition of a target, as it is.

    Args:
        target: index of that, and ``path`` where it lies.
    """

    number: int
    offset: int
    size: int
    type_id: str
    partuuid: str
    kind: str = ""
    uuid: str = ""
    label: str = ""
    name: str = ""
    target: int = 0
    path: str = ""

    @property
    def called(self) -> str:
        """What a person calls it."""
        return f"partition {self.number}" + (f" of target {self.target + 1}" if self.target else "")

    def place(self, path: str = "") -> Place:
        path = path or self.path
        return Place(path=path, offset=self.offset, size=self.size, kind=self.kind, uuid=self.uuid)


Touch = Callable[[Part], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDisk:
    """A target's table and partitions.

    Args:
        path: of the target.
        table: ``gpt``, ``mbr`` or empty.
        holds_lvm: a partition, or the disk, is a physical volume still.
        identity: of the table.
        beside: the further targets of the same system, in their order; the firmware boots this one.
    """

    path: str
    table: str
    size: int
    sector_bytes: int
    parts: tuple[Part, ...]
    holds_lvm: bool
    identity: str = ""
    beside: tuple[TargetDisk, ...] = ()

    @property
    def disks(self) -> tuple[TargetDisk, ...]:
        """This one and those beside it."""
        return (self, *self.beside)

    @property
    def all_parts(self) -> tuple[Part, ...]:
        return tuple(part for disk in self.disks for part in disk.parts)


def look_at(path: str, *beside: str) -> TargetDisk:
    """Read the layout of a target, and of those beside it.

    Raises:
        TargetError: one cannot be read.
    """
    first, *others = (_look_at(each, index) for index, each in enumerate((path, *beside)))
    return dataclasses.replace(first, beside=tuple(others))


def _look_at(path: str, index: int) -> TargetDisk:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, TargetError, f"cannot open the target {path}") from error
    try:
        disk = read_layout([(path, FileReader(descriptor))]).disks[0]
    finally:
        os.close(descriptor)
    return TargetDisk(
        path=path,
        table=disk.table,
        size=disk.size,
        sector_bytes=disk.sector_bytes,
        parts=tuple(_parts(disk, path, index)),
        holds_lvm=bool(disk.physical) or any(part.physical for part in disk.partitions),
        identity=disk.identity,
    )


def _parts(disk: Disk, path: str, index: int) -> Iterator[Part]:
    for part in disk.partitions:
        found = part.filesystem
        kind = found.kind if found else ""
        yield Part(
            number=part.number,
            offset=part.offset,
            size=part.size,
            type_id=part.type_id,
            partuuid=part.uuid,
            kind="vfat" if kind.startswith("fat") else kind,
            uuid=found.uuid if found else "",
            label=found.label if found else "",
            name=part.name,
            target=index,
            path=path,
        )


def firmware_of(path: str, *beside: str) -> str:
    """``uefi`` where targets have an EFI system partition and no place for a BIOS' loader, else ``bios``."""
    types = [part.type_id for part in look_at(path, *beside).all_parts]
    return "uefi" if (ESP_TYPE in types or "0xef" in types) and BIOS_BOOT_TYPE not in types else "bios"


@dataclass(slots=True)
class System:
    """A system that is open for reading or repair.

    Args:
        disk: its target, the first of several.
        guest: its files.
        homes: by mount point: the partition, and the path inside its filesystem that is shown there.
        folders: by mount point: where it is mounted, for a chroot; only where it is.
        notes: what could not be reached, and why.
    """

    disk: TargetDisk
    guest: Guest
    homes: dict[str, tuple[Part, str]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def root(self) -> Part:
        return self.homes["/"][0]

    def home_of(self, path: str) -> tuple[Part, str]:
        """The partition that a path of the system lies on, and its path in that filesystem, as GRUB counts."""
        parts = self.guest.resolve(path)
        best = max(
            (point for point in self.homes if parts[: len(split(point))] == split(point)),
            key=lambda p: len(split(p)),
        )
        part, inside = self.homes[best]
        rest = "/".join(parts[len(split(best)) :])
        return part, f"{inside.rstrip('/')}/{rest}"


@contextlib.contextmanager
def assembled(
    disk: TargetDisk, aliases: AliasMap | None, *, write: bool, touch: Touch | None = None
) -> Iterator[System]:
    """Put the system together; to be called in a thread with mounts of its own (or without root rights).

    Args:
        aliases: names that fstab may still use.
        write: mount for writing.
        touch: told of each partition that is about to be mounted for writing.

    Raises:
        GuestMountError: no root filesystem is found, or it cannot be mounted.
    """
    root, option = _find_root(disk, aliases)
    with contextlib.ExitStack() as exits:
        if write and touch is not None:
            touch(root)
        tree, folder, inside = _open(exits, root, write=write, options=option)
        system = System(disk=disk, guest=Guest(tree), homes={"/": (root, inside)})
        if folder:
            system.folders["/"] = folder
        for where, part, options in _wanted(system, aliases):
            if write and touch is not None:
                touch(part)
            try:
                tree, folder, inside = _open(exits, part, write=write, options=options)
            except FlattenError as error:
                system.notes.append(f"{where} ({part.called}) cannot be reached: {error.message}")
                continue
            system.guest.attach(where, tree)
            system.homes[where] = (part, inside)
            if folder:
                system.folders[where] = folder
        yield system


def _find_root(disk: TargetDisk, aliases: AliasMap | None) -> tuple[Part, str]:
    candidates: list[tuple[Part, str, bool]] = []
    refusals: list[str] = []
    for part in disk.all_parts:
        if part.kind not in _MOUNTABLE:
            continue
        for option in _SUBVOLUMES if part.kind == "btrfs" else ("",):
            try:
                with contextlib.ExitStack() as exits:
                    tree, _, _ = _open(exits, part, write=False, options=option)
                    text = Guest(tree).read("/etc/fstab", _MOST_FSTAB_BYTES)
            except FlattenError as error:
                if not option:
                    refusals.append(f"{part.called}: {error.message}")
                continue
            if text is not None:
                mine = any(
                    where == "/" and matches(device, part, aliases) for device, where, _ in fstab_entries(text)
                )
                candidates.append((part, option, mine))
                break
    candidates.sort(key=lambda found: not found[2])
    if not candidates:
        why = f" ({'; '.join(refusals)})" if refusals else ""
        paths = ", ".join(each.path for each in disk.disks)
        raise GuestMountError(
            f"no partition of {paths} holds a system: none has an /etc/fstab{why}",
            remedy="a disk of data alone needs no repair: --no-repair",
        )
    return candidates[0][:2]


def _wanted(system: System, aliases: AliasMap | None) -> list[tuple[str, Part, str]]:
    text = system.guest.read("/etc/fstab", _MOST_FSTAB_BYTES) or b""
    found: list[tuple[str, Part, str]] = []
    for device, where, options in fstab_entries(text):
        if where.rstrip("/") not in _NEEDED:
            continue
        part = next((part for part in system.disk.all_parts if matches(device, part, aliases)), None)
        if part is None or (part.kind not in _MOUNTABLE and part.kind != "vfat"):
            system.notes.append(f"{where} is on {device}, which is no filesystem of this target")
            continue
        subvolume = [word for word in options.split(",") if word.startswith(("subvol=", "subvolid="))]
        found.append((where.rstrip("/"), part, ",".join(subvolume) if part.kind == "btrfs" else ""))
    return sorted(found, key=lambda each: len(split(each[0])))


def fstab_entries(text: bytes) -> Iterator[tuple[str, str, str]]:
    """``(device, mount point, options)`` of each line that has them."""
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#") and ".." not in words[1].split("/"):
            yield words[0], words[1], words[3] if len(words) > 3 else ""


def matches(device: str, part: Part, aliases: AliasMap | None) -> bool:
    """Whether fstab's name of a device means this partition."""
    alias = aliases.find(device) if aliases is not None else None
    if alias is not None:
        return (alias.target, alias.number) == (part.target, part.number)
    for prefix in (
        "/dev/disk/by-uuid/",
        "/dev/disk/by-partuuid/",
        "/dev/disk/by-label/",
        "/dev/disk/by-partlabel/",
    ):
        if device.startswith(prefix):
            device = f"{prefix.rpartition('by-')[2].rstrip('/').upper()}={device[len(prefix) :]}"
    tag, equals, value = device.partition("=")
    value = value.strip('"')
    mine = {"UUID": part.uuid, "LABEL": part.label, "PARTUUID": part.partuuid, "PARTLABEL": part.name}.get(
        tag.upper()
    )
    return bool(equals and value and mine) and (value.lower() == str(mine).lower())


def _open(exits: contextlib.ExitStack, part: Part, *, write: bool, options: str) -> tuple[Tree, str, str]:
    """A filesystem as a tree, the folder where it is mounted (if so), and the path in it that is the tree's top."""
    if os.geteuid() != 0:
        return _open_unprivileged(exits, part, write=write)
    try:
        tree, folder = exits.enter_context(mounted(part.place(), read_only=not write, options=options))
    except GuestMountError:
        if part.kind != "vfat":
            raise
        return exits.enter_context(contextlib.closing(FatTree(part.path, part.offset))), "", "/"
    return tree, folder, _top(folder)


def _open_unprivileged(exits: contextlib.ExitStack, part: Part, *, write: bool) -> tuple[Tree, str, str]:
    if part.kind == "vfat":
        return exits.enter_context(contextlib.closing(FatTree(part.path, part.offset))), "", "/"
    if part.kind not in ("ext2", "ext3", "ext4"):
        raise GuestMountError(f"{part.kind} can only be reached by root", remedy="run as root")
    return exits.enter_context(contextlib.closing(ExtTree(part.path, part.offset, write=write))), "", "/"


def _top(folder: str) -> str:
    """Which path of a filesystem is shown at a mount point (a subvolume's, for btrfs)."""
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split()
            if words[4] == folder:
                return words[3].encode().decode("unicode_escape")
    return "/"
