"""``pattern:SIZE[:SEED]``: a disk whose content follows from its offset; every third MiB is a hole.

A source has to say what it is (``identity``), how large it is, and to fill buffers, from several threads at once. What
its obligations are in full stands in :class:`blocksync.sources.base.Source`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from blocksync.errors import SourceError
from blocksync.extents import Extent, ExtentKind
from blocksync.sources.base import Source, SourceCapabilities

MIB = 1 << 20
UNITS = {"K": 10, "M": 20, "G": 30}


class PatternSource(Source):
    """Made content: nothing is stored, so any size costs nothing."""

    def __init__(self, size: int, seed: str) -> None:
        self.name = f"pattern:{size}:{seed}"
        self.identity = self.name
        self.size = size
        self.sector_bytes = 512
        # It never changes: a read of the whole is as of one moment.
        self.capabilities = SourceCapabilities(extents=True, direct=False, alignment=1, consistency="crash")
        self._seed = seed

    def extents(self) -> Iterator[Extent]:
        for offset in range(0, self.size, MIB):
            kind = ExtentKind.HOLE if offset // MIB % 3 == 2 else ExtentKind.DATA
            yield Extent(offset, min(MIB, self.size - offset), kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise SourceError(f"a read leaves {self.name}")
        at = 0
        while at < len(buffer):
            index, start = divmod(offset + at, MIB)
            here = min(MIB - start, len(buffer) - at)
            buffer[at : at + here] = self._mebibyte(index)[start : start + here]
            at += here

    def _mebibyte(self, index: int) -> bytes:
        if index % 3 == 2:
            return bytes(MIB)
        return hashlib.shake_128(f"{self._seed}:{index}".encode()).digest(4096) * (MIB // 4096)

    def check(self) -> None:
        """It cannot have changed."""

    def close(self) -> None:
        """There is nothing to release."""


def open_source(text: str) -> Source:
    """What the entry point names: gets what was typed, whole."""
    _, size, seed = (*text.split(":"), "0")[:3]
    try:
        number = int(size[:-1]) << UNITS[size[-1]] if size[-1:] in UNITS else int(size)
    except ValueError:
        number = 0
    if number <= 0 or number % 512:
        raise SourceError(f"{text} is no pattern", remedy="write pattern:SIZE:SEED, as pattern:64M:7")
    return PatternSource(number, seed)
