"""GRUB's own files: grub.cfg and what it includes, the environment block, and boot loader entries (BLS).

The environment block is 1024 bytes: a comment of one or more lines, ``name=value`` lines, and ``#`` to the end
(GRUB's manual, "GRUB environment block"); GRUB writes it in place, so its length never changes.
"""

from __future__ import annotations

import re

from blocksync.errors import GuestFileError
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.arguments import edit_arguments, names_root, words_for
from blocksync.flatten.configuration import by_line

ENVIRONMENT_BYTES = 1024
_HEADER = "# GRUB Environment Block\n"
_KERNEL = re.compile(
    r"^(\s*(?:linux|linux16|linuxefi|linux_xen|module|module2|kernel|append|APPEND)\s)(.*)$", re.DOTALL
)
_OPTIONS = re.compile(r"""^(\s*set\s+(?:default_)?kernelopts=)(["'])(.*)\2(\s*)$""", re.DOTALL)
_ENTRY = re.compile(r"^(\s*options\s+)(.*)$", re.DOTALL)


def edit_grub_cfg(text: str, aliases: AliasMap, *, words: tuple[str, ...]) -> str:
    """``grub.cfg``, ``custom.cfg``, extlinux.conf: command lines, ``set root=``, hints and ``(lvmid/…)`` paths."""

    def edit(line: str) -> str:
        kernel = _KERNEL.match(line)
        if kernel is not None:
            line = kernel[1] + _edit_line(kernel[2], aliases, words)
        options = _OPTIONS.match(line)
        if options is not None:
            line = options[1] + options[2] + _edit_line(options[3], aliases, words) + options[2] + options[4]
        return aliases.replace_grub(line)

    return by_line(text, edit)


def _edit_line(arguments: str, aliases: AliasMap, words: tuple[str, ...]) -> str:
    # A memory tester's or hypervisor's line has no root, and no initramfs.
    wanted = words_for(arguments, words) if names_root(arguments) else ()
    return edit_arguments(arguments, aliases, words=wanted)


def edit_entry(text: str, aliases: AliasMap, *, words: tuple[str, ...]) -> str:
    """A boot loader entry (``loader/entries/*.conf``); options in variables stay there."""

    def edit(line: str) -> str:
        found = _ENTRY.match(line)
        return found[1] + _edit_line(found[2], aliases, words) if found else line

    return by_line(text, edit)


def edit_environment(text: str, aliases: AliasMap, *, words: tuple[str, ...]) -> str:
    """The environment block, padded anew to its length.

    Raises:
        GuestFileError: it is none, or it would no longer fit.
    """
    size = len(text.encode("utf-8", "surrogateescape"))
    if not text.startswith(_HEADER) or size > ENVIRONMENT_BYTES:
        raise GuestFileError(
            "a grubenv is no GRUB environment block", remedy="make it anew: grub-editenv grubenv create"
        )
    lines = text.rstrip("#").splitlines(keepends=True)
    edited: list[str] = []
    for line in lines:
        name, equals, value = line.partition("=")
        if line.startswith("#") or not equals:
            edited.append(line)
        elif name.endswith("kernelopts") or names_root(value):
            end = "\n" if value.endswith("\n") else ""
            edited.append(f"{name}={_edit_line(value.removesuffix(chr(10)), aliases, words)}{end}")
        else:
            edited.append(aliases.replace_grub(aliases.replace_paths(line)))
    joined = "".join(edited)
    used = len(joined.encode("utf-8", "surrogateescape"))
    if used > ENVIRONMENT_BYTES:
        raise GuestFileError(
            f"a grubenv would need {used} bytes with its volumes renamed, and has {ENVIRONMENT_BYTES}",
            remedy="shorten its kernelopts on the source: grub2-editenv - set kernelopts=…",
        )
    return joined + "#" * (ENVIRONMENT_BYTES - used)
