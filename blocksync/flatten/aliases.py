"""All the names that a logical volume has in a system's configuration, and what stands in their place.

A name is only ever matched whole: ``/dev/mapper/vg-root`` is no part of ``/dev/mapper/vg-root2`` or ``…vg-root-old``.
How the device-mapper writes names (hyphens doubled) is libdevmapper's ``dm_build_dm_name``; how systemd writes
paths in names of units is systemd.unit(5); GRUB's ``lvmid/`` and ``lvm/`` names are its ``disk/lvm.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blocksync.errors import FlattenError

_AFTER = r"(?![A-Za-z0-9+_.-])"
_BEFORE = r"(?<![A-Za-z0-9+_.\-/])"
_PLAIN = re.compile(r"[A-Za-z0-9:_]")
MOST_VOLUMES = 128  # as many as a GPT has entries


def mapper_name(group: str, volume: str) -> str:
    """The device-mapper's name of a logical volume."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


def unit_name(path: str) -> str:
    """A path as systemd writes it in the name of a unit, without the ending."""
    trimmed = path.strip("/")
    parts: list[str] = []
    for index, character in enumerate(trimmed):
        if character == "/":
            parts.append("-")
        elif _PLAIN.match(character) or (character == "." and index):
            parts.append(character)
        else:
            parts.extend(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
    return "".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A volume (or a partition that is kept) and the partition it becomes.

    Args:
        names: paths that mean it; for a logical volume see :func:`volume_alias`.
        group, volume: of LVM; empty for a partition that was one before.
        group_uuid, volume_uuid: as LVM shows them, with dashes.
        filesystem: its kind as blkid names it; ``swap`` too; empty where none is known.
        uuid: the filesystem's; it travels with the content.
        partuuid: the new partition's.
        number: the new partition's.
        target: index of the new partition's disk.
    """

    names: tuple[str, ...]
    number: int
    partuuid: str
    uuid: str = ""
    filesystem: str = ""
    group: str = ""
    volume: str = ""
    group_uuid: str = ""
    volume_uuid: str = ""
    target: int = 0

    @property
    def tag(self) -> str:
        """What fstab and ``root=`` take."""
        return f"UUID={self.uuid}" if self.uuid else f"PARTUUID={self.partuuid}"

    @property
    def path(self) -> str:
        """A path for places that take no tag."""
        if self.uuid:
            return f"/dev/disk/by-uuid/{self.uuid}"
        return f"/dev/disk/by-partuuid/{self.partuuid}"

    @property
    def grub_names(self) -> tuple[str, ...]:
        """What GRUB calls the volume."""
        if not self.volume:
            return ()
        name = f"lvm/{mapper_name(self.group, self.volume)}"
        return (f"lvmid/{self.group_uuid}/{self.volume_uuid}", name) if self.volume_uuid else (name,)


def volume_alias(
    *,
    group: str,
    volume: str,
    group_uuid: str,
    volume_uuid: str,
    number: int,
    partuuid: str,
    uuid: str = "",
    filesystem: str = "",
    minor: int | None = None,
) -> Alias:
    """The alias of a logical volume, with all the paths that mean it.

    Args:
        minor: its number as ``/dev/dm-N``, where the running system told.
    """
    name = mapper_name(group, volume)
    names = [f"/dev/{group}/{volume}", f"/dev/mapper/{name}", f"/dev/disk/by-id/dm-name-{name}"]
    if group_uuid and volume_uuid:
        bare = (group_uuid + volume_uuid).replace("-", "")
        names.append(f"/dev/disk/by-id/dm-uuid-LVM-{bare}")
    if minor is not None:
        names.append(f"/dev/dm-{minor}")
    return Alias(
        names=tuple(names),
        group=group,
        volume=volume,
        group_uuid=group_uuid,
        volume_uuid=volume_uuid,
        number=number,
        partuuid=partuuid,
        uuid=uuid,
        filesystem=filesystem,
    )


def partition_names(known: Sequence[Sequence[str]], disk: int, number: int) -> tuple[str, ...]:
    """What a system calls a partition of a disk.

    Args:
        known: what it calls each disk; guessed where nothing is known of any.
        disk: index of it.
        number: of the partition; 0 for the whole disk.
    """
    if known:
        disks = tuple(known[disk]) if disk < len(known) else ()
    elif disk < 26:
        letter = chr(ord("a") + disk)
        disks = (*(f"/dev/{kind}{letter}" for kind in ("sd", "vd", "xvd", "hd")), f"/dev/nvme{disk}n1")
    else:
        disks = ()
    if not number:
        return disks
    return tuple(
        f"{name}-part{number}"
        if name.startswith("/dev/disk/")
        else f"{name}{'p' if name[-1:].isdigit() else ''}{number}"
        for name in disks
    )


class AliasMap:
    """Finds names in text and says what replaces them.

    Args:
        aliases: no name may mean two of them.
        tables: ``gpt`` or ``mbr``, of each new disk: GRUB's names for its partitions depend on it.
    """

    def __init__(self, aliases: Iterable[Alias], *tables: str) -> None:
        self.aliases = tuple(aliases)
        out = any(alias.target >= len(tables) for alias in self.aliases) or set(tables) - {"gpt", "mbr"}
        if out or len(self.aliases) > MOST_VOLUMES * len(tables):
            raise FlattenError("an alias map is out of bounds")
        self.tables = tables
        self._paths = self._index(lambda alias: alias.names)
        self._grub = self._index(lambda alias: alias.grub_names)
        self._units = {unit_name(path): alias for path, alias in self._paths.items()}
        self._path_pattern = _pattern(self._paths)
        self._grub_pattern = _pattern(self._grub)
        # In the name of a unit a hyphen may follow: it is a separator there, and names are escaped.
        self._unit_pattern = _pattern(self._units, after=r"(?=\.(?:device|swap|mount)\b)", before=r"(?<![\w\\-])")

    def _index(self, names: Callable[[Alias], tuple[str, ...]]) -> dict[str, Alias]:
        found: dict[str, Alias] = {}
        for alias in self.aliases:
            for name in names(alias):
                if found.setdefault(name, alias) is not alias:
                    raise FlattenError(f"the name {name} means two volumes", remedy="rename one of them")
        return found

    def find(self, path: str) -> Alias | None:
        """The alias of exactly this path."""
        return self._paths.get(path)

    def grub_device(self, alias: Alias) -> str:
        """GRUB's name of the new partition, where the first target is the disk it booted from."""
        return f"hd{alias.target},{'gpt' if self.tables[alias.target] == 'gpt' else 'msdos'}{alias.number}"

    def replace_paths(self, text: str, *, tags: bool = False) -> str:
        """Each path that is an alias becomes a path by UUID, or with ``tags`` ``UUID=…``."""
        return self._path_pattern.sub(lambda hit: _shown(self._paths[hit[0]], tags), text)

    def replace_grub(self, text: str) -> str:
        """GRUB's names of volumes become its names of partitions."""
        return self._grub_pattern.sub(lambda hit: self.grub_device(self._grub[hit[0]]), text)

    def replace_units(self, text: str) -> str:
        """Names of systemd's units that stand for devices."""
        return self._unit_pattern.sub(lambda hit: unit_name(self._units[hit[0]].path), text)

    def leftovers(self, text: str) -> list[str]:
        """All names of old that a text still holds, in order, each once."""
        hits: dict[str, None] = {}
        for pattern in (self._path_pattern, self._grub_pattern, self._unit_pattern):
            hits.update(dict.fromkeys(hit[0] for hit in pattern.finditer(text)))
        return list(hits)


def _shown(alias: Alias, tags: bool) -> str:
    return alias.tag if tags else alias.path


def _pattern(names: Mapping[str, Alias], *, after: str = _AFTER, before: str = _BEFORE) -> re.Pattern[str]:
    if not names:
        return re.compile(r"(?!)")
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(f"{before}(?:{'|'.join(map(re.escape, longest_first))}){after}")
