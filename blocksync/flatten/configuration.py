"""The files of a system that name its volumes: one function a kind, text in, text out.

Each changes only what it must and keeps blanks, comments and order, so that a diff shows the migration and nothing
else. Editing twice changes nothing. GRUB's own files are in :mod:`~blocksync.flatten.grubfiles`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.arguments import NO_LVM, edit_arguments, mentions_lvm, words_for

_FSTAB = re.compile(r"^(\s*)(\S+)(\s+\S+\s+)(\S+)(\s+\S+)?(.*)$", re.DOTALL)
_CRYPTTAB = re.compile(r"^(\s*\S+\s+)(\S+)(.*)$", re.DOTALL)
_KDUMP = re.compile(r"^(\s*(?:ext[234]|xfs|btrfs|minix)\s+)(\S+)(.*)$", re.DOTALL)
_ASSIGNMENT = r"""^(?P<head>[ \t]*(?:export[ \t]+)?(?:{names})\+?=)(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"']*)"""
_EXT = frozenset({"ext2", "ext3", "ext4"})


def by_line(text: str, edit: Callable[[str], str], *, comments: str = "#") -> str:
    """Apply to each line that is neither blank nor a comment; line ends stay."""
    lines = text.splitlines(keepends=True)
    for index, line in enumerate(lines):
        bare = line.strip()
        if bare and bare[0] not in comments:
            body = line.rstrip("\r\n")
            lines[index] = edit(body) + line[len(body) :]
    return "".join(lines)


def edit_fstab(text: str, aliases: AliasMap) -> str:
    """fstab(5): the device, and devices in the options (``x-systemd.requires=``, ``logdev=``)."""
    return by_line(text, lambda line: _edit_fstab_line(line, aliases))


def _edit_fstab_line(line: str, aliases: AliasMap) -> str:
    found = _FSTAB.match(line)
    if found is None:
        return line
    indent, device, where, kind, options, rest = found.groups(default="")
    alias = aliases.find(device)
    if alias is not None and same_kind(kind, alias.filesystem):
        device = alias.tag
    return indent + device + where + kind + edit_names(options, aliases) + rest


def same_kind(said: str, found: str) -> bool:
    """Whether a filesystem of kind ``found`` may be what fstab calls ``said``: a guard for guessed names of disks."""
    if not found or said in ("auto", "none", found):
        return True
    return said in _EXT and found in _EXT


def edit_names(text: str, aliases: AliasMap) -> str:
    """Paths and units, as paths and units by UUID."""
    return aliases.replace_units(aliases.replace_paths(text))


def edit_crypttab(text: str, aliases: AliasMap) -> str:
    """crypttab(5): the device by tag, key files on volumes by path."""

    def edit(line: str) -> str:
        found = _CRYPTTAB.match(line)
        if found is None:
            return line
        name, device, rest = found.groups()
        alias = aliases.find(device)
        return name + (alias.tag if alias is not None else device) + edit_names(rest, aliases)

    return by_line(text, edit)


def edit_unit(text: str, aliases: AliasMap) -> str:
    """systemd.unit(5): ``What=``, and dependencies on devices."""
    return by_line(text, lambda line: edit_names(line, aliases), comments="#;")


def edit_resume(text: str, aliases: AliasMap) -> str:
    """initramfs-tools' ``conf.d``: ``RESUME=`` and ``ROOT=``."""
    return by_line(text, lambda line: aliases.replace_paths(line, tags=True))


def edit_kdump(text: str, aliases: AliasMap) -> str:
    """kdump.conf(5): a filesystem by tag, ``raw`` by path."""

    def edit(line: str) -> str:
        found = _KDUMP.match(line)
        alias = aliases.find(found[2]) if found else None
        if found is None or alias is None:
            return edit_names(line, aliases)
        return found[1] + alias.tag + found[3]

    return by_line(text, edit)


def edit_assigned(
    text: str, aliases: AliasMap, names: str, *, words_in: str = "", words: tuple[str, ...] = ()
) -> str:
    """A file of shell assignments, some of which hold a kernel's command line.

    Args:
        names: a pattern of the variables with command lines.
        words_in: the variable that is to hold ``words``. A line is added where it is missing.
    """
    pattern = re.compile(_ASSIGNMENT.format(names=names), re.MULTILINE)
    held = False

    def edit(hit: re.Match[str]) -> str:
        nonlocal held
        head, value = hit["head"], hit["value"]
        quote = value[:1] if value[:1] in ("'", '"') else ""
        inner = value[1:-1] if quote else value
        variable = head.rstrip("+=").split()[-1]
        wanted = bool(words) and variable == words_in and not held
        held = held or wanted
        inner = edit_arguments(inner, aliases, words=words if wanted else ())
        if not quote and re.search(r"\s", inner):
            quote = '"'
        return head + quote + inner + quote

    text = pattern.sub(edit, text)
    text = by_line(text, lambda line: edit_names(line, aliases))
    if words and not held:
        text += ("\n" if text and not text.endswith("\n") else "") + f'{words_in}="{" ".join(words)}"\n'
    return text


def edit_default_grub(text: str, aliases: AliasMap, *, words: tuple[str, ...]) -> str:
    """``/etc/default/grub``: what ``grub-mkconfig`` makes the next grub.cfg from."""
    # A resume device is none of its business: the system's next initramfs knows it.
    wanted = NO_LVM in words or _asks_lvm(text, r"GRUB_CMDLINE_\w+")
    more = (NO_LVM,) if wanted else ()
    return edit_assigned(text, aliases, r"GRUB_CMDLINE_\w+", words_in="GRUB_CMDLINE_LINUX", words=more)


def edit_default_grub_part(text: str, aliases: AliasMap) -> str:
    """``/etc/default/grub.d/*.cfg``: the same, but ``rd.lvm=0`` has its place in the main file."""
    return edit_assigned(text, aliases, r"GRUB_CMDLINE_\w+")


def edit_dracut(text: str, aliases: AliasMap) -> str:
    """dracut.conf(5): what is compiled into the next initramfs."""
    return edit_assigned(text, aliases, "kernel_cmdline")


def edit_sysconfig(text: str, aliases: AliasMap) -> str:
    """SUSE's ``/etc/sysconfig/bootloader`` and kdump's: variables that end in APPEND or hold a command line."""
    return edit_assigned(text, aliases, r"\w*APPEND|\w*COMMANDLINE\w*|KDUMP_CMDLINE\w*")


def edit_command_line(text: str, aliases: AliasMap, *, words: tuple[str, ...]) -> str:
    """``/etc/kernel/cmdline``: nothing but a command line."""
    return edit_arguments(text, aliases, words=words_for(text, words))


def _asks_lvm(text: str, names: str) -> bool:
    pattern = re.compile(_ASSIGNMENT.format(names=names), re.MULTILINE)
    return any(mentions_lvm(hit["value"].strip("\"'")) for hit in pattern.finditer(text))
