"""A simulated source: a disk in memory that somebody goes on writing to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from blocksync.errors import SourceError
from blocksync.extents import Extent, ExtentKind
from blocksync.sources.base import Source, SourceCapabilities

PAGE = 4096


class ChangingSource(Source):
    """Args:
    content: of the disk.
    on_read: told of each read before it happens; returns "failed" for an error.
    holes: whether pages of zeros are told as holes.
    """

    name = "simulated"
    identity = "simulated"
    sector_bytes = 512

    def __init__(self, content: bytearray, on_read: Callable[[], str], *, holes: bool) -> None:
        self.content = content
        self.size = len(content)
        self.capabilities = SourceCapabilities(extents=holes, direct=False, alignment=1)
        self.quiet = False
        self._on_read = on_read
        self._holes = holes

    def extents(self) -> Iterator[Extent]:
        if not self._holes:
            yield Extent(0, self.size)
            return
        for at in range(0, self.size, PAGE):
            length = min(PAGE, self.size - at)
            empty = not any(self.content[at : at + length])
            yield Extent(at, length, ExtentKind.HOLE if empty else ExtentKind.DATA)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._on_read() == "failed":
            raise SourceError("simulated failure of a read")
        buffer[:] = self.content[offset : offset + len(buffer)]

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def content(chance: random.Random, size: int) -> bytearray:
    """A disk with zeros, noise and text."""
    parts = b"".join(_page(chance) for _ in range(-(-size // PAGE)))
    return bytearray(parts[:size])


def rewrite(chance: random.Random, disk: bytearray) -> None:
    """Write a few pages, as production does."""
    pages = -(-len(disk) // PAGE)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(pages) * PAGE
        end = min(at + PAGE, len(disk))
        disk[at:end] = _page(chance)[: end - at]


def _page(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.3:
        return bytes(PAGE)
    if kind < 0.8:
        return chance.randbytes(PAGE)
    return chance.randbytes(16) * (PAGE // 16)
