"""A source that knows what of it is used: a wrapper that lays the allocation map over the disk's own extents.

A map says what was used when it was read. So it is only taken where nothing can change the disk meanwhile: from a
point-in-time view, or where nobody has it mounted or open for writing as far as the system tells; and each filesystem
must itself say that it is clean. :meth:`AllocatedSource.check` looks again before a pass is committed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocksync.errors import LayoutError, SourceError, UsageError
from blocksync.extents import Extent, overlay
from blocksync.sources.base import Source
from blocksync.volumes.allocation import DiskMap
from blocksync.volumes.files import MOST_NAMED
from blocksync.volumes.patterns import Rules, in_volume
from blocksync.volumes.reader import SourceReader

_NOTHING_MATCHED = (
    "no file that can be left out matches the patterns: a path begins at the root of its filesystem, wherever that is "
    "mounted"
)


class AllocatedSource(Source):
    """Reads another source; what no filesystem uses is told as unused.

    Args:
        base: closed with this one.
        found: its map.
    """

    def __init__(self, base: Source, found: DiskMap) -> None:
        self._base = base
        self._map = found
        self._mark = found.mark()
        self.name = base.name
        self.identity = base.identity
        self.size = base.size
        self.sector_bytes = base.sector_bytes
        self.capabilities = base.capabilities
        self.tracker = base.tracker

    def extents(self) -> Iterator[Extent]:
        return overlay(self._base.extents(), self._map.used(0, self.size), self.size)

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        # Shifted to the range's start and back, since the arithmetic of extents begins at 0.
        base = (Extent(e.offset - first, e.length, e.kind) for e in self._base.extents_within(first, stop))
        used = ((start - first, end - first) for start, end in self._map.used(first, stop))
        for extent in overlay(base, used, stop - first):
            yield Extent(extent.offset + first, extent.length, extent.kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._base.read_into(offset, buffer)

    def descriptor(self) -> int | None:
        return self._base.descriptor()

    def in_use(self) -> str:
        return self._base.in_use()

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        return self._base.unreadable()

    def check(self) -> None:
        self._base.check()
        reason = self._base.in_use()
        if not reason and self._map.mark() != self._mark:
            reason = "a filesystem on it was mounted or changed"
        if reason:
            raise SourceError(
                f"{self.name} was not left alone while only its used blocks were read: {reason}",
                remedy="send it again while nothing uses it, from a snapshot, or with --all-blocks",
                safe="nothing of this pass was committed",
            )

    def close(self) -> None:
        self._base.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """A source to read, and what is to be said of it.

    Args:
        source: stands on the one that was given, and needs no closing of its own.
        notes: why what is not covered by a map is read as a whole, in words.
        excluded: ``(file, bytes)`` of what is left out, the first of them; files by volume and path.
        excluded_files: how many there are in all.
        excluded_bytes: of them.
        excluded_names: what the rules name of them, by volume and path; a folder stands for all below it.
        unnamed: how many more the rules name.
    """

    source: Source
    notes: tuple[str, ...] = ()
    excluded: tuple[tuple[str, int], ...] = ()
    excluded_files: int = 0
    excluded_bytes: int = 0
    excluded_names: tuple[str, ...] = ()
    unnamed: int = 0


def allocated(source: Source, *, all_blocks: bool, exclude: Sequence[str] = ()) -> Allocated:
    """The source, with its allocation map where one can be had.

    Args:
        source: open.
        all_blocks: take no map.
        exclude: patterns of files to leave out.

    Raises:
        UsageError: a pattern cannot be understood, or there are some and ``all_blocks``.
    """
    rules = Rules(exclude)
    if all_blocks:
        if rules.rules:
            raise UsageError("every block and no excluded file: one of both", remedy="leave out --all-blocks")
        return Allocated(source=source)
    kept = "every block is read, and no file left out" if rules.rules else "every block is read"
    reason = source.in_use()
    if reason:
        return Allocated(source=source, notes=(f"{kept}: {reason}",))
    try:
        found = DiskMap(SourceReader(source), rules, source.told)
    except LayoutError as error:
        return Allocated(source=source, notes=(f"{kept}: {error.message}",))
    if not found.found:
        return Allocated(source=source, notes=tuple(found.notes))
    parts = found.excluded.items()
    named = [(in_volume(place, name), size) for place, part in parts for name, size in part.names]
    names = [in_volume(place, name) for place, part in parts for name in part.matched]
    notes = list(found.notes)
    if not names and any(not rule.keep for rule in rules.rules):
        notes.append(_NOTHING_MATCHED)
    return Allocated(
        source=AllocatedSource(source, found),
        notes=tuple(notes),
        excluded=tuple(named[:MOST_NAMED]),
        excluded_files=sum(part.files for _, part in parts),
        excluded_bytes=sum(part.total for _, part in parts),
        excluded_names=tuple(names),
        unnamed=sum(part.unmatched for _, part in parts),
    )
