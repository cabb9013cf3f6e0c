"""Which bytes of a filesystem belong to the files that somebody wants left out.

A filesystem is walked by the names in its folders, as :class:`Files` gives them, and only where a rule can match. A
file is left out when every one of its names is: a hard link that is kept keeps the content. What is left out is the
content alone; names, sizes and attributes are metadata and stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from blocksync.errors import LayoutDamagedError, LayoutUnknownError
from blocksync.volumes.patterns import Rules

_MOST_DEPTH = 256
_MOST_RANGES = 1 << 20
_MOST_FOLDERS = 1 << 22
MOST_NAMED = 1000
MOST_MATCHED = 100_000
MOST_MATCHED_CHARACTERS = 16 << 20  # of a disk, all its filesystems together: this many bytes of memory and some


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder: what it names, by number."""

    name: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a number stands for; ``kind`` is ``file``, ``folder`` or ``other``."""

    kind: str
    links: int
    size: int


class Files(Protocol):
    """A filesystem's files.

    Obligations: numbers and names come from the disk and are checked; what does not hold raises
    :class:`~blocksync.errors.LayoutError`, in bounded time.
    """

    root: int
    ignores_case: bool

    def entries(self, folder: int) -> Iterator[Entry]:
        """The names in a folder, without ``.`` and ``..``."""
        ...

    def node(self, number: int) -> Node: ...

    def extents(self, number: int) -> Iterator[tuple[int, int]]:
        """Byte ranges ``(start, end)`` of the filesystem that hold this file's content and nothing else's, in the
        order of the file; what it shares with others is left out of the answer."""
        ...


@dataclass(slots=True)
class Room:
    """How many more matches of a disk are kept track of, and how many characters of them."""

    names: int = MOST_MATCHED
    characters: int = MOST_MATCHED_CHARACTERS


@dataclass(slots=True)
class Excluded:
    """What is left out of one filesystem.

    Args:
        ranges: ``(start, end)`` in bytes of the filesystem, sorted once complete.
        names: the first files, with the bytes of their content that are left out.
        files: how many there are.
        total: bytes of all of them.
        matched: paths that the rules name (a folder stands for all below it), as far as there is room.
        unmatched: how many more the rules name.
        room: shared by all filesystems of a disk.
    """

    ranges: list[tuple[int, int]] = field(default_factory=list)
    names: list[tuple[str, int]] = field(default_factory=list)
    files: int = 0
    total: int = 0
    matched: list[str] = field(default_factory=list)
    unmatched: int = 0
    room: Room = field(default_factory=Room)

    def match(self, path: str) -> None:
        """Note a path that the rules name."""
        if self.room.names and self.room.characters >= len(path):
            self.matched.append(path)
            self.room.names -= 1
            self.room.characters -= len(path)
        else:
            self.unmatched += 1

    def add(self, path: str, ranges: Iterator[tuple[int, int]]) -> None:
        """Leave out a file's content."""
        before = len(self.ranges)
        for found in ranges:
            self.ranges.append(found)
            if len(self.ranges) > _MOST_RANGES:
                raise LayoutUnknownError(
                    "the files to leave out lie in more pieces than are kept track of",
                    remedy="leave out fewer or larger files",
                )
        size = sum(end - start for start, end in self.ranges[before:])
        self.files += 1
        self.total += size
        if len(self.names) < MOST_NAMED:
            self.names.append((path, size))


class Walk:
    """One walk over a filesystem.

    Args:
        files: of the filesystem.
        rules: those that hold for it.
        found: what is found is put here.
    """

    def __init__(self, files: Files, rules: Rules, found: Excluded | None = None) -> None:
        self._files = files
        self._rules = rules
        self.found = Excluded() if found is None else found
        self._partly: dict[int, tuple[int, str]] = {}  # files with several names: how many matched, and one of them
        self._folders: set[int] = set()

    def run(self) -> Excluded:
        """Find everything that is left out.

        Raises:
            LayoutError: the filesystem does not hold, or is out of proportion.
        """
        self._folder(self._files.root, "", 0, out=False)
        self.found.ranges.sort()
        return self.found

    def _folder(self, number: int, path: str, depth: int, *, out: bool) -> None:
        if depth > _MOST_DEPTH or number in self._folders or len(self._folders) >= _MOST_FOLDERS:
            raise LayoutDamagedError(f"the folders below {path[:200] or '/'} lead back into themselves")
        self._folders.add(number)
        for entry in self._files.entries(number):
            name = f"{path}/{entry.name}"
            node: Node | None = None
            here = out
            if not here:
                # Only what matches as a folder or as a file is worth looking at.
                if self._rules.leaves_out(name, folder=False) or self._rules.leaves_out(name, folder=True):
                    node = self._files.node(entry.number)
                    here = self._rules.leaves_out(name, folder=node.kind == "folder")
                    if here:
                        self.found.match(name)
                elif not self._rules.may_match_below(name):
                    continue
            node = node or self._files.node(entry.number)
            if node.kind == "folder":
                self._folder(entry.number, name, depth + 1, out=here)
            elif node.kind == "file" and here:
                self._file(entry.number, node, name)

    def _file(self, number: int, node: Node, path: str) -> None:
        if node.links > 1:
            matched = self._partly.get(number, (0, path))[0] + 1
            self._partly[number] = (matched, path)
            if matched != node.links:
                return
            del self._partly[number]
        self.found.add(path, self._files.extents(number))


def find(files: Files, path: str) -> int | None:
    """The number of a path, following no links; None where there is none."""
    number = files.root
    for part in path.strip("/").split("/"):
        if files.node(number).kind != "folder":
            return None
        wanted = part.casefold() if files.ignores_case else part
        names = files.entries(number)
        number = next(
            (e.number for e in names if (e.name.casefold() if files.ignores_case else e.name) == wanted), -1
        )
        if number < 0:
            return None
    return number
