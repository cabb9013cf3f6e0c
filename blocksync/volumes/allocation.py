"""The allocation map of a whole disk, put together from its partitions, logical volumes and filesystems.

What no map speaks for is used: partition tables, gaps, free extents of a volume group, what is not recognised, not
clean, or not certain. So the map says too much where it must, never too little; each reason is told in ``notes``.

A logical volume has a map where its bytes lie in plain view (linear or striped over physical volumes of this disk,
all of which are at hand) and nothing else depends on them: the origin of a classic snapshot, say, also holds
blocks that only the snapshot uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from blocksync.errors import FilesystemDirtyError, LayoutError, LayoutUnknownError, SourceError
from blocksync.volumes import lvm_groups
from blocksync.volumes.exclusion import leave_out, reads_files
from blocksync.volumes.files import Excluded, Room
from blocksync.volumes.filesystems import AllocationMap, Filesystem, detect, open_map
from blocksync.volumes.filesystems.base import clipped
from blocksync.volumes.layout import Part, read_disk
from blocksync.volumes.lvm_groups import SECTOR_BYTES, Group, LogicalVolume, Segment
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.patterns import Rules
from blocksync.volumes.reader import Reader, Window
from blocksync.volumes.told import Told, ToldMap


@dataclass(frozen=True, slots=True)
class _Region:
    """A range of the disk that a map speaks for.

    ``used(first, stop)`` counts from the region's start, as does its answer.
    """

    start: int
    end: int
    used: Callable[[int, int], Iterator[tuple[int, int]]]


class DiskMap:
    """An :class:`AllocationMap` of a disk, partitioned or not.

    Args:
        reader: of the disk.
        rules: files to leave out, beside those that no copy needs; None leaves none out.
        told: what a driver tells of the filesystems at some offsets; then only these have a map.

    ``notes`` says of each part why no map of it is used; ``found`` counts the filesystems that have one; ``excluded``
    has what was left out of each, by the place as rules call it.
    """

    def __init__(self, reader: Reader, rules: Rules | None = None, told: Mapping[int, Told] | None = None) -> None:
        self.size = reader.size
        self._rules = rules
        self._told = told
        self.excluded: dict[str, Excluded] = {}
        self._room = Room()
        self.notes: list[str] = []
        self.found = 0
        self._marks: list[AllocationMap] = []
        self._regions: list[_Region] = []
        disk, parts = read_disk("the disk", reader)
        if not disk.table:
            self._whole(reader, disk.filesystem, bool(disk.physical))
        elif disk.filesystem is not None or not disk.announced:
            self.notes.append("the disk has a partition table and something else: what it holds is uncertain")
            return
        for partition in disk.partitions:
            if partition.container or partition.physical:
                continue
            place = str(partition.number)
            part = Window(reader, partition.offset, partition.size)
            found = self._map(f"partition {place}", place, part, partition.filesystem, partition.offset)
            if found is not None:
                self._add(partition.offset, partition.end, found, 0)
        if told is None:
            self._groups(parts, {part.number: part.offset for part in disk.partitions})
        self._regions.sort(key=lambda region: region.start)

    def mark(self) -> bytes:
        """Changes when one of the filesystems is mounted, or changed while it was."""
        return b"".join(found.mark() for found in self._marks)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        return clipped(self._used(first, min(stop, self.size)), first, stop)

    def _used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        at = first
        for region in self._regions:
            if region.end <= at:
                continue
            if region.start >= stop:
                break
            if region.start > at:
                yield at, region.start
                at = region.start
            end = min(region.end, stop)
            for low, high in region.used(at - region.start, end - region.start):
                yield region.start + low, region.start + high
            at = end
        if at < stop:
            yield at, stop

    # -- putting it together ----------------------------------------------------------------------------------

    def _map(
        self, name: str, place: str, reader: Reader, filesystem: Filesystem | None, offset: int = -1
    ) -> AllocationMap | None:
        if filesystem is None:
            self.notes.append(f"{name} holds nothing that is recognised: all of it is read")
            return None
        try:
            told = self._told_of(offset)
            base = open_map(reader, filesystem) if told is None else ToldMap(reader, filesystem.kind, told)
            found = self._without(name, place, reader, filesystem.kind, base, told)
        except (LayoutError, SourceError) as error:
            self.notes.append(f"{name}: {error.message}")
            return None
        self.found += 1
        self._marks.append(found)
        return found

    def _told_of(self, offset: int) -> Told | None:
        """What a driver tells of the filesystem at an offset; None where drivers are not asked.

        Raises:
            LayoutUnknownError: they are, and none speaks of it.
        """
        if self._told is None:
            return None
        if offset not in self._told:
            raise LayoutUnknownError("no point-in-time view of it: all of it is read")
        return self._told[offset]

    def _without(
        self, name: str, place: str, reader: Reader, kind: str, found: AllocationMap, told: Told | None
    ) -> AllocationMap:
        """The map without the files that are left out; where they cannot be found, that is told."""
        if self._rules is None:
            return found
        if self._rules.of(place).rules and not reads_files(kind):
            self.notes.append(f"{name}: files of {kind} cannot be left out")
        try:
            found, excluded = leave_out(reader, kind, found, self._rules, place, told, room=self._room)
        except FilesystemDirtyError:
            raise
        except LayoutError as error:
            self.notes.append(f"{name}: no file of it is left out: {error.message}")
            return found
        if excluded.files or excluded.matched:
            self.excluded[place] = excluded
        return found

    def _add(self, start: int, end: int, found: AllocationMap, shift: int) -> None:
        """``[start, end)`` of the disk is what the map calls ``[shift, …)``; what lies behind the map's end is used."""

        def used(first: int, stop: int) -> Iterator[tuple[int, int]]:
            for low, high in found.used(first + shift, min(stop + shift, found.size)):
                yield low - shift, high - shift
            if stop + shift > found.size:
                yield max(found.size - shift, first), stop

        self._regions.append(_Region(start, end, used))

    def _whole(self, reader: Reader, filesystem: Filesystem | None, physical: bool) -> None:
        if physical:
            return
        found = self._map("the disk", "", reader, filesystem, 0)
        if found is not None:
            self._add(0, self.size, found, 0)

    def _groups(self, parts: list[Part], offsets: dict[int, int]) -> None:
        if not parts:
            return
        try:
            groups = lvm_groups.read_groups(part.device for part in parts)
        except LayoutError as error:
            self.notes.append(f"LVM: {error.message}")
            return
        places = {part.device.uuid: offsets.get(part.number, 0) for part in parts}
        for group in groups:
            if not all(member.usable for member in group.members.values()):
                self.notes.append(f"volume group {group.name}: it has physical volumes on other disks")
                continue
            for volume in group.volumes.values():
                if volume.visible:
                    self._volume(group, volume, places)

    def _volume(self, group: Group, volume: LogicalVolume, places: dict[str, int]) -> None:
        name = f"{group.name}/{volume.name}"
        reason = _obstacle(group, volume)
        if reason:
            self.notes.append(f"{name}: {reason}")
            return
        try:
            reader = open_volume(group, volume.name)
        except LayoutError as error:
            self.notes.append(f"{name}: {error.message}")
            return
        found = self._map(name, name, reader, detect(reader))
        if found is None:
            return
        for segment in volume.segments:
            self._segment(group, segment, found, places)

    def _segment(self, group: Group, segment: Segment, found: AllocationMap, places: dict[str, int]) -> None:
        base = segment.start_extent * group.extent_bytes
        legs = segment.section.pairs("stripes")
        length = segment.extent_count * group.extent_bytes // len(legs)
        for name, first in legs:
            member = group.members[name]
            start = places[member.uuid] + member.pe_start + first * group.extent_bytes
            if len(legs) == 1:
                self._add(start, start + length, found, base)
                continue
            piece = segment.section.number("stripe_size") * SECTOR_BYTES
            self._regions.append(_Region(start, start + length, _striped(found, base, len(legs) * piece, piece)))


def _striped(
    found: AllocationMap, base: int, row: int, piece: int
) -> Callable[[int, int], Iterator[tuple[int, int]]]:
    """What is used of one leg: every row of which anything is used, whichever leg it lies on."""

    def used(first: int, stop: int) -> Iterator[tuple[int, int]]:
        low = base + first // piece * row
        high = base + -(-stop // piece) * row
        ranges = _with_end(found, low, high)
        legs = (((start - base) // row * piece, -(-(end - base) // row) * piece) for start, end in ranges)
        return clipped(legs, first, stop)

    return used


def _with_end(found: AllocationMap, first: int, stop: int) -> Iterator[tuple[int, int]]:
    yield from found.used(first, min(stop, found.size))
    if stop > found.size:
        yield max(found.size, first), stop


def _obstacle(group: Group, volume: LogicalVolume) -> str:
    """Why a volume's bytes on the disk are not just its filesystem's."""
    shots = group.snapshots.values()
    if any(volume.name in (shot.origin, shot.store) for shot in shots):
        return "it has a snapshot or is one"
    if any(segment.type not in ("striped", "linear") for segment in volume.segments):
        return f"a volume of type {volume.type} is sent whole"
    for segment in volume.segments:
        if any(name not in group.members for name, _ in segment.section.pairs("stripes")):
            return "it lies on other volumes"
    return ""
