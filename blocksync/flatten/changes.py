"""What the repair would change in a system's files: found out first, as a list; then done, or shown as a diff.

Everything is data: the list is made by reading alone, so that a dry run and a repair cannot differ, and a file
that must not be touched (binary, out of proportion, no ordinary file) stops the repair before the first write.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from blocksync.errors import GuestFileError
from blocksync.flatten.aliases import AliasMap, unit_name
from blocksync.flatten.arguments import NO_LVM
from blocksync.flatten.rules import ARCHIVED, REMOVED, RESUMES, RULES, UNIT_FOLDERS, Rule
from blocksync.flatten.tree import Guest

MOST_CONFIGURATION_BYTES = 4 << 20  # a grub.cfg of hundreds of kernels is far smaller
MOST_FILES = 5_000  # all that the rules find together
FOLDER = "/etc/blocksync-flatten"
ORIGINALS = FOLDER + "/original"
RECORD = FOLDER + "/record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file or link.

    Args:
        rule: whose work it is; a rule's name, ``stale``, ``archive``, ``unit-names`` or ``relabel``.
        path: where it lies (symlinks resolved); ``before`` and ``after`` None stand for "nothing there".
        link: it is a symlink, and ``before`` and ``after`` are where it points.
    """

    rule: str
    path: str
    before: bytes | None
    after: bytes | None
    link: bool = False


def find_changes(guest: Guest, aliases: AliasMap, *, skip: frozenset[str] = frozenset()) -> list[Change]:
    """All changes, in the order in which they are to be made.

    Args:
        skip: names of rules to leave out.

    Raises:
        GuestFileError: a file is binary, too large, or no longer fits.
        GuestPathError: a path is no ordinary file, or its links loop.
    """
    changes = list(_edits(guest, aliases, kernel_words(guest, aliases), skip))
    if "unit-names" not in skip:
        changes += _unit_names(guest, aliases, changes)
    if "stale" not in skip:
        changes += [
            Change(rule="stale", path=path, before=content, after=None)
            for path, content in _contents(guest, [f"/{path}" for path in REMOVED])
        ]
    if "archive" not in skip:
        kept = [f"{folder}/{name}" for folder in ARCHIVED for name in guest.names(f"/{folder}")]
        changes += [
            Change(rule="archive", path=path, before=content, after=None)
            for path, content in _contents(guest, [f"/{path}" for path in kept])
        ]
    if changes and "relabel" not in skip and needs_labels(guest):
        # Files that were written from outside carry no label that the system's policy gave.
        changes.append(Change(rule="relabel", path="/.autorelabel", before=None, after=b""))
    return changes


def uses_dracut(guest: Guest) -> bool:
    """Whether the system's initramfs is made by dracut."""
    return any(guest.kind(path) for path in ("/usr/lib/dracut", "/etc/dracut.conf", "/etc/dracut.conf.d"))


def kernel_words(guest: Guest, aliases: AliasMap) -> tuple[str, ...]:
    """What the kernel's command line must say so that an initramfs made on LVM does without it.

    dracut's may have volumes compiled in; that of initramfs-tools the swap to resume from, which it waits for.
    """
    if uses_dracut(guest):
        return (NO_LVM,)
    for path in (path for pattern in RESUMES for path in guest.find(pattern)):
        content = guest.read(path, MOST_CONFIGURATION_BYTES) if guest.kind(path) == "file" else None
        for line in as_text(content or b"", path).splitlines():
            name, _, value = line.strip().partition("=")
            alias = aliases.find(value.strip("\"'")) if name == "RESUME" else None
            if alias is not None:
                return (f"resume={alias.tag}",)
    return ()


def found_files(guest: Guest, rule: Rule) -> Iterator[tuple[str, str]]:
    """``(path, text)`` of each ordinary file of a rule, each once, by its resolved path."""
    seen: set[str] = set()
    for pattern in rule.patterns:
        for path in guest.find(pattern):
            if not rule.links and guest.kind(path, last=False) != "file":
                continue
            if guest.kind(path) == "folder" and "*" in pattern:
                continue
            real = "/" + "/".join(guest.resolve(path))
            if real in seen:
                continue
            seen.add(real)
            if len(seen) > MOST_FILES:
                raise GuestFileError(f"the system has more than {MOST_FILES} files like {path}")
            content = guest.read(real, MOST_CONFIGURATION_BYTES)
            if content is not None:
                yield real, as_text(content, real)


def as_text(content: bytes, path: str) -> str:
    """A configuration file's text; bytes that are no UTF-8 survive the way back.

    Raises:
        GuestFileError: it is binary.
    """
    if b"\0" in content:
        raise GuestFileError(f"{path} is no text: it holds zero bytes")
    return content.decode("utf-8", "surrogateescape")


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _edits(guest: Guest, aliases: AliasMap, words: tuple[str, ...], skip: frozenset[str]) -> Iterator[Change]:
    edited: dict[str, str] = {}
    for rule in RULES:
        if rule.name in skip:
            continue
        for path, text in found_files(guest, rule):
            if path in edited:
                continue
            try:
                after = rule.edit(text, aliases, words)
            except GuestFileError as error:
                raise GuestFileError(f"{path}: {error.message}", remedy=error.remedy) from error
            edited[path] = after
            if after != text:
                yield Change(rule=rule.name, path=path, before=as_bytes(text), after=as_bytes(after))


def _unit_names(guest: Guest, aliases: AliasMap, changes: list[Change]) -> list[Change]:
    """Units and links that are named after a device: the name must follow ``What=``."""
    contents = {change.path: change for change in changes}
    renamed: list[Change] = []
    for old, new in misnamed_units(guest, aliases).items():
        renamed += _rename(guest, old, new, contents.get(old), aliases)
    for change in renamed:
        if change.path in contents:
            changes.remove(contents[change.path])
    return renamed


def misnamed_units(guest: Guest, aliases: AliasMap) -> dict[str, str]:
    """Paths of units and links that are named after a device of old, and the paths that they should have."""
    names = {
        unit_name(path): unit_name(alias.path)
        for alias in aliases.aliases
        for path in alias.names
        if unit_name(path) != unit_name(alias.path)
    }
    found: dict[str, str] = {}
    for top in UNIT_FOLDERS:
        folders = [f"/{top}"]
        folders += [f"/{top}/{name}" for name in guest.names(f"/{top}") if name.endswith((".wants", ".requires"))]
        for folder in folders:
            for name in guest.names(folder):
                stem, dot, kind = name.rpartition(".")
                fresh = names.get(stem)
                if dot and fresh is not None and kind in ("swap", "mount", "device", "automount"):
                    found[f"{folder}/{name}"] = f"{folder}/{fresh}.{kind}"
    return found


def _rename(guest: Guest, old: str, new: str, edited: Change | None, aliases: AliasMap) -> list[Change]:
    if guest.kind(old, last=False) == "link":
        target = guest.link(old)
        after = aliases.replace_units(target)
        return [
            Change(rule="unit-names", path=old, before=as_bytes(target), after=None, link=True),
            Change(rule="unit-names", path=new, before=None, after=as_bytes(after), link=True),
        ]
    before = edited.before if edited is not None else guest.read(old, MOST_CONFIGURATION_BYTES)
    after_content = edited.after if edited is not None else before
    return [
        Change(rule="unit-names", path=old, before=before, after=None),
        Change(rule="unit-names", path=new, before=None, after=after_content),
    ]


def _contents(guest: Guest, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        if guest.kind(path, last=False) in ("file", "link") and guest.kind(path) == "file":
            content = guest.read(path, MOST_CONFIGURATION_BYTES)
            if content is not None:
                yield "/" + "/".join(guest.resolve(path)), content


def needs_labels(guest: Guest) -> bool:
    """Whether SELinux is on and nothing asks the next boot to label what was written from outside."""
    if guest.kind("/.autorelabel"):
        return False
    content = guest.read("/etc/selinux/config", MOST_CONFIGURATION_BYTES)
    if content is None:
        return False
    settings = [line.strip().replace(" ", "") for line in as_text(content, "/etc/selinux/config").splitlines()]
    return "SELINUX=enforcing" in settings or "SELINUX=permissive" in settings


def apply_changes(guest: Guest, changes: Iterable[Change], record: dict[str, object]) -> None:
    """Make the changes; each file's original goes to ``/etc/blocksync-flatten/original`` first.

    Args:
        record: what is kept beside the originals, for later checks and repairs.
    """
    guest.make_folders(FOLDER)
    guest.write(RECORD, json.dumps(record, indent=1).encode() + b"\n", mode=0o600)
    guest.sync()
    for change in changes:
        if change.before is not None and not change.link:
            keep_original(guest, change.path, change.before)
        if change.after is None:
            guest.remove(change.path)
        elif change.link:
            if not guest.kind(change.path, last=False):
                guest.make_link(change.path, change.after.decode("utf-8", "surrogateescape"))
        else:
            guest.write(change.path, change.after)
    guest.sync()


def keep_original(guest: Guest, path: str, content: bytes) -> None:
    """Keep what a file held before the first repair; later repairs leave that as it is."""
    kept = ORIGINALS + path
    if guest.kind(kept):
        return
    guest.make_folders(kept.rpartition("/")[0])
    guest.write(kept, content, mode=0o600)


def diff(changes: Iterable[Change]) -> str:
    """The changes as people read them."""
    pieces: list[str] = []
    for change in changes:
        if change.link:
            sign, target = ("-", change.before) if change.after is None else ("+", change.after)
            pieces.append(f"{sign} {change.path} -> {(target or b'').decode('utf-8', 'replace')}\n")
            continue
        before = (change.before or b"").decode("utf-8", "replace").splitlines(keepends=True)
        after = (change.after or b"").decode("utf-8", "replace").splitlines(keepends=True)
        old = "/dev/null" if change.before is None else f"a{change.path}"
        new = "/dev/null" if change.after is None else f"b{change.path}"
        lines = list(difflib.unified_diff(before, after, old, new))
        pieces += lines or [f"--- {old}\n", f"+++ {new}\n"]
        if lines and not lines[-1].endswith("\n"):
            pieces.append("\n")
    return "".join(pieces)
