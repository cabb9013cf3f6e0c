r"""Disks, volumes and shadow copies of Windows as sources.

``\\.\PhysicalDrive0`` is a disk, ``C:`` or ``\\?\Volume{…}`` a volume,
``\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1`` a shadow copy of one. Reads are of whole sectors, as Windows wants
them of devices. A disk of which volumes have shadow copies is put together: the volumes from those, the rest (tables,
gaps, partitions without a filesystem that can be shadowed) from the disk itself.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from blocksync.errors import SnapshotOverflowError, SourceError, UnreadableError, from_os_error
from blocksync.extents import Extent
from blocksync.platforms import ioctls
from blocksync.platforms.ioctls import DiskExtent
from blocksync.platforms.windows import WindowsCalls, system_calls
from blocksync.sources.base import Source, SourceCapabilities
from blocksync.volumes.told import Told

_DEVICE = re.compile(r"\\\\[.?]\\.+|[A-Za-z]:\\?", re.DOTALL)
_DISK = re.compile(r"\\\\\.\\PhysicalDrive(\d+)", re.IGNORECASE)
_SHADOW = re.compile(r"\\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy\d+", re.IGNORECASE)
_PIECE_BYTES = 1 << 20
SHADOWED_KINDS = {b"NTFS    ": "NTFS", b"ReFS\0\0\0\0": "ReFS"}
"""What VSS makes shadow copies of, by bytes 3 to 10 of the boot sector."""


def is_windows_device(text: str) -> bool:
    """Whether a text names a device of Windows."""
    return _DEVICE.fullmatch(text) is not None


def disk_number(text: str) -> int | None:
    r"""``N`` of ``\\.\PhysicalDriveN``; None for everything else."""
    found = _DISK.fullmatch(text)
    return int(found[1]) if found is not None else None


def device_path(text: str) -> str:
    r"""What a person typed, as it is opened: ``C:`` is ``\\.\C:``; no backslash at the end, which would be a folder."""
    bare = text.rstrip("\\")
    return f"\\\\.\\{bare}" if len(bare) == 2 else bare


class WindowsSource(Source):
    """A device of Windows.

    Args:
        path: as a person names it.
        calls: of this machine; others in tests.
        name, identity: others than its own, for a shadow copy that stands for its volume.
        consistency: None for its own: a shadow copy is of one instant, everything else is live.

    Raises:
        SourceError: it cannot be opened, or Windows does not say what it is.
    """

    def __init__(
        self,
        path: str,
        calls: WindowsCalls | None = None,
        *,
        name: str = "",
        identity: str = "",
        consistency: str | None = None,
    ) -> None:
        self.name = name or path
        self.path = device_path(path)
        self._handle: int | None = None
        try:
            self._calls = calls or system_calls()
            self._handle = self._calls.open(self.path)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot open the source {self.name}") from error
        try:
            self.size = ioctls.length_of(self._calls, self._handle)
            self.sector_bytes = ioctls.sector_bytes_of(self._calls, self._handle)
            if disk_number(path) is None:
                ioctls.allow_whole_volume(self._calls, self._handle)
            self.identity = identity or self._own_identity()
        except OSError as error:
            self.close()
            raise from_os_error(error, SourceError, f"cannot ask what {self.name} is") from error
        if self.size <= 0 or self.size % 512:
            self.close()
            raise SourceError(f"the source {self.name} has no medium", remedy="name a disk that holds something")
        still = _SHADOW.fullmatch(self.path) is not None
        self.capabilities = SourceCapabilities(
            extents=False,
            direct=True,
            alignment=self.sector_bytes,
            consistency=consistency or ("crash" if still else "live"),
        )
        self._still = still
        if still:
            self.told = {0: DriverTold(self._calls, self.path, self._handle)}

    def _own_identity(self) -> str:
        assert self._handle is not None
        if disk_number(self.path) is None:
            return f"windows:{self.path.lower()}"
        serial = ioctls.serial_of(self._calls, self._handle)
        table = ioctls.layout_of(self._calls, self._handle)
        return (
            f"windows-disk:{serial}:{table.identity}"
            if serial or table.identity
            else f"windows:{self.path.lower()}"
        )

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceError(f"a read of [{offset}, {end}) leaves the source {self.name}")
        unit = self.sector_bytes
        if not (offset | len(buffer)) % unit:
            self._read(offset, buffer)
            return
        start, stop = offset // unit * unit, -(-end // unit) * unit
        # Not closed here: what a failed read's traceback points at would make that a second fault, and hide the first.
        whole = memoryview(mmap.mmap(-1, min(stop - start, _PIECE_BYTES)))
        while start < stop:
            count = min(stop - start, len(whole))
            self._read(start, whole[:count])
            low, high = max(start, offset), min(start + count, end)
            buffer[low - offset : high - offset] = whole[low - start : high - start]
            start += count

    def _read(self, offset: int, buffer: memoryview) -> None:
        filled = 0
        try:
            while filled < len(buffer):
                assert self._handle is not None
                count = self._calls.read(self._handle, offset + filled, buffer[filled:])
                if not count:
                    raise UnreadableError(f"{self.name} ends at {offset + filled} while it was read")
                filled += count
        except OSError as error:
            if self._still:
                self._length()
            at = offset + filled
            raise from_os_error(error, SourceError, f"cannot read {self.name} at offset {at}") from error

    def _length(self) -> int:
        """What Windows says of its size now; of a shadow copy that it dropped it says nothing.

        Raises:
            SnapshotOverflowError: the shadow copy is gone.
            SourceError: the size cannot be asked for.
        """
        try:
            assert self._handle is not None
            return ioctls.length_of(self._calls, self._handle)
        except OSError as error:
            if not self._still:
                raise from_os_error(error, SourceError, f"cannot ask for the size of {self.name}") from error
            raise SnapshotOverflowError(
                f"the shadow copy of {self.name} is gone: Windows drops copies whose storage is full",
                remedy="enlarge the shadow storage (vssadmin resize shadowstorage), or send when less is written",
            ) from error

    def check(self) -> None:
        if self._length() != self.size:
            raise SourceError(f"the source {self.name} changed its size while it was read")

    def in_use(self) -> str:
        if self._still:
            return ""
        number = disk_number(self.path)
        if number is None:
            return f"Windows has {self.name} mounted"
        points = [
            point
            for volume in volumes_of(self._calls)
            if any(extent.disk == number for extent in volume.extents)
            for point in volume.points or (volume.name,)
        ]
        return f"Windows has volumes of it mounted: {', '.join(points[:5])}" if points else ""

    def close(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._calls.close(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsVolume:
    r"""A volume.

    Args:
        name: ``\\?\Volume{…}\``.
        points: where it is mounted.
        extents: where it lies.
        kind: ``NTFS`` or ``ReFS``; empty for all that VSS cannot shadow.
    """

    name: str
    points: tuple[str, ...]
    extents: tuple[DiskExtent, ...]
    kind: str

    @property
    def text(self) -> str:
        """As people call it."""
        return self.points[0].rstrip("\\") if self.points else self.name


def volumes_of(calls: WindowsCalls) -> list[WindowsVolume]:
    """All volumes that lie on disks; what cannot be looked into (an empty reader, say) is none.

    Raises:
        SourceError: Windows does not list them.
    """
    try:
        names = calls.volumes()
    except OSError as error:
        raise from_os_error(error, SourceError, "cannot list the volumes of this machine") from error
    found = []
    for name in names:
        try:
            handle = calls.open(device_path(name))
        except OSError:
            continue
        try:
            extents = ioctls.extents_of(calls, handle)
            sector = ioctls.sector_bytes_of(calls, handle)
            points = tuple(calls.mount_points(name))
        except OSError:
            continue
        else:
            kind = _kind_of(calls, handle, sector)
            found.append(WindowsVolume(name=name, points=points, extents=extents, kind=kind))
        finally:
            calls.close(handle)
    return found


def _kind_of(calls: WindowsCalls, handle: int, sector: int) -> str:
    view = memoryview(mmap.mmap(-1, max(sector, mmap.PAGESIZE)))[:sector]
    try:
        count = calls.read(handle, 0, view)
    except OSError:
        return ""
    return SHADOWED_KINDS.get(bytes(view[3:11]), "") if count >= 11 else ""


class DriverTold:
    """:class:`~blocksync.volumes.told.Told` of a shadow copy, by Windows' own filesystem driver."""

    def __init__(self, calls: WindowsCalls, path: str, handle: int) -> None:
        self._calls = calls
        self._path = path
        self._handle = handle

    def cluster_bytes(self) -> int:
        try:
            return ioctls.cluster_bytes_of(self._calls, self._handle)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot ask what lies on {self._path}") from error

    def bits(self, first: int) -> tuple[int, int, bytes]:
        try:
            return ioctls.bitmap_piece(self._calls, self._handle, first)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot ask for the bitmap of {self._path}") from error

    def runs(self, path: str) -> list[tuple[int, int]]:
        inside = path.replace("/", "\\")
        try:
            handle = self._calls.open(f"{self._path}{inside}", attributes_only=True)
            try:
                return sorted(ioctls.runs_of(self._calls, handle))
            finally:
                self._calls.close(handle)
        except OSError:
            return []


class ShadowedDisk(Source):
    """A disk whose volumes are read from their shadow copies.

    Args:
        disk: the disk itself; closed with this one.
        shadows: ``(offset, length, shadow copy)`` of its volumes, in order; closed with this one.
        consistency: of the volumes.
    """

    def __init__(self, disk: Source, shadows: Sequence[tuple[int, int, Source]], consistency: str) -> None:
        self._disk = disk
        self._shadows = tuple(shadows)
        self.name = disk.name
        self.identity = disk.identity
        self.size = disk.size
        self.sector_bytes = disk.sector_bytes
        self.capabilities = SourceCapabilities(
            extents=False,
            direct=True,
            alignment=max(each.sector_bytes for each in (disk, *(found for _, _, found in self._shadows))),
            consistency=consistency,
        )
        told: dict[int, Told] = {}
        for offset, _, shadow in self._shadows:
            known: Mapping[int, Told] = shadow.told or {}
            if 0 in known:
                told[offset] = known[0]
        self.told = told

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def _pieces(self, offset: int, end: int) -> Iterator[tuple[Source, int, int]]:
        at = offset
        for start, length, shadow in self._shadows:
            stop = start + min(length, shadow.size)
            if stop <= at or start >= end:
                continue
            if start > at:
                yield self._disk, at, start - at
                at = start
            count = min(stop, end) - at
            yield shadow, at - start, count
            at += count
        if at < end:
            yield self._disk, at, end - at

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise SourceError(f"a read of [{offset}, {end}) leaves the source {self.name}")
        done = 0
        for source, at, count in self._pieces(offset, end):
            source.read_into(at, buffer[done : done + count])
            done += count

    def check(self) -> None:
        self._disk.check()
        for _, _, shadow in self._shadows:
            shadow.check()

    def close(self) -> None:
        for _, _, shadow in self._shadows:
            shadow.close()
        self._disk.close()
