"""What is on some disks, as one tree: disk, partition table, partitions, volume groups and volumes, filesystems.

:func:`read_layout` is a pure function of the disks' bytes: nothing of the running system is asked, so a disk image on
another machine reads the same. Disks that share a volume group are given together. What is damaged or unknown does not
hide the rest: it is told in ``notes`` and ``refusal`` of the part concerned.

The types are plain data (frozen, comparable, ``dataclasses.asdict`` gives JSON). To read what they describe, see
:mod:`blocksync.volumes.places`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from blocksync.errors import LayoutError
from blocksync.volumes import lvm_groups, tables
from blocksync.volumes.filesystems import Filesystem, detect
from blocksync.volumes.lvm_disk import PhysicalVolume, has_label, read_physical_volume
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.partitions import partition_reader, read_partitions
from blocksync.volumes.reader import Reader
from blocksync.volumes.weights import weigh

__all__ = ["Disk", "Filesystem", "Group", "Layout", "Partition", "Physical", "Volume", "read_layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition; offsets and sizes in bytes.

    Args:
        number: as the system counts it; logical partitions of a master boot record start at 5.
        type_id: ``"0x83"`` in a master boot record, a lower-case GUID in a GPT.
        uuid: PARTUUID as Linux shows it.
        name: GPT only.
        bootable: the active flag of a master boot record, "legacy BIOS bootable" of a GPT.
        attributes: the 64 attribute bits of a GPT entry.
        container: an extended partition: it holds logical ones and no data of its own.
        filesystem: what lies in it, where that is recognised.
        physical: UUID of the LVM physical volume that it is; empty where it is none.
    """

    number: int
    offset: int
    size: int
    type_id: str
    uuid: str
    name: str = ""
    bootable: bool = False
    attributes: int = 0
    container: bool = False
    filesystem: Filesystem | None = None
    physical: str = ""

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk; sizes and ranges in bytes.

    Args:
        name: as the caller called it.
        sector_bytes: the unit that its table counts in; 512 where it has none.
        table: ``"mbr"``, ``"gpt"``, or empty where the disk is not partitioned.
        announced: False for a GPT that no master boot record points at, so that the kernel does not use it.
        identity: of the table: the disk's GUID, or the eight hex digits of a master boot record.
        partitions: in the order of their numbers.
        reserved: ranges ``(offset, length)`` that hold the table itself, wherever its copies lie.
        filesystem: what fills the disk as a whole. Beside a table it is a leftover, or the table is.
        physical: UUID of the LVM physical volume that the whole disk is.
        notes: what was odd, yet could be read around.
    """

    name: str
    size: int
    sector_bytes: int = 512
    table: str = ""
    announced: bool = True
    identity: str = ""
    partitions: tuple[Partition, ...] = ()
    reserved: tuple[tuple[int, int], ...] = ()
    filesystem: Filesystem | None = None
    physical: str = ""
    notes: tuple[str, ...] = ()

    def partition(self, number: int) -> Partition | None:
        return next((found for found in self.partitions if found.number == number), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Physical:
    """A physical volume of a group.

    Args:
        name: the group's own name for it (``pv0``).
        uuid: with dashes.
        disk: index into ``Layout.disks``; None where it is missing.
        partition: its number; 0 where it is the whole disk.
        size: bytes of extents.
    """

    name: str
    uuid: str
    disk: int | None
    partition: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A logical volume.

    Args:
        name, group: as in ``/dev/group/name``.
        uuid: of the volume, with dashes.
        size: bytes, as a reader of it sees them (a classic snapshot: those of its origin).
        type: of its first segment: ``linear``, ``striped``, ``mirror``, ``raid1``, ``thin``, ``thin-pool``, …
        visible: False for parts of other volumes (images, logs, a pool's data).
        origin: of a snapshot; else empty.
        physical: UUIDs of the physical volumes that its own segments lie on.
        weights: bytes on each physical volume, by its UUID; of what lies below the volume too (images, a pool).
        filesystem: what lies in it, where it can be read and that is recognised.
        refusal: why it cannot be read, in words; empty where it can.
        code: of that error, as ``BS1005``.
    """

    name: str
    group: str
    uuid: str
    size: int
    type: str
    visible: bool = True
    origin: str = ""
    physical: tuple[str, ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    filesystem: Filesystem | None = None
    refusal: str = ""
    code: str = ""

    @property
    def path(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A volume group.

    Args:
        extent_bytes: its unit.
        seqno: of the metadata that was used, the newest found.
        exported: it is, so that none of its volumes can be read.
        complete: no physical volume is missing.
        volumes: in the order of the metadata, hidden ones included.
    """

    name: str
    uuid: str
    extent_bytes: int
    seqno: int
    exported: bool
    complete: bool
    physicals: tuple[Physical, ...] = ()
    volumes: tuple[Volume, ...] = ()
    notes: tuple[str, ...] = ()

    def volume(self, name: str) -> Volume | None:
        return next((found for found in self.volumes if found.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of it.

    Args:
        disks: in the order they were given.
        groups: by name.
        notes: what concerns no single disk or group.
    """

    disks: tuple[Disk, ...]
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()

    def group(self, name: str) -> Group | None:
        return next((found for found in self.groups if name in (found.name, found.uuid)), None)


def read_layout(disks: Sequence[tuple[str, Reader]]) -> Layout:
    """Read the layout of some disks.

    Args:
        disks: ``(name, reader)`` of each.

    Raises:
        SourceError: a disk cannot be read. Nothing that is only damaged or unknown raises.
    """
    found = [read_disk(name, reader) for name, reader in disks]
    groups, notes = read_all_groups([parts for _, parts in found])
    return Layout(
        disks=tuple(disk for disk, _ in found),
        groups=tuple(_group(group, places) for group, places in groups),
        notes=tuple(notes),
    )


Places = dict[str, tuple[int, int]]
"""From a physical volume's UUID to its disk and partition number."""


@dataclass(frozen=True, slots=True)
class Part:
    """A physical volume found on a disk, in partition ``number`` (0: the whole disk)."""

    number: int
    device: PhysicalVolume


def read_disk(name: str, reader: Reader) -> tuple[Disk, list[Part]]:
    """One disk, and the physical volumes on it."""
    notes: list[str] = []
    whole, whole_part, whole_note = _content(reader, "the disk")
    try:
        table = read_partitions(reader)
    except LayoutError as error:
        table = None
        notes.append(f"its partition table cannot be read: {error.message}")
    if table is not None and not table.announced and (whole is not None or whole_part is not None):
        # An old table that nothing points at, below a filesystem that was made over it.
        notes.append("a GPT that no master boot record announces was taken for a leftover")
        table = None
    if table is None:
        parts = [Part(0, whole_part)] if whole_part is not None else []
        disk = Disk(
            name=name,
            size=reader.size,
            filesystem=whole,
            physical=whole_part.uuid if whole_part is not None else "",
            notes=(*notes, *whole_note),
        )
        return disk, parts
    partitions: list[Partition] = []
    parts = []
    for entry in table.partitions:
        filesystem, device, more = _partition_content(reader, entry)
        notes += more
        if device is not None:
            parts.append(Part(entry.number, device))
        partitions.append(_partition(entry, filesystem, device))
    disk = Disk(
        name=name,
        size=reader.size,
        sector_bytes=table.sector_bytes,
        table=table.kind,
        announced=table.announced,
        identity=table.identity,
        partitions=tuple(partitions),
        reserved=table.reserved,
        filesystem=whole,
        notes=(*notes, *table.notes),
    )
    return disk, parts


def _partition_content(
    reader: Reader, entry: tables.Partition
) -> tuple[Filesystem | None, PhysicalVolume | None, list[str]]:
    if entry.container:
        return None, None, []
    return _content(partition_reader(reader, entry), f"partition {entry.number}")


def _partition(entry: tables.Partition, filesystem: Filesystem | None, device: PhysicalVolume | None) -> Partition:
    return Partition(
        number=entry.number,
        offset=entry.offset,
        size=entry.size,
        type_id=entry.type_id,
        uuid=entry.uuid,
        name=entry.name,
        bootable=entry.bootable,
        attributes=entry.attributes,
        container=entry.container,
        filesystem=filesystem,
        physical=device.uuid if device is not None else "",
    )


def _content(reader: Reader, what: str) -> tuple[Filesystem | None, PhysicalVolume | None, list[str]]:
    notes: list[str] = []
    device: PhysicalVolume | None = None
    if has_label(reader):
        try:
            device = read_physical_volume(reader)
        except LayoutError as error:
            notes.append(f"{what} bears an LVM label that cannot be used: {error.message}")
    filesystem = detect(reader)
    if filesystem is not None and device is not None:
        notes.append(f"{what} is a physical volume and bears the signature of {filesystem.kind} too")
    elif filesystem is not None and filesystem.others:
        notes.append(f"{what} bears the signatures of {', '.join((filesystem.kind, *filesystem.others))}")
    return filesystem, device, notes


def read_all_groups(parts: Iterable[Iterable[Part]]) -> tuple[list[tuple[lvm_groups.Group, Places]], list[str]]:
    """The volume groups on some disks, each with where its physical volumes lie; and what was wrong."""
    places: Places = {}
    devices: list[PhysicalVolume] = []
    for index, found in enumerate(parts):
        for part in found:
            places.setdefault(part.device.uuid, (index, part.number))
            devices.append(part.device)
    try:
        return [(group, places) for group in lvm_groups.read_groups(devices)], []
    except LayoutError as error:
        return [], [f"the volume groups cannot be read: {error.message}"]


def _group(group: lvm_groups.Group, places: Places) -> Group:
    weights = weigh(group)
    return Group(
        name=group.name,
        uuid=group.uuid,
        extent_bytes=group.extent_bytes,
        seqno=group.seqno,
        exported="EXPORTED" in group.status,
        complete=all(member.usable for member in group.members.values()),
        physicals=tuple(
            Physical(
                name=member.name,
                uuid=member.uuid,
                disk=places[member.uuid][0] if member.usable else None,
                partition=places[member.uuid][1] if member.usable else 0,
                size=member.pe_count * group.extent_bytes,
            )
            for member in group.members.values()
        ),
        volumes=tuple(
            _volume(group, volume, tuple(weights[volume.name].items())) for volume in group.volumes.values()
        ),
        notes=group.notes,
    )


def _volume(
    group: lvm_groups.Group, volume: lvm_groups.LogicalVolume, weights: tuple[tuple[str, int], ...]
) -> Volume:
    snapshot = group.snapshots.get(volume.name)
    filesystem: Filesystem | None = None
    refusal = code = ""
    if volume.visible:
        try:
            filesystem = detect(open_volume(group, volume.name))
        except LayoutError as error:
            refusal, code = error.message, error.code
    return Volume(
        name=volume.name,
        group=group.name,
        uuid=volume.uuid,
        size=group.size_of(volume.name),
        type="snapshot" if snapshot else volume.type,
        visible=volume.visible,
        origin=snapshot.origin if snapshot else _thin_origin(volume),
        physical=tuple(dict.fromkeys(_physicals(group, volume))),
        weights=weights,
        filesystem=filesystem,
        refusal=refusal,
        code=code,
    )


def _thin_origin(volume: lvm_groups.LogicalVolume) -> str:
    section = volume.segments[0].section
    return section.text("origin", "") if volume.type == "thin" else ""


def _physicals(group: lvm_groups.Group, volume: lvm_groups.LogicalVolume) -> Iterator[str]:
    for segment in volume.segments:
        for key in ("stripes", "mirrors"):
            for name, _ in segment.section.pairs(key):
                if name in group.members:
                    yield group.members[name].uuid
