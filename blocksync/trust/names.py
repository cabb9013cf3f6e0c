"""Text that comes from a peer, and the names of slots.

A peer chooses its own display name and some error texts. A terminal obeys what it is shown, so such text goes
through :func:`printable` before a person sees it: escape sequences could repaint the screen, and bidirectional
controls could make one name look like another. What is replaced stays visible as ``\\x1b`` or ``\\u202e``;
nothing is dropped silently.

Slot names are as narrow as they are because they become names of folders in the receiver's state: no separator, no
leading dot, nothing that a shell or a terminal takes for something else. Peers name slots, never paths.
"""

from __future__ import annotations

import re
import unicodedata

from blocksync.errors import BlocksyncError, UsageError

SLOT_NAME_CHARACTERS = 64
"""Longest slot name; every filesystem takes that many, with our suffixes."""
PEER_NAME_CHARACTERS = 64
"""Longest display name kept of a peer; a full host name label has 63."""

_SLOT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

# Combining marks stack without limit and paint over the lines above; no written language needs more in a row.
_MARKS_IN_A_ROW = 4

# Letters and symbols by category, yet nothing to see: they make two different names look the same.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(point) for start, end in ((0xFE00, 0xFE10), (0xE0100, 0xE01F0)) for point in range(start, end)
}


def printable(text: str, limit: int = 200) -> str:
    """Neutralise text from a peer for a terminal, a log line or a table.

    Args:
        text: anything, lone surrogates included.
        limit: longest result in characters, at least 1; what is cut off is marked by an ellipsis.

    Returns:
        one line without control, format, bidirectional, private, unassigned or invisible characters; each of them
        is written as its escape. The result is plain text: whoever prints through a markup language still has
        to quote that language's brackets.
    """
    pieces: list[str] = []
    length = 0
    marks = 0
    for character in text[: limit + 1]:  # no character becomes shorter, so more is never needed
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category == "Zs":
            piece = " "
        elif category[0] == "C" or category in ("Zl", "Zp") or character in _INVISIBLE or marks > _MARKS_IN_A_ROW:
            piece = _escape(character)
        else:
            piece = character
        pieces.append(piece)
        length += len(piece)
        if length > limit:
            break
    if length <= limit:
        return "".join(pieces)
    return _cut(pieces, limit - 1) + "…"


def _escape(character: str) -> str:
    point = ord(character)
    if point <= 0xFF:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point <= 0xFFFF else f"\\U{point:08x}"


def _cut(pieces: list[str], room: int) -> str:
    """Join as many whole pieces as fit: half an escape would read as something else."""
    kept: list[str] = []
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            break
        kept.append(piece)
    return "".join(kept)


def check_slot_name(name: str, *, kind: type[BlocksyncError] = UsageError) -> str:
    """Return the name if it is one for a slot.

    Args:
        name: 1 to 64 of ``A-Z a-z 0-9 . _ -``, not beginning with ``.`` or ``-``.
        kind: the error's class: :class:`~blocksync.errors.UsageError` for what a user typed,
            :class:`~blocksync.errors.ProtocolError` for what a peer sent.

    Raises:
        BlocksyncError: of that kind, quoting the name harmlessly.
    """
    if _SLOT_NAME.fullmatch(name) is None:
        raise kind(
            f"'{printable(name, 80)}' is no slot name",
            remedy=f"use 1 to {SLOT_NAME_CHARACTERS} of A-Z a-z 0-9 '.' '_' '-', not beginning with '.' or '-'",
        )
    return name
