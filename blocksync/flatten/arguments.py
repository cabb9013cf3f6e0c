"""A kernel's command line, wherever it is kept: word by word, everything else untouched.

A word may hold quoted blanks (``dyndbg="file x +p"``) and shell expansions (``$([ -x … ] && … || :)``); such parts
are carried along as they are. ``rd.lvm=0`` makes dracut's initramfs ignore the volumes that a host-only build has
compiled in; without it the boot hangs in dracut-initqueue.
"""

from __future__ import annotations

import re

from blocksync.flatten.aliases import AliasMap

NO_LVM = "rd.lvm=0"
_WORD = re.compile(r"""(?:[^\s"]|"[^"]*")+|"[^"]*$""")
# dracut.cmdline(7), and its spelling before version 033.
_DROPPED = re.compile(
    r"(?:rd\.lvm\.(?:lv|vg|conf|snapshot|snapsize)|rd_LVM_(?:LV|VG|CONF)|rd_NO_LVM)(?:=|$)|rd\.lvm(?:=1|$)"
)
_TAGGED = frozenset({"root", "resume", "real_root", "real_resume", "mount.usr"})
_ROOT = re.compile(r"(?:^|\s)(?:root|real_root)=")


def names_root(arguments: str) -> bool:
    """Whether it says where the root filesystem is."""
    return _ROOT.search(arguments) is not None


def mentions_lvm(arguments: str) -> bool:
    """Whether it asks dracut for volumes."""
    return any(_DROPPED.match(hit[0]) for hit in _WORD.finditer(arguments))


def words_for(arguments: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words that a command line is to have: one that asks for volumes was made for dracut."""
    return (*words, NO_LVM) if mentions_lvm(arguments) and NO_LVM not in words else words


def edit_arguments(arguments: str, aliases: AliasMap, *, words: tuple[str, ...] = ()) -> str:
    """Name volumes by UUID, drop what asks dracut for LVM.

    Args:
        words: added where there is none of the same key (``rd.lvm=0``, ``resume=UUID=…``).
    """
    lead = ""
    kept: list[str] = []
    at = 0
    for hit in _WORD.finditer(arguments):
        gap, at = arguments[at : hit.start()], hit.end()
        lead = gap if hit.start() == len(gap) else lead
        if _DROPPED.match(hit[0]) or (hit[0] == NO_LVM and NO_LVM in map(str.strip, kept)):
            continue
        # A word that goes takes the blanks before it along; what stood before the first word stays.
        kept.append((gap if kept else lead) + _edit_word(hit[0], aliases))
    result = "".join(kept) or lead
    keys = {word.split("=", 1)[0].strip() for word in kept}
    for word in words:
        if word.split("=", 1)[0] not in keys:
            result += (" " if result.strip() else "") + word
    return result + arguments[at:]


def _edit_word(word: str, aliases: AliasMap) -> str:
    key, equals, value = word.partition("=")
    if equals and key in _TAGGED:
        bare = value.strip("\"'")
        alias = aliases.find(bare)
        if alias is not None:
            return f"{key}={value.replace(bare, alias.tag)}"
    return aliases.replace_paths(word)
