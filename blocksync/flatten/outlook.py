"""Which files of a source's system the repair will edit, found before anything is copied.

The files are read where they lie in the volumes, whatever their geometry, by our own readers of ext2/3/4 and XFS:
nothing is mounted, no journal is replayed, no root rights are needed but those to read the disks. What such a look
cannot see (btrfs, FAT) is told in a note, and symlinks count as nothing; the repair itself looks at everything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocksync.errors import BlocksyncError, FlattenError, GuestFileError, LayoutError
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.changes import find_changes
from blocksync.flatten.leftovers import opened_names
from blocksync.flatten.plan import Copy, Plan
from blocksync.flatten.sources import pieces
from blocksync.flatten.system import Part, fstab_entries, matches
from blocksync.flatten.tree import MOST_NAMES, Guest, Parts, Tree, check_size
from blocksync.sources.base import Source
from blocksync.trust.names import printable
from blocksync.volumes.files import find
from blocksync.volumes.filesystems.ext_files import ExtFiles
from blocksync.volumes.filesystems.xfs_files import XfsFiles
from blocksync.volumes.reader import SourceReader

_READERS: dict[str, type[ExtFiles | XfsFiles]] = {
    **dict.fromkeys(("ext2", "ext3", "ext4"), ExtFiles),
    "xfs": XfsFiles,
}
_MOUNTS = ("/boot", "/etc", "/usr", "/var")
_MOST_FSTAB_BYTES = 1 << 20
_ON_A_DISK = re.compile(r"(?:UUID|LABEL|PARTUUID|PARTLABEL)=|/dev/(?!sr\d|cdrom|dvd|fd\d|loop|zram|ram|shm)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook(Plan):
    """A plan, and the edits that its repair will make.

    Args:
        edits: ``(rule, path)`` of each file.
    """

    edits: tuple[tuple[str, str], ...] = ()


def outlook(disks: Sequence[Source], plan: Plan) -> Outlook:
    """Look into the system on open disks; what cannot be found out is a note, never an error."""
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(Plan)}
    try:
        with _system(disks, plan) as (guest, notes):
            found = find_changes(guest, plan.alias_map())
    except BlocksyncError as error:
        return Outlook(
            **{**fields, "notes": (*plan.notes, f"which files will be edited is not known: {error.message}")}
        )
    edits = tuple(dict.fromkeys((change.rule, change.path) for change in found))
    return Outlook(**{**fields, "notes": (*plan.notes, *notes)}, edits=edits)


@contextlib.contextmanager
def _system(disks: Sequence[Source], plan: Plan) -> Iterator[tuple[Guest, list[str]]]:
    aliases = plan.alias_map()
    with pieces(disks, plan) as found:
        trees: dict[tuple[int, int], Tree] = {}
        for index, copy, source in found:
            kind = _READERS.get(copy.filesystem)
            if kind is not None:
                with contextlib.suppress(LayoutError):
                    trees[index, copy.to] = _FilesTree(kind(SourceReader(source)), copy.name)
        targets = plan.targets
        places = {(index, copy.to): _part(index, copy, targets[index]) for index, copy in plan.placed()}
        roots = [place for place, tree in trees.items() if _is_root(tree, places[place], aliases)]
        if not roots:
            raise FlattenError("no volume with ext2/3/4 or XFS holds the system")
        guest = Guest(trees[roots[0]])
        notes = []
        for device, where in sorted(_mounts(guest), key=lambda each: each[1]):
            place = next((place for place, part in places.items() if matches(device, part, aliases)), (0, 0))
            if place in trees:
                guest.attach(where, trees[place])
            else:
                notes.append(f"which files will be edited below {where} ({device}) is not known before the copy")
        yield guest, [*notes, *_absent(guest, list(places.values()), aliases)]


def _absent(guest: Guest, parts: Sequence[Part], aliases: AliasMap) -> Iterator[str]:
    """What fstab mounts from disks that are not given: it will not be on the target."""
    opened = opened_names(guest)
    for device, where, options in fstab_entries(guest.read("/etc/fstab", _MOST_FSTAB_BYTES) or b""):
        if not _ON_A_DISK.match(device) or device in opened:
            continue
        if any(matches(device, part, aliases) for part in parts):
            continue
        waits = not {"nofail", "noauto"} & set(options.split(","))
        then = (
            "the system waits for it in vain, and ends in emergency mode after 90 s" if waits else "it is missing"
        )
        what = "swap" if where in ("none", "swap") else where
        yield (
            f"fstab has {printable(what)} on {printable(device)}, which is on none of these disks: name that disk as a "
            f"SOURCE too, or attach it to the target; else {then}"
        )


def _is_root(tree: Tree, part: Part, aliases: AliasMap) -> bool:
    return any(where == "/" and matches(device, part, aliases) for device, where in _fstab(Guest(tree)))


def _mounts(guest: Guest) -> Iterator[tuple[str, str]]:
    for device, where in _fstab(guest):
        bare = where.rstrip("/")
        if bare in _MOUNTS or bare in ("/boot/efi", "/efi"):
            yield device, bare


def _fstab(guest: Guest) -> list[tuple[str, str]]:
    text = guest.read("/etc/fstab", _MOST_FSTAB_BYTES) or b""
    return [(device, where) for device, where, _ in fstab_entries(text)]


def _part(index: int, copy: Copy, plan: Plan) -> Part:
    """What a copy becomes.

    Args:
        index: of its target.
        plan: of that.
    """
    new = plan.slice(copy.to)
    return Part(
        number=copy.to,
        offset=0,
        size=copy.size,
        type_id="",
        partuuid=new.uuid if plan.table == "gpt" else f"{plan.identity}-{copy.to:02x}",
        kind=copy.filesystem,
        uuid=copy.uuid,
        label=copy.label,
        name=new.name,
        target=index,
    )


class _FilesTree(Tree):
    """A filesystem as it lies on a disk, to be read only. Its symlinks count as nothing."""

    def __init__(self, files: ExtFiles | XfsFiles, name: str) -> None:
        self._files = files
        self._name = name

    def kind(self, path: Parts) -> str:
        number = self._number(path)
        kind = self._files.node(number).kind if number is not None else ""
        return kind if kind in ("file", "folder") else ""

    def names(self, path: Parts) -> list[str]:
        number = self._number(path)
        found: list[str] = []
        for entry in self._files.entries(number) if number is not None else ():
            found.append(entry.name)
            if len(found) > MOST_NAMES:
                raise GuestFileError(f"{self._name}: /{'/'.join(path)} holds more than {MOST_NAMES} names")
        return sorted(found)

    def read(self, path: Parts, most: int) -> bytes:
        number = self._number(path)
        if number is None:
            raise GuestFileError(f"{self._name}: there is no /{'/'.join(path)}")
        check_size(self._files.node(number).size, most, f"{self._name}: /{'/'.join(path)}")
        return self._files.content(number, most)

    def _number(self, path: Parts) -> int | None:
        return find(self._files, "/".join(path)) if path else self._files.root

    def link(self, path: Parts) -> str:
        raise self._refused(path)

    def write(self, path: Parts, data: bytes, *, mode: int = 0o644) -> None:
        del data, mode
        raise self._refused(path)

    def make_folder(self, path: Parts) -> None:
        raise self._refused(path)

    def make_link(self, path: Parts, target: str) -> None:
        del target
        raise self._refused(path)

    def remove(self, path: Parts) -> None:
        raise self._refused(path)

    def _refused(self, path: Parts) -> GuestFileError:
        return GuestFileError(f"{self._name}: /{'/'.join(path)} is looked at, and no more")

    def sync(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        """The source is somebody else's."""
