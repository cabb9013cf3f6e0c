"""Whether a disk here is what a receiver writes to, found out without naming it.

A sender does not see what a receiver holds, and a stranger must not learn it. Where both are on one machine they know
what nobody else does: the number that the kernel drew when it booted. Keyed with it, the numbers of a disk and of what
it stands on become marks that only somebody on the same kernel can make or recognise.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator

from blocksync.platforms import boot_key, storage

NONCE_BYTES = 8
MARK_BYTES = 8
# All of it fits a text field of a message. What a disk itself is comes first, then what it stands on.
MOST_MARKS = 48
_MACHINE = (0, 0)  # the numbers of no device and no file
_MARKS = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}(:[il][0-9a-f]{{{2 * MARK_BYTES}}}){{1,{MOST_MARKS}}}")


def storages(names: Iterable[str]) -> Iterator[os.stat_result]:
    """What sources stand on.

    Args:
        names: of sources: ``PATH``, or ``PATH[,PATH…]#PLACE``; what is no path is left out.
    """
    for name in names:
        for path in [name] if os.path.exists(name) else name.rpartition("#")[0].split(","):
            with contextlib.suppress(OSError, ValueError):
                yield os.stat(path)


def marks_of(names: Iterable[str]) -> str:
    """Marks of sources for a receiver that may be on this machine; empty where there is nothing to mark."""
    key = boot_key()
    if not key:
        return ""
    nonce = secrets.token_bytes(NONCE_BYTES)
    itself: set[tuple[int, int]] = set()
    layers: set[tuple[int, int]] = set()
    for status in storages(names):
        its, under = storage(status)
        itself |= its
        layers |= under
    marks = [f"i{_mark(key, nonce, each)}" for each in sorted(itself)]
    marks += [f"l{_mark(key, nonce, each)}" for each in sorted(layers - itself)]
    return ":".join([nonce.hex(), *marks[:MOST_MARKS]]) if marks else ""


def marks_of_machine() -> str:
    """A mark of this machine as such, for :func:`same_machine`."""
    key, nonce = boot_key(), secrets.token_bytes(NONCE_BYTES)
    return f"{nonce.hex()}:i{_mark(key, nonce, _MACHINE)}" if key else ""


def same_machine(marks: str) -> bool:
    """Whether they were made by :func:`marks_of_machine` under the kernel that runs here."""
    key = boot_key()
    if not key or not _MARKS.fullmatch(marks):
        return False
    first, mark = marks.split(":")[:2]
    return mark == f"i{_mark(key, bytes.fromhex(first), _MACHINE)}"


def recognised(marks: str, status: os.stat_result) -> bool:
    """Whether the marks are of this storage, of what stands on it, or of what it stands on; False for no marks."""
    key = boot_key()
    if not key or not _MARKS.fullmatch(marks):
        return False
    first, *each = marks.split(":")
    nonce = bytes.fromhex(first)
    itself = {mark[1:] for mark in each if mark[0] == "i"}
    its, under = storage(status)
    if itself & {_mark(key, nonce, one) for one in under}:
        return True
    return bool({mark[1:] for mark in each} & {_mark(key, nonce, one) for one in its})


def _mark(key: bytes, nonce: bytes, number: tuple[int, int]) -> str:
    said = b"%d:%d" % number
    return hashlib.blake2b(said, digest_size=MARK_BYTES, key=key, salt=nonce).hexdigest()
