"""What the user asks of a plan, and each reason why some disks are not flattened, with its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from blocksync.errors import (
    FlattenCacheError,
    FlattenEncryptedError,
    FlattenExportedError,
    FlattenMissingError,
    FlattenMotionError,
    FlattenNothingError,
    FlattenRefusedError,
    FlattenSectorError,
    FlattenUnsyncedError,
    FlattenVdoError,
    VolumeUnsettledError,
)
from blocksync.volumes.layout import Group, Layout, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user asks of a plan.

    Args:
        table: ``gpt``, ``mbr``, or empty: as the first disk has it, as long as that can describe the result.
        grow: bytes of the partition of a volume, by ``VG/LV`` or ``LV``, each once; at least the volume's size.
        encrypted: volumes with LUKS that may move as they are, by ``VG/LV``.
        names: what the system calls each disk (``("/dev/sda",)``), in their order; guessed where there are none.
        targets: how many there are.
        place: the target of a volume, from 1, by ``VG/LV`` or ``LV``; others go where most of them lies.
        numbers: of volumes as ``/dev/dm-N``, by ``VG/LV``, where the system that runs is the one that is flattened.
    """

    table: str = ""
    grow: tuple[tuple[str, int], ...] = ()
    encrypted: frozenset[str] = frozenset()
    names: tuple[tuple[str, ...], ...] = ()
    targets: int = 1
    place: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)


def refusals(layout: Layout, wishes: Wishes, target_sector_bytes: int = 512) -> list[FlattenRefusedError]:
    """Each reason why these disks are not flattened."""
    if not layout.groups:
        return [_nothing(layout)]
    found: list[FlattenRefusedError] = []
    names = [group.name for group in layout.groups]
    for name in sorted({name for name in names if names.count(name) > 1}):
        # /dev/VG/LV then means two volumes, in fstab as well as here.
        uuids = ", ".join(group.uuid for group in layout.groups if group.name == name)
        found.append(
            FlattenRefusedError(
                f"several volume groups are named {name}: {uuids}",
                remedy="name only the disks of one system, or rename a group on the source: vgrename UUID NEWNAME",
            )
        )
    for group in layout.groups:
        found += _group_refusals(group, wishes)
    for disk in layout.disks:
        if disk.sector_bytes != target_sector_bytes:
            found.append(
                FlattenSectorError(
                    f"{disk.name} counts in sectors of {disk.sector_bytes} bytes, the target in {target_sector_bytes}"
                )
            )
    return found


_BELOW = {"luks": "encrypted with LUKS", "md": "a member of a software RAID"}
_BELOW_REMEDIES = {
    "luks": "what is inside LUKS is not looked at: send the disks as they are, they open and boot as they did",
    "md": "name the assembled array instead of its members, beside the disk that boots: /dev/md0",
}


def closed(layout: Layout) -> Iterator[tuple[str, str, str]]:
    """``(disk, part of it, kind)`` of what may hold a volume group that cannot be seen from outside."""
    for disk in layout.disks:
        if not disk.table and disk.filesystem is not None and disk.filesystem.kind in _BELOW:
            yield disk.name, "the disk", disk.filesystem.kind
        for part in disk.partitions:
            if not part.physical and part.filesystem is not None and part.filesystem.kind in _BELOW:
                yield disk.name, f"partition {part.number}", part.filesystem.kind


def called_closed(where: str, what: str, kind: str) -> str:
    """One of :func:`closed`, in words."""
    return f"{what} of {where} is {_BELOW[kind]}"


def _nothing(layout: Layout) -> FlattenNothingError:
    shut = list(closed(layout))
    notes = [*layout.notes, *(note for disk in layout.disks for note in disk.notes)]
    why = "; ".join([*(called_closed(*each) for each in shut), *notes])
    message = "the disks hold no volume group" + (f" ({why})" if why else "")
    # The layout's own notes tell of groups that are there and cannot be put together.
    unread = "name each disk of the groups once, and no clone beside its original" if layout.notes else None
    return FlattenNothingError(message, remedy=_BELOW_REMEDIES[shut[0][2]] if shut else unread)


def _group_refusals(group: Group, wishes: Wishes) -> Iterator[FlattenRefusedError]:
    if group.exported:
        yield FlattenExportedError(f"the volume group {group.name} is exported")
        return
    if not group.complete:
        lost = [physical.uuid for physical in group.physicals if physical.disk is None]
        yield FlattenMissingError(f"the volume group {group.name} lacks its physical volume {', '.join(lost)}")
        return
    for volume in group.volumes:
        refused = _volume_refusal(volume, wishes)
        if refused is not None:
            yield refused


def _volume_refusal(volume: Volume, wishes: Wishes) -> FlattenRefusedError | None:
    what = f"the logical volume {volume.path}"
    kind = volume.type.partition("+")[0]  # flags follow: cache+CACHE_USES_CACHEVOL
    refused: FlattenRefusedError | None = None
    if kind in ("cache", "writecache"):
        refused = FlattenCacheError(f"{what} has a cache that may hold data which is not on the volume yet")
    elif kind in ("vdo", "vdo-pool"):
        refused = FlattenVdoError(f"{what} lies on VDO")
    elif volume.name.startswith("pvmove"):
        refused = FlattenMotionError(f"pvmove is running in the volume group {volume.group}")
    elif not is_flattened(volume):
        return None
    elif volume.code == VolumeUnsettledError.code:
        mirrored = kind.startswith("raid") or kind == "mirror"
        moving = any(word in volume.refusal for word in ("motion", "merged", "reshape"))
        unsettled = FlattenUnsyncedError if mirrored and not moving else FlattenMotionError
        refused = unsettled(f"{what}: {volume.refusal}")
    elif volume.refusal:
        refused = FlattenRefusedError(f"{what} cannot be read: {volume.refusal}")
    if refused is not None:
        return refused
    if volume.filesystem is not None and volume.filesystem.kind == "luks" and volume.path not in wishes.encrypted:
        return FlattenEncryptedError(
            f"{what} is encrypted",
            remedy=f"if the encrypted content may move as it is, say so by name: --encrypted {volume.path}",
        )
    return None


def is_flattened(volume: Volume) -> bool:
    """Whether a volume becomes a partition; snapshots, pools and parts of other volumes do not."""
    return volume.visible and not volume.origin and volume.type not in ("snapshot", "thin-pool", "cache-pool")
