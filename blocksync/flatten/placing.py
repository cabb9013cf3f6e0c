"""What of some disks goes to which of several targets. Pure, as the plan is.

What lay apart stays apart: the first disk's content goes to the first target, the second one's to the second, and
disks beyond the last target go there too. A volume goes where most of it lies, and of equal halves to the first of
those disks; one that lies on several disks is gathered. ``--place`` overrides that for a volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocksync.errors import UsageError
from blocksync.flatten.kinds import BIOS_BOOT_TYPE
from blocksync.flatten.refusals import Wishes, is_flattened
from blocksync.volumes.layout import Disk, Layout, Partition, Volume

MOST_TARGETS = 24  # GRUB's and a BIOS' names of disks go no further


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one target gets.

    Args:
        index: of the target, from 0.
        disks: indices of the source's disks that it stands for; the first gives it its table.
        kept: partitions that are none of LVM's, each with its disk's index.
        volumes: that become partitions.
    """

    index: int
    disks: tuple[int, ...]
    kept: tuple[tuple[int, Partition], ...]
    volumes: tuple[Volume, ...]


def shares(layout: Layout, wishes: Wishes) -> list[Share]:
    """Divide what is on some disks among ``wishes.targets``.

    Raises:
        UsageError: a wish names what is not there, or a target would get nothing.
    """
    if not 1 <= wishes.targets <= MOST_TARGETS:
        raise UsageError(f"flatten has 1 to {MOST_TARGETS} targets, not {wishes.targets}")
    volumes = flattened_volumes(layout)
    placed = _wanted_places(volumes, wishes)
    homes = [_home(layout, volume, wishes.targets) for volume in volumes]
    found = []
    for index in range(wishes.targets):
        share = Share(
            index=index,
            disks=tuple(disk for disk in range(len(layout.disks)) if target_of(disk, wishes.targets) == index),
            kept=tuple(each for each in kept_partitions(layout) if target_of(each[0], wishes.targets) == index),
            volumes=tuple(
                volume
                for volume, home in zip(volumes, homes, strict=True)
                if placed.get(volume.path, home) == index
            ),
        )
        if not share.volumes and all(part.type_id == BIOS_BOOT_TYPE for _, part in share.kept):
            raise UsageError(
                f"nothing goes to target {index + 1}",
                remedy=f"place a volume there: --place VG/LV={index + 1}; or name fewer targets",
            )
        found.append(share)
    return found


def flattened_volumes(layout: Layout) -> list[Volume]:
    """The volumes that become partitions."""
    return [volume for group in layout.groups for volume in group.volumes if is_flattened(volume)]


def named_volume(volumes: Sequence[Volume], name: str, option: str) -> Volume:
    """The volume that a wish means, by ``VG/LV`` or ``LV``.

    Raises:
        UsageError: none, or several.
    """
    found = [volume for volume in volumes if name in (volume.name, volume.path)]
    if len(found) != 1:
        there = ", ".join(volume.path for volume in volumes)
        raise UsageError(f"{option} {name} names {'several volumes' if found else 'no volume'}: {there}")
    return found[0]


def growth(volumes: Sequence[Volume], wishes: Wishes) -> dict[str, int]:
    """Bytes of the partitions that are to be larger than their volumes, by the volumes' paths.

    Raises:
        UsageError: a wish names what is not there, something smaller, or a volume for the second time.
    """
    grown: dict[str, int] = {}
    for name, size in wishes.grow:
        found = named_volume(volumes, name, "--grow")
        if found.path in grown:
            raise UsageError(f"--grow names {found.path} twice", remedy="give each volume's size once")
        if size < found.size:
            raise UsageError(f"--grow {name}: the volume has {found.size} bytes, and partitions do not shrink")
        grown[found.path] = size
    for name in wishes.encrypted:
        if not any(volume.path == name for volume in volumes):
            raise UsageError(f"--encrypted {name} names no volume", remedy="name it as VG/LV")
    return grown


def target_of(disk: int, targets: int) -> int:
    """The target that a disk's own partitions go to."""
    return min(disk, targets - 1)


def kept_partitions(layout: Layout) -> Iterator[tuple[int, Partition]]:
    """Partitions that hold something and are none of LVM's; a whole disk with a filesystem counts as partition 0."""
    for index, disk in enumerate(layout.disks):
        for part in disk.partitions:
            if not part.container and not part.physical:
                yield index, part
        if not disk.table and not disk.physical and disk.filesystem is not None:
            yield index, _whole(disk)


def _whole(disk: Disk) -> Partition:
    return Partition(number=0, offset=0, size=disk.size, type_id="0x83", uuid="", filesystem=disk.filesystem)


def _wanted_places(volumes: Sequence[Volume], wishes: Wishes) -> dict[str, int]:
    """What ``--place`` says, by the volumes' paths; indices of targets."""
    found: dict[str, int] = {}
    for name, number in wishes.place.items():
        volume = named_volume(volumes, name, "--place")
        if not 1 <= number <= wishes.targets:
            there = "there is 1 target" if wishes.targets == 1 else f"there are {wishes.targets} targets"
            raise UsageError(f"--place {name}={number}: {there}", remedy="name further targets with --onto")
        if found.setdefault(volume.path, number - 1) != number - 1:
            raise UsageError(f"--place names {volume.path} twice")
    return found


def _home(layout: Layout, volume: Volume, targets: int) -> int:
    """The target of the disk that most of a volume lies on."""
    disks = {
        physical.uuid: physical.disk
        for group in layout.groups
        if group.name == volume.group
        for physical in group.physicals
        if physical.disk is not None
    }
    sizes = [0] * targets
    for uuid, size in volume.weights:
        if uuid in disks:
            sizes[target_of(disks[uuid], targets)] += size
    return sizes.index(max(sizes))
