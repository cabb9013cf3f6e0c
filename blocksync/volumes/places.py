"""Finding a partition or a logical volume by what a person calls it, and reading it.

A place is ``2`` (a partition by its number) or ``vg0/root`` (a logical volume; the group by name or UUID). Unlike
:func:`~blocksync.volumes.layout.read_layout`, which tells faults, this raises them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blocksync.errors import UsageError, VolumeMissingError
from blocksync.volumes.layout import read_disk
from blocksync.volumes.lvm_groups import Group, find_group, read_groups
from blocksync.volumes.lvm_mapping import open_volume, stamp
from blocksync.volumes.partitions import partition_reader, read_partitions
from blocksync.volumes.reader import Reader

_NUMBER = re.compile("[0-9]{1,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An open place.

    Args:
        reader: of its bytes.
        identity: stays the same wherever its disks are: a logical volume is named as the kernel names it, a partition
            by its number and the identity of its table.
        stamp: of the metadata that say where its bytes lie; when it changes, ``reader`` is out of date.
    """

    reader: Reader
    identity: str
    stamp: str


def open_place(disks: Sequence[tuple[str, Reader]], place: str) -> Place:
    """Open a place on some disks.

    Args:
        disks: ``(name, reader)``; all that its volume group lies on.
        place: as above.

    Raises:
        UsageError: it is neither kind of place, or a partition of several disks.
        VolumeMissingError: there is none of that name.
        LayoutError: it cannot be read; see :func:`~blocksync.volumes.lvm_mapping.open_volume`.
    """
    group_name, slash, name = place.partition("/")
    if slash and group_name and name and "/" not in name:
        return _open_logical(disks, group_name, name)
    if _NUMBER.fullmatch(place):
        if len(disks) != 1:
            raise UsageError(
                f"partition {place} of which disk?", remedy="name one disk with a partition: disk.img#2"
            )
        return _open_partition(*disks[0], int(place))
    raise UsageError(
        f"{place[:80]!r} names neither a partition nor a logical volume",
        remedy="write disk.img#2 for a partition, disk.img#vg0/root for a logical volume",
    )


def _open_partition(name: str, reader: Reader, number: int) -> Place:
    table = read_partitions(reader)
    found = None if table is None else next((part for part in table.partitions if part.number == number), None)
    if table is None or found is None:
        raise VolumeMissingError(f"{name} has no partition {number}")
    if found.container:
        raise VolumeMissingError(
            f"partition {number} of {name} is extended: it holds others, and no data of its own"
        )
    return Place(
        reader=partition_reader(reader, found),
        identity=f"partition:{table.kind}:{table.identity}:{number}",
        stamp=f"{found.offset}:{found.size}",
    )


def _open_logical(disks: Sequence[tuple[str, Reader]], group_name: str, name: str) -> Place:
    parts = [read_disk(disk, reader)[1] for disk, reader in disks]
    groups = read_groups(part.device for found in parts for part in found)
    group: Group = find_group(groups, group_name)
    reader = open_volume(group, name)
    # As device-mapper's UUID of the same volume, so that a disk image and /dev/vg0/root are one and the same source.
    uuids = (group.uuid + group.volume(name).uuid).replace("-", "")
    return Place(reader=reader, identity=f"device:LVM-{uuids}", stamp=stamp(group, name))
