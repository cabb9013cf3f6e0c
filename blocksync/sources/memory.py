"""A source in memory: sparse, so that tests can have disks of any size."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.errors import SourceError
from blocksync.extents import Extent, ExtentKind, align
from blocksync.sources.base import Source, SourceCapabilities

PIECE_BYTES = 4096


class MemorySource(Source):
    """Holds pieces of 4 KiB; what was never written reads as zeros and is a hole.

    Args:
        size: bytes.
        name: what a person calls it; also its identity.
    """

    def __init__(self, size: int, name: str = "memory") -> None:
        self.name = name
        self.identity = f"memory:{name}"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = SourceCapabilities(extents=True, direct=False, alignment=1)
        self._pieces: dict[int, bytes] = {}

    def write(self, offset: int, data: bytes) -> None:
        """Change the content, as production does between passes."""
        if offset < 0 or offset + len(data) > self.size:
            raise ValueError("a write leaves the disk")
        at = 0
        while at < len(data):
            index, start = divmod(offset + at, PIECE_BYTES)
            here = min(PIECE_BYTES - start, len(data) - at)
            piece = bytearray(self._pieces.get(index, bytes(PIECE_BYTES)))
            piece[start : start + here] = data[at : at + here]
            self._pieces[index] = bytes(piece)
            at += here

    def extents(self) -> Iterator[Extent]:
        written = (Extent(index * PIECE_BYTES, PIECE_BYTES, ExtentKind.DATA) for index in sorted(self._pieces))
        return align(written, PIECE_BYTES, self.size)

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        for extent in self.extents():
            start, end = max(extent.offset, first), min(extent.end, stop)
            if start < end:
                yield Extent(start, end - start, extent.kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise SourceError(f"a read of {len(buffer)} bytes at {offset} leaves the source {self.name}")
        at = 0
        while at < len(buffer):
            index, start = divmod(offset + at, PIECE_BYTES)
            here = min(PIECE_BYTES - start, len(buffer) - at)
            piece = self._pieces.get(index)
            buffer[at : at + here] = bytes(here) if piece is None else piece[start : start + here]
            at += here

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass
