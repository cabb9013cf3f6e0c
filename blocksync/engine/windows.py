"""Which ranges a verify compares, and which pages of them it leaves out since no file uses them.

Both ends hash pages that are left out as zeros, without reading them. Where there are any, 256 MiB are compared by one
request, whose marks fit a message; ranges without any are compared by one request, however long they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import ProtocolError
from blocksync.extents import Extent, ExtentKind, align, split
from blocksync.geometry import PAGE_BYTES
from blocksync.volumes.bitmaps import set_runs

WINDOW_BYTES = 256 << 20
_MARKED_BYTES = 8 * PAGE_BYTES  # what a byte of marks speaks of


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A range to compare.

    Args:
        skip: marks of pages, as in :class:`~blocksync.protocol.messages.VerifyRequest`; empty for none.
        skipped: bytes of those pages.
    """

    offset: int
    length: int
    skip: bytes = b""
    skipped: int = 0

    def part(self, offset: int, length: int) -> Window:
        """A part of it; where it has marks, ``offset`` lies on one of their bytes, as every piece does."""
        if not self.skip:
            return Window(offset=offset, length=length)
        first = (offset - self.offset) // _MARKED_BYTES
        return Window(offset=offset, length=length, skip=self.skip[first : first - (-length // _MARKED_BYTES)])


def windows(extents: Iterator[Extent], size: int) -> Iterator[Window]:
    """The ranges to compare, in order, covering the disk.

    Args:
        extents: of the source, covering ``[0, size)``.
    """
    plain = 0  # the start of a run of windows without marks
    for window in _marked(align(extents, PAGE_BYTES, size), size):
        if not window.skipped:
            continue
        if window.offset > plain:
            yield Window(offset=plain, length=window.offset - plain)
        yield window
        plain = window.offset + window.length
    if plain < size:
        yield Window(offset=plain, length=size - plain)


def _marked(extents: Iterator[Extent], size: int) -> Iterator[Window]:
    at, bits, skipped = 0, 0, 0
    for extent in extents:
        for piece in split(extent, WINDOW_BYTES):
            if piece.kind is ExtentKind.UNUSED:
                pages = -(-piece.length // PAGE_BYTES)
                bits |= ((1 << pages) - 1) << (piece.offset - at) // PAGE_BYTES
                skipped += piece.length
            if piece.end % WINDOW_BYTES == 0 or piece.end == size:
                length = piece.end - at
                marks = bits.to_bytes(-(-length // _MARKED_BYTES), "little") if skipped else b""
                yield Window(offset=at, length=length, skip=marks, skipped=skipped)
                at, bits, skipped = piece.end, 0, 0


class Marks:
    """Pages to leave out, by offsets from the start of a range.

    Args:
        skip: of the request.
        length: of the range.

    Raises:
        ProtocolError: there are more marks than the range has pages.
    """

    def __init__(self, skip: bytes, length: int) -> None:
        if len(skip) > -(-length // _MARKED_BYTES):
            raise ProtocolError("a verify marks more pages than its range has")
        self._bits = int.from_bytes(skip, "little")

    def _of(self, offset: int, length: int) -> tuple[int, int]:
        pages = -(-length // PAGE_BYTES)
        return (self._bits >> offset // PAGE_BYTES) & ((1 << pages) - 1), pages

    def all(self, offset: int, length: int) -> bool:
        """Whether every page of ``[offset, offset + length)`` is left out."""
        if not self._bits:
            return False
        bits, pages = self._of(offset, length)
        return bits == (1 << pages) - 1

    def wanted(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """``(start, end)`` of what is not left out of ``[offset, offset + length)``, counted from ``offset``."""
        bits, pages = self._of(offset, length)
        if not bits:
            yield 0, length
            return
        wanted = ~bits & ((1 << pages) - 1)
        for start, end in set_runs(wanted.to_bytes(-(-pages // 8), "little"), pages):
            yield start * PAGE_BYTES, min(end * PAGE_BYTES, length)
