"""Volume groups put together from all disks at hand: the newest text wins, whoever is not in it is stale.

Every metadata area of every physical volume is read. Areas with the same group UUID belong together; the highest
sequence number is the group. A volume whose own text is older is stale: it is still used where the newest text lists
it (it missed an update), and left out where it does not (it was removed from the group while it was away).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError, VolumeIncompleteError, VolumeMissingError
from blocksync.volumes.lvm_disk import MetadataCopy, PhysicalVolume, read_physical_volume
from blocksync.volumes.lvm_text import Section
from blocksync.volumes.reader import Reader, Window

SECTOR_BYTES = 512
_MOST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of extents of a logical volume; ``section`` holds what its type needs."""

    start_extent: int
    extent_count: int
    type: str
    section: Section


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """A logical volume as the text describes it.

    Args:
        size: bytes, as it says; a classic snapshot shows its origin's size instead, see ``Group.size_of``.
        visible: False for the parts of other volumes (images, logs, pools' data).
        status: the flags of the text.
    """

    name: str
    uuid: str
    size: int
    visible: bool
    status: frozenset[str]
    segments: tuple[Segment, ...]

    @property
    def type(self) -> str:
        """The type of its first segment; ``linear`` where that is striped over one area."""
        first = self.segments[0]
        if first.type == "striped" and first.section.number("stripe_count", 1) == 1:
            return "linear"
        return first.type


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A physical volume as the group's text lists it; ``device`` is None where it is missing."""

    name: str
    uuid: str
    pe_start: int
    pe_count: int
    device: PhysicalVolume | None
    missing_flag: bool

    @property
    def usable(self) -> bool:
        return self.device is not None and not self.missing_flag


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A classic snapshot: what the hidden volume that joins its parts says."""

    origin: str
    store: str
    chunk_bytes: int
    merging: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A volume group; sizes in bytes."""

    name: str
    uuid: str
    seqno: int
    extent_bytes: int
    status: frozenset[str]
    members: dict[str, Member]
    volumes: dict[str, LogicalVolume]
    snapshots: dict[str, Snapshot]
    notes: tuple[str, ...]

    def volume(self, name: str) -> LogicalVolume:
        """A logical volume by name.

        Raises:
            VolumeMissingError: there is none of that name.
        """
        found = self.volumes.get(name)
        if found is None:
            raise VolumeMissingError(f"the volume group {self.name} has no logical volume {name[:128]}")
        return found

    def size_of(self, name: str) -> int:
        """What a reader of the volume sees, in bytes."""
        snapshot = self.snapshots.get(name)
        return self.volume(snapshot.origin if snapshot else name).size

    def area(self, name: str) -> Reader:
        """The physical extents of a member as one reader, which begins at extent 0.

        Raises:
            VolumeIncompleteError: the physical volume is not at hand.
        """
        member = self.members.get(name)
        if member is None:
            raise LayoutDamagedError(
                f"LVM metadata: the volume group {self.name} has no physical volume {name[:80]}"
            )
        if member.device is None or member.missing_flag:
            raise VolumeIncompleteError(f"the volume group {self.name} lacks its physical volume {member.uuid}")
        return Window(member.device.reader, member.pe_start, member.pe_count * self.extent_bytes)


def read_physical_volumes(readers: Iterable[Reader]) -> list[PhysicalVolume]:
    """The physical volumes among some devices (whole disks, partitions, logical volumes)."""
    found = (read_physical_volume(reader) for reader in readers)
    return [volume for volume in found if volume is not None]


def read_groups(devices: Iterable[PhysicalVolume]) -> list[Group]:
    """Put volume groups together, in the order of their names.

    Raises:
        LayoutDamagedError: two devices bear one UUID, or copies of one sequence number differ.
    """
    known: dict[str, PhysicalVolume] = {}
    copies: dict[str, list[MetadataCopy]] = {}
    for device in devices:
        if known.setdefault(device.uuid, device) is not device:
            raise LayoutDamagedError(
                f"two devices are the physical volume {device.uuid}",
                remedy="name each disk once, and no clone beside its original",
            )
        for copy in device.copies:
            copies.setdefault(copy.vg.text("id"), []).append(copy)
    newest = [max(found, key=lambda copy: copy.seqno) for found in copies.values()]
    groups = [_group(found, _members_of(found[0], known, newest)) for found in copies.values()]
    return sorted(groups, key=lambda group: (group.name, group.uuid))


def _members_of(
    copy: MetadataCopy, known: dict[str, PhysicalVolume], newest: list[MetadataCopy]
) -> dict[str, PhysicalVolume]:
    """The devices that a group may use.

    A disk that was away when it left the group is still listed by those that stayed, or the other way round. Its own
    text says whose it is; one without a text of its own is nobody's as soon as two groups list it.
    """
    mine = copy.vg.text("id")
    found: dict[str, PhysicalVolume] = {}
    for uuid, device in known.items():
        if device.copies:
            belongs = any(own.vg.text("id") == mine for own in device.copies)
        else:
            belongs = sum(uuid in _listed(other) for other in newest) < 2
        if belongs:
            found[uuid] = device
    return found


def _listed(copy: MetadataCopy) -> set[str]:
    return {section.text("id") for section in copy.vg.section("physical_volumes").sections.values()}


def find_group(groups: Iterable[Group], name: str) -> Group:
    """A group by name or UUID.

    Raises:
        VolumeMissingError: there is none, or there are several of that name.
    """
    found = [group for group in groups if name in (group.name, group.uuid)]
    if not found:
        raise VolumeMissingError(f"there is no volume group {name[:128]}")
    if len(found) > 1:
        raise VolumeMissingError(f"several volume groups are named {name}", remedy="name it by its UUID")
    return found[0]


def _group(copies: list[MetadataCopy], known: dict[str, PhysicalVolume]) -> Group:
    newest = max(copies, key=lambda copy: copy.seqno)
    current = [copy for copy in copies if copy.seqno == newest.seqno]
    if any(copy.crc != newest.crc for copy in current):
        raise LayoutDamagedError(
            f"the volume group {newest.vg_name} has two different texts with sequence number {newest.seqno}",
            remedy="its disks were changed apart from each other: name only those that belong together",
        )
    vg = newest.vg
    extent_bytes = vg.number("extent_size") * SECTOR_BYTES
    if not 0 < extent_bytes <= 1 << 50:
        raise LayoutDamagedError(f"LVM metadata: extents of {extent_bytes} bytes")
    members = {name: _member(section, known) for name, section in vg.section("physical_volumes").sections.items()}
    sections = vg.section("logical_volumes").sections
    volumes = {name: _volume(section, extent_bytes) for name, section in sections.items()}
    group = Group(
        name=newest.vg_name,
        uuid=vg.text("id"),
        seqno=newest.seqno,
        extent_bytes=extent_bytes,
        status=frozenset(vg.texts("status")),
        members=members,
        volumes=volumes,
        snapshots=_snapshots(volumes),
        notes=tuple(_notes(newest, members, known)),
    )
    for snapshot in group.snapshots.values():
        group.volume(snapshot.origin)
        group.volume(snapshot.store)
    return group


def _notes(newest: MetadataCopy, members: dict[str, Member], known: dict[str, PhysicalVolume]) -> list[str]:
    notes = [f"physical volume {member.uuid} is missing" for member in members.values() if not member.usable]
    listed = {member.uuid for member in members.values()}
    for device in known.values():
        mine = [copy for copy in device.copies if copy.vg.text("id") == newest.vg.text("id")]
        if mine and device.uuid not in listed:
            notes.append(f"physical volume {device.uuid} is stale: it was removed from the group")
        elif mine and max(copy.seqno for copy in mine) < newest.seqno:
            notes.append(f"physical volume {device.uuid} has an older text; the newest was used")
        if device.uuid in listed:
            notes += [f"physical volume {device.uuid}: {fault}" for fault in device.faults]
    return notes


def _member(section: Section, known: dict[str, PhysicalVolume]) -> Member:
    uuid = section.text("id")
    return Member(
        name=section.name,
        uuid=uuid,
        pe_start=section.number("pe_start") * SECTOR_BYTES,
        pe_count=section.number("pe_count"),
        device=known.get(uuid),
        missing_flag="MISSING" in section.texts("flags"),
    )


def _volume(section: Section, extent_bytes: int) -> LogicalVolume:
    count = section.number("segment_count")
    segments: list[Segment] = []
    at = 0
    if count != len(section.sections) or not count:
        raise LayoutDamagedError(f"LVM metadata: {section.name} has not the {count} segments it says")
    parts = sorted(section.sections.values(), key=lambda part: part.number("start_extent"))
    for part in parts:
        segment = Segment(
            start_extent=part.number("start_extent"),
            extent_count=part.number("extent_count"),
            # What follows a plus sign are flags that old versions must not overlook.
            type=part.text("type"),
            section=part,
        )
        if segment.start_extent != at or not segment.extent_count:
            raise LayoutDamagedError(f"LVM metadata: the segments of {section.name} do not join")
        at += segment.extent_count
        segments.append(segment)
    if at * extent_bytes > _MOST_BYTES:
        raise LayoutDamagedError(f"LVM metadata: {section.name} is out of proportion")
    status = frozenset(section.texts("status"))
    return LogicalVolume(
        name=section.name,
        uuid=section.text("id"),
        size=at * extent_bytes,
        visible="VISIBLE" in status,
        status=status,
        segments=tuple(segments),
    )


def _snapshots(volumes: dict[str, LogicalVolume]) -> dict[str, Snapshot]:
    found: dict[str, Snapshot] = {}
    for volume in volumes.values():
        for segment in volume.segments:
            if segment.type != "snapshot":
                continue
            section = segment.section
            merging = "merging_store" in section.values
            store = section.text("merging_store" if merging else "cow_store")
            found[store] = Snapshot(
                origin=section.text("origin"),
                store=store,
                chunk_bytes=section.number("chunk_size") * SECTOR_BYTES,
                merging=merging,
            )
    return found
