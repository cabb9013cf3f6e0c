"""A logical volume as a reader: its segments, resolved down to the physical volumes.

Whatever is not known to be read rightly is refused with a code: a type not listed in ``_BUILDERS``, flags after the
type, volumes in motion (pvmove, merge, conversion, reshape), a leg out of sync, a missing physical volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from blocksync.errors import (
    LayoutDamagedError,
    LayoutUnknownError,
    VolumeIncompleteError,
    VolumeUnsettledError,
)
from blocksync.volumes.cow import CowStore, SnapshotReader
from blocksync.volumes.lvm_groups import SECTOR_BYTES, Group, LogicalVolume, Segment
from blocksync.volumes.raid_state import readable_legs
from blocksync.volumes.reader import Composite, Concatenated, Reader, Run, Window
from blocksync.volumes.striping import PARITY_LAYOUTS, Striped, near_copies, parity, stripes
from blocksync.volumes.thin import ThinPool, ThinReader

_MOST_DEPTH = 12  # snapshot over thin over pool over raid over image over volume is half of that
_IN_MOTION = frozenset({"PVMOVE", "LOCKED", "CONVERTING", "RESHAPE", "RESHAPE_DATA_OFFSET", "REBUILD"})
_HIDDEN_TYPES = frozenset({"snapshot", "thin-pool", "cache-pool", "vdo-pool"})


class _Zeros(Composite):
    """A segment of type ``zero``."""

    def __init__(self, size: int) -> None:
        self.size = size

    def runs(self, _offset: int, length: int) -> Iterator[Run]:
        yield None, 0, length


def open_volume(group: Group, name: str) -> Reader:
    """A logical volume as the system would show it: a classic snapshot as its origin was.

    Raises:
        VolumeMissingError: there is none of that name.
        VolumeIncompleteError: a physical volume is missing, or the group is exported.
        VolumeUnsettledError: it, or a part of it, is in motion or out of sync.
        SnapshotInvalidError: the snapshot overflowed.
        LayoutUnknownError: it is of a type that is not read here.
        LayoutDamagedError: what its parts say does not hold.
    """
    return _Opening(group).open(name)


class _Opening:
    """One opening of a volume, with all that lies under it.

    Each part is opened once, however often it is named, so that a text made to branch without end costs no more than
    an honest one.
    """

    def __init__(self, group: Group) -> None:
        if "EXPORTED" in group.status:
            raise VolumeIncompleteError(f"the volume group {group.name} is exported", remedy="import it: vgimport")
        self.group = group
        self._plain: dict[str, Reader] = {}
        self._shown: dict[str, Reader] = {}
        self._depth = 0

    def open(self, name: str) -> Reader:
        """A volume as it is shown: a snapshot by its contents, not by its store."""
        if name not in self._shown:
            snapshot = self.group.snapshots.get(name)
            if snapshot is None:
                self._shown[name] = self.plain(name)
            elif snapshot.merging:
                raise VolumeUnsettledError(f"the snapshot {name} is being merged into {snapshot.origin}")
            else:
                store = CowStore(self.plain(name), snapshot.chunk_bytes)
                self._shown[name] = SnapshotReader(self.plain(snapshot.origin), store)
        return self._shown[name]

    def plain(self, name: str) -> Reader:
        """A volume by its own segments: a snapshot by its store."""
        if name not in self._plain:
            if self._depth >= _MOST_DEPTH:
                raise LayoutDamagedError(f"LVM metadata: {name} is nested too deeply")
            self._depth += 1
            self._plain[name] = self._joined(self.group.volume(name))
            self._depth -= 1
        return self._plain[name]

    def _joined(self, volume: LogicalVolume) -> Reader:
        moving = volume.status & _IN_MOTION
        if moving:
            raise VolumeUnsettledError(
                f"the logical volume {volume.name} is in motion ({', '.join(sorted(moving))})"
            )
        if any(shot.merging and shot.origin == volume.name for shot in self.group.snapshots.values()):
            raise VolumeUnsettledError(f"a snapshot is being merged into {volume.name}")
        extent = self.group.extent_bytes
        runs: list[tuple[int, int, Reader, int]] = []
        for segment in volume.segments:
            build = _BUILDERS.get(segment.type)
            if build is None:
                hint = "name the volume on top of it" if segment.type in _HIDDEN_TYPES else None
                raise LayoutUnknownError(
                    f"the logical volume {volume.name} is of type {segment.type[:40]}, which is not read here",
                    remedy=hint,
                )
            reader = build(self, volume, segment)
            runs.append((segment.start_extent * extent, segment.extent_count * extent, reader, 0))
        if len(runs) == 1 and runs[0][2].size == volume.size:
            return runs[0][2]
        return Concatenated(runs, volume.size)

    def attempt(self, name: str) -> Reader | None:
        """As :meth:`open`; None where a part is missing or in motion, which a leg may be."""
        depth = self._depth
        try:
            return self.open(name)
        except (VolumeIncompleteError, VolumeUnsettledError):
            self._depth = depth
            return None


def _areas(opening: _Opening, segment: Segment, key: str, length: int) -> list[Reader]:
    """The parts that a list of ``name, first extent`` names: physical volumes, or other logical ones."""
    parts: list[Reader] = []
    group = opening.group
    for name, first in segment.section.pairs(key):
        base = group.area(name) if name in group.members else opening.open(name)
        parts.append(Window(base, first * group.extent_bytes, length))
    return parts


def _build_striped(opening: _Opening, volume: LogicalVolume, segment: Segment) -> Reader:
    count = segment.section.number("stripe_count")
    size = segment.extent_count * opening.group.extent_bytes
    if not count or size % count:
        raise LayoutDamagedError(f"LVM metadata: {volume.name} has {count} stripes")
    parts = _areas(opening, segment, "stripes", size // count)
    if len(parts) != count:
        raise LayoutDamagedError(f"LVM metadata: {volume.name} lists {len(parts)} of {count} stripes")
    if count == 1:
        return parts[0]
    return Striped(parts, segment.section.number("stripe_size") * SECTOR_BYTES, size, stripes(count))


def _build_zero(opening: _Opening, _volume: LogicalVolume, segment: Segment) -> Reader:
    return _Zeros(segment.extent_count * opening.group.extent_bytes)


def _build_mirror(opening: _Opening, volume: LogicalVolume, segment: Segment) -> Reader:
    # The first leg is the one that the others are synchronised from, so it is right in every state.
    size = segment.extent_count * opening.group.extent_bytes
    legs = segment.section.pairs("mirrors")
    if not legs or len(legs) != segment.section.number("mirror_count"):
        raise LayoutDamagedError(f"LVM metadata: {volume.name} lists {len(legs)} mirrors")
    return _areas(opening, segment, "mirrors", size)[0]


def _build_raid(opening: _Opening, volume: LogicalVolume, segment: Segment) -> Reader:
    section = segment.section
    kind = segment.type
    if len(volume.segments) != 1 or section.number("reshape_count", 0):
        raise VolumeUnsettledError(f"the RAID volume {volume.name} has been reshaped, or is being so")
    names = section.texts("raid0_lvs") or section.texts("raids")
    images = [name for name in names if "_rmeta_" not in name]
    metas = [name for name in names if "_rmeta_" in name]
    count = section.number("stripe_count" if kind.startswith("raid0") else "device_count")
    if len(images) != count or count < 1 or len(metas) not in (0, count):
        raise LayoutDamagedError(f"LVM metadata: {volume.name} lists {len(images)} of {count} RAID images")
    piece = None if kind == "raid1" else section.number("stripe_size") * SECTOR_BYTES
    usable = [opening.attempt(name) for name in images]
    meta_readers = [opening.attempt(name) for name in metas]
    sound = readable_legs(meta_readers, piece) if metas else [True] * count
    parts = [reader if good else None for reader, good in zip(usable, sound, strict=True)]
    return _assemble(kind, parts, piece or 0, segment, segment.extent_count * opening.group.extent_bytes)


def _assemble(kind: str, legs: list[Reader | None], piece: int, segment: Segment, size: int) -> Reader:
    count = len(legs)
    whole = [leg for leg in legs if leg is not None]
    lacking = VolumeUnsettledError(f"{count - len(whole)} of the {count} legs of a {kind} volume cannot be read")
    if kind == "raid1":
        if not whole:
            raise lacking
        return Window(whole[0], 0, size)
    if kind.startswith("raid10"):
        copies = segment.section.number("data_copies", 2)
        if not 2 <= copies <= count:
            raise LayoutDamagedError(f"LVM metadata: {copies} copies on {count} legs")
        # Every set of neighbours must have a leg that can be read.
        for first in range(count):
            if not any(legs[(first + copy) % count] for copy in range(copies)):
                raise lacking
        place = near_copies(count, copies, lambda parts: next(part for part in parts if legs[part] is not None))
        filler = whole[0]
        return Striped([leg or filler for leg in legs], piece, size, place)
    if len(whole) != count:
        raise lacking
    if kind in PARITY_LAYOUTS:
        if count <= PARITY_LAYOUTS[kind][0]:
            raise LayoutDamagedError(f"LVM metadata: {kind} on {count} legs")
        return Striped(whole, piece, size, parity(kind, count))
    return Striped(whole, piece, size, stripes(count))


def _build_thin(opening: _Opening, volume: LogicalVolume, segment: Segment) -> Reader:
    section = segment.section
    if "merge" in section.values:
        raise VolumeUnsettledError(f"the thin snapshot {volume.name} is being merged")
    pool = _pool(opening, section.text("thin_pool"))
    external = section.text("external_origin", "")
    origin = opening.open(external) if external else None
    size = segment.extent_count * opening.group.extent_bytes
    return ThinReader(pool, section.number("device_id"), size, origin)


def stamp(group: Group, name: str) -> str:
    """A text that changes with where the bytes of a volume lie: the group's metadata, and those of its thin pool."""
    text = f"{group.uuid}:{group.seqno}"
    for segment in group.volume(name).segments:
        if segment.type == "thin":
            text += f":{open_pool(group, segment.section.text('thin_pool')).mark()}"
    return text


def open_pool(group: Group, name: str) -> ThinPool:
    """The thin pool of that name; raises as :func:`open_volume`."""
    return _pool(_Opening(group), name)


def _pool(opening: _Opening, name: str) -> ThinPool:
    volume = opening.group.volume(name)
    segment = volume.segments[0]
    if segment.type != "thin-pool" or len(volume.segments) != 1:
        raise LayoutDamagedError(f"LVM metadata: {name} is no thin pool")
    section = segment.section
    return ThinPool(
        opening.open(section.text("metadata")),
        opening.open(section.text("pool")),
        section.number("chunk_size") * SECTOR_BYTES,
        section.number("transaction_id"),
    )


_RAIDS = ("raid0", "raid0_meta", "raid1", "raid10", "raid10_near", *PARITY_LAYOUTS)
_BUILDERS: dict[str, Callable[[_Opening, LogicalVolume, Segment], Reader]] = {
    "striped": _build_striped,
    "linear": _build_striped,
    "zero": _build_zero,
    "mirror": _build_mirror,
    "thin": _build_thin,
    **dict.fromkeys(_RAIDS, _build_raid),
}
