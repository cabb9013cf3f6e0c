"""Dirty bitmaps that an NBD server exports (``qemu:dirty-bitmap:NAME``).

NBD cannot say since when a bitmap records. So one is believed where this side knows: it was listed when the
earlier pass began, so it recorded then already; or whoever runs the backup says at which checkpoint it began
(``since=``), and that is the one the earlier pass was said to read (``checkpoint=``), as in the checkpoints of
libvirt.
"""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.changes.base import Token, Tracker
from blocksync.errors import BlocksyncError, ChangesUnknownError
from blocksync.extents import Extent, merge
from blocksync.nbd.export import Export
from blocksync.nbd.wire import BITMAP_PREFIX, STATE_DIRTY

PROVIDER = "nbd-bitmap"
# Names that a token keeps; a server with more bitmaps of one disk than that is not heard of.
_MOST_NAMES = 64


class BitmapTracker(Tracker):
    """Of an export that is open, with the bitmap's context asked for.

    Args:
        export: open as long as this is used.
    """

    provider = PROVIDER

    def __init__(self, export: Export) -> None:
        self._export = export
        self._address = export.address

    def changed(self, token: Token) -> Iterator[Extent]:
        name = self._address.bitmap
        if token.get("export") != self._address.text:
            raise ChangesUnknownError("the earlier pass read another export")
        listed = token.get("bitmaps", "").split("\n")
        checkpoint = token.get("checkpoint", "")
        if self._address.since:
            if self._address.since != checkpoint:
                before = checkpoint or "no checkpoint"
                raise ChangesUnknownError(
                    f"the bitmap {name} records since {self._address.since}, and the last pass read {before}"
                )
        elif name not in listed:
            raise ChangesUnknownError(f"the bitmap {name} was not there when the last pass began")
        if BITMAP_PREFIX + name not in self._export.agreed.contexts:
            raise ChangesUnknownError(f"the server exports no bitmap {name}")
        return merge(self._dirty(name))

    def _dirty(self, name: str) -> Iterator[Extent]:
        try:
            for offset, length, flags in self._export.status(BITMAP_PREFIX + name, 0, self._export.agreed.size):
                if flags & STATE_DIRTY:
                    yield Extent(offset, length)
        except BlocksyncError as error:
            if error.retryable:
                raise
            raise ChangesUnknownError(f"the bitmap {name} cannot be read: {error.message}") from error

    def token(self) -> Token:
        names = [each.removeprefix(BITMAP_PREFIX) for each in self._export.agreed.listed[:_MOST_NAMES]]
        return {
            "provider": PROVIDER,
            "export": self._address.text,
            "bitmaps": "\n".join(names),
            "checkpoint": self._address.checkpoint,
        }

    def settle(self) -> None:
        """Nothing is kept here: bitmaps are the server's."""
