"""Leaving files out of an allocation map: those that patterns name, and those that no copy needs.

By default page, swap and hibernation files are left out: Windows makes ``pagefile.sys`` and ``swapfile.sys`` anew
at each start; ``hiberfil.sys`` means nothing on another machine; of a Linux swap file that the filesystem's own
``/etc/fstab`` names the first 64 KiB are kept, which hold the header that ``swapon`` wants. A system that is
hibernated right now is another matter: its filesystem is not what its blocks say, so no map is taken at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator

from blocksync.errors import FilesystemDirtyError
from blocksync.volumes.files import Excluded, Room, Walk, find
from blocksync.volumes.filesystems.base import AllocationMap, clipped, complement
from blocksync.volumes.filesystems.ext_files import ExtFiles
from blocksync.volumes.filesystems.ntfs_files import NtfsFiles
from blocksync.volumes.filesystems.xfs_files import XfsFiles
from blocksync.volumes.patterns import Rules
from blocksync.volumes.reader import Reader
from blocksync.volumes.told import Confirmed, Told

_READERS: dict[str, Callable[[Reader], ExtFiles | XfsFiles | NtfsFiles]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ExtFiles),
    "xfs": XfsFiles,
    "ntfs": NtfsFiles,
}
_WINDOWS = ("pagefile.sys", "swapfile.sys", "hiberfil.sys")
_HEADER_BYTES = 64 << 10
_FSTAB_BYTES = 1 << 20
_SWAP_SIGNATURES = (4086, 8182, 16374, 65526)


class Without:
    """A map with some ranges taken out.

    Args:
        base: the filesystem's own map.
        ranges: ``(start, end)``, sorted.
    """

    def __init__(self, base: AllocationMap, ranges: list[tuple[int, int]]) -> None:
        self._base = base
        self._ranges = list(clipped(ranges, 0, base.size))
        self.size = base.size

    def mark(self) -> bytes:
        return self._base.mark()

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        at = max(bisect_right(self._ranges, (first,)) - 1, 0)
        for start, end in self._base.used(first, stop):
            while at < len(self._ranges) and self._ranges[at][1] <= start:
                at += 1
            inside = []
            look = at
            while look < len(self._ranges) and self._ranges[look][0] < end:
                inside.append((max(self._ranges[look][0], start), self._ranges[look][1]))
                look += 1
            yield from complement(inside, start, end)


def leave_out(
    reader: Reader,
    kind: str,
    base: AllocationMap,
    rules: Rules,
    place: str,
    told: Told | None = None,
    *,
    room: Room,
) -> tuple[AllocationMap, Excluded]:
    """A filesystem's map without the files that are left out.

    Args:
        kind: of the filesystem.
        rules: of the user; none is allowed.
        place: as the rules call the volume.
        told: what the filesystem's driver tells of it, where it is mounted now.
        room: for matches, of the whole disk.

    Raises:
        FilesystemDirtyError: a hibernated system lies on it.
        LayoutError: the filesystem does not hold, or is out of proportion.
    """
    make = _READERS.get(kind)
    if make is None:
        return base, Excluded()
    files = make(reader)
    mine = rules.of(place, ignore_case=files.ignores_case)
    found = Excluded(room=room) if told is None else Confirmed(told, room)
    if mine.rules:
        Walk(files, mine, found).run()
    named = {name for name, _ in found.names}
    if isinstance(files, NtfsFiles):
        _windows(files, found, named, running=told is not None)
    else:
        _linux(files, found, named)
    found.ranges.sort()
    return (Without(base, found.ranges) if found.ranges else base), found


def reads_files(kind: str) -> bool:
    """Whether files can be left out of a filesystem of this kind."""
    return kind in _READERS


def _windows(files: NtfsFiles, found: Excluded, named: set[str], *, running: bool) -> None:
    for name in _WINDOWS:
        number = find(files, name)
        if number is None:
            continue
        if name == "hiberfil.sys" and not running and files.content(number, 4).lower() in (b"hibr", b"wake"):
            raise FilesystemDirtyError("no allocation map of the ntfs filesystem: Windows is hibernated on it")
        node = files.node(number)
        if node.kind == "file" and node.links == 1 and f"/{name}" not in {each.casefold() for each in named}:
            found.add(f"/{name}", files.extents(number))


def _linux(files: ExtFiles | XfsFiles, found: Excluded, named: set[str]) -> None:
    number = find(files, "etc/fstab")
    if number is None or files.node(number).kind != "file":
        return
    for line in files.content(number, _FSTAB_BYTES).decode("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[2] != "swap" or not fields[0].startswith("/") or fields[0] in named:
            continue
        swap = find(files, fields[0]) if not fields[0].startswith("/dev/") else None
        if swap is None:
            continue
        node = files.node(swap)
        head = files.content(swap, _HEADER_BYTES)
        is_swap = any(head[at : at + 10] == b"SWAPSPACE2" for at in _SWAP_SIGNATURES)
        if node.kind == "file" and node.links == 1 and is_swap:
            found.add(fields[0], _behind(files.extents(swap), _HEADER_BYTES))


def _behind(ranges: Iterator[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    """The same ranges without their first ``count`` bytes."""
    for start, end in ranges:
        skip = min(count, end - start)
        count -= skip
        if start + skip < end:
            yield start + skip, end
