"""What a system's files still name of the old volumes, with the symptom of each at the next boot.

The same table of rules that the repair uses tells where to look; a file counts as left undone where its rule would
still change it, or where a line that counts (no comment) still names a volume that is gone. Names that belong to no
known volume are told apart by their form (``/dev/mapper/…``, ``lvmid/…``, ``rd.lvm.lv=``). Files below ``/etc`` that
no rule knows are searched for the names of known volumes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import FlattenError
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.changes import FOLDER, RECORD, found_files, kernel_words, misnamed_units, needs_labels
from blocksync.flatten.rules import ARCHIVED, REMOVED, RULES, Rule
from blocksync.flatten.tree import Guest

_FORMS = re.compile(
    r"/dev/mapper/(?!control\b)[A-Za-z0-9+_.]+(?:--[A-Za-z0-9+_.]+)*-[A-Za-z0-9+_.-]+"
    r"|/dev/disk/by-id/(?:dm-name-|dm-uuid-LVM-|lvm-pv-uuid-)[\w+.-]+"
    r"|/dev/dm-\d+|\blvmid/[\w/-]+|\(lvm/[^)\s]+\)|\brd\.lvm\.[lv][vg]=\S+|\brd_LVM_[LV][VG]=\S+"
)
_NUMBER = re.compile(r"/dev/dm-\d+")
_COMMENT = re.compile(r"^\s*[#;]")
_MOST_FSTAB_BYTES = 1 << 20
_MOST_OTHER_BYTES = 256 << 10  # of a file that no rule knows: what is larger is no configuration
_MOST_OTHER_FILES = 5_000
_MOST_DEPTH = 8
_NOT_SEARCHED = (FOLDER, "/etc/lvm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that was left undone.

    Args:
        code: of the catalogue.
        rule: the step of the repair that mends it.
        where: a path of the system, or a part of the target.
        names: what was found there.
        symptom: what will happen at the next boot.
        fatal: the system then does not come up whole.
    """

    code: str
    rule: str
    where: str
    names: tuple[str, ...]
    symptom: str
    fatal: bool


def file_findings(guest: Guest, aliases: AliasMap) -> Iterator[Leftover]:
    """What a system's files still name."""
    words = kernel_words(guest, aliases)
    opened = opened_names(guest)
    seen: set[str] = set()
    for rule in RULES:
        for path, text in found_files(guest, rule):
            if path in seen:
                continue
            try:
                changed = rule.edit(text, aliases, words) != text
            except FlattenError:
                changed = True
            # What fstab has on other volumes than those that are known is on disks that were not flattened: that is
            # told of each entry.
            foreign = filter(looks_like_volume, text.split() if rule.name == "fstab" and aliases.aliases else ())
            names = leftovers(text, aliases, others=opened.union(foreign))
            seen.add(path)
            numbers = _numbers(text, aliases)
            if numbers:
                yield _numbered(rule, path, numbers)
                names = [name for name in names if name not in numbers]
            if changed or names:
                symptom = _boot_symptom(rule.symptom, text, names)
                yield Leftover(
                    code=rule.code,
                    rule=rule.name,
                    where=path,
                    names=tuple(names),
                    symptom=symptom,
                    fatal=rule.fatal,
                )
    for path in misnamed_units(guest, aliases):
        yield Leftover(
            code="BS1132",
            rule="unit-names",
            where=path,
            names=(path.rpartition("/")[2],),
            symptom="the unit's name and its What= differ: systemd refuses to load it, and what it mounts is missing",
            fatal=True,
        )
    yield from _stale_findings(guest)
    yield from _other_findings(guest, aliases, seen)


def _numbered(rule: Rule, path: str, numbers: tuple[str, ...]) -> Leftover:
    """A number is given out anew at each boot: which volume it meant, the disks do not tell."""
    return Leftover(
        code="BS1153",
        rule=rule.name,
        where=path,
        names=numbers,
        symptom=f"{rule.symptom}; no repair can tell which volume that was: write UUID=… there, here or on the source",
        fatal=rule.fatal,
    )


def _numbers(text: str, aliases: AliasMap) -> tuple[str, ...]:
    """Each ``/dev/dm-N`` in the lines that count that no alias knows."""
    return tuple(
        name for name in leftovers(text, aliases) if _NUMBER.fullmatch(name) and aliases.find(name) is None
    )


def unknown_numbers(guest: Guest, aliases: AliasMap) -> Iterator[str]:
    """Files that name volumes by numbers which nobody knows, in words."""
    found = {path: _numbers(text, aliases) for rule in RULES for path, text in found_files(guest, rule)}
    for path, numbers in found.items():
        if numbers:
            yield f"{path} names {', '.join(numbers)}; no repair can tell which volume that was: write UUID=… there"


def _other_findings(guest: Guest, aliases: AliasMap, seen: set[str]) -> Iterator[Leftover]:
    """Files that no rule knows: nobody but their reader knows what a name means there, so they are only told."""
    volumes = AliasMap([alias for alias in aliases.aliases if alias.volume], *aliases.tables)
    for path in _others(guest, "/etc") if volumes.aliases else ():
        if path in seen:
            continue
        try:
            content = guest.read(path, _MOST_OTHER_BYTES)
        except FlattenError:
            continue
        names = leftovers((content or b"").decode("utf-8", "surrogateescape"), volumes, forms=False)
        if names:
            yield Leftover(
                code="BS1151",
                rule="elsewhere",
                where=path,
                names=tuple(names),
                symptom="what reads this file does not find the volume; the repair does not know it: edit it by hand",
                fatal=False,
            )


def _others(guest: Guest, top: str) -> Iterator[str]:
    """Ordinary files below a folder, by their plain paths, within bounds."""
    waiting = [(top, 0)]
    count = 0
    while waiting:
        folder, depth = waiting.pop()
        for name in guest.names(folder):
            path = f"{folder}/{name}"
            kind = guest.kind(path, last=False)
            if kind == "folder" and depth < _MOST_DEPTH and path not in _NOT_SEARCHED:
                waiting.append((path, depth + 1))
            elif kind == "file":
                count += 1
                if count > _MOST_OTHER_FILES:
                    return
                yield path


def _stale_findings(guest: Guest) -> Iterator[Leftover]:
    kept = [(f"{folder}/{name}", "archive") for folder in ARCHIVED for name in guest.names(f"/{folder}")]
    for name, rule in [*((name, "stale") for name in REMOVED), *kept]:
        if guest.kind(f"/{name}") == "file":
            yield Leftover(
                code="BS1144",
                rule=rule,
                where=f"/{name}",
                names=(),
                symptom="LVM, or the next grub-install, believes in the old machine's disks",
                fatal=False,
            )
    if guest.kind(RECORD) and needs_labels(guest):
        # Whether it has booted and relabelled since cannot be seen from outside: told, and not fatal.
        yield Leftover(
            code="BS1149",
            rule="relabel",
            where="/.autorelabel",
            names=(),
            symptom="unless it has booted since: files that the repair wrote have no label, and SELinux may deny them",
            fatal=False,
        )


def _boot_symptom(symptom: str, text: str, names: list[str]) -> str:
    if not names and "rd.lvm=0" not in text and "root=" in text:
        return "dracut's initramfs may wait for the old volumes: a hang in dracut-initqueue"
    return symptom


def leftovers(
    text: str, aliases: AliasMap, *, forms: bool = True, others: frozenset[str] = frozenset()
) -> list[str]:
    """Names of volumes in the lines that count.

    Args:
        forms: also those that look like a volume's, whatever it is.
        others: paths that look so, and are none that was flattened.
    """
    lines = [line for line in text.splitlines() if not _COMMENT.match(line)]
    counted = "\n".join(lines)
    found = dict.fromkeys(aliases.leftovers(counted))
    if forms:
        found.update(dict.fromkeys(hit[0] for hit in _FORMS.finditer(counted) if hit[0] not in others))
    return list(found)


def looks_like_volume(device: str) -> bool:
    """Whether a device's path has the form of a volume's; a number alone tells no volume from another."""
    return _FORMS.fullmatch(device) is not None and not device.startswith("/dev/dm-")


def opened_names(guest: Guest) -> frozenset[str]:
    """The devices that crypttab makes; ``luks-UUID`` reads like a group and a volume."""
    text = (guest.read("/etc/crypttab", _MOST_FSTAB_BYTES) or b"").decode("utf-8", "surrogateescape")
    return frozenset(f"/dev/mapper/{line.split()[0]}" for line in text.splitlines() if line.strip())
