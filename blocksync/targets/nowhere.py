"""A target that takes everything and keeps nothing: for rehearsals where nothing may be written."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.extents import Extent, ExtentKind
from blocksync.targets.base import Target, TargetCapabilities


class NowhereTarget(Target):
    """Reads as zeros, whatever was written.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.name = self.identity = "nowhere"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = TargetCapabilities(alignment=1, fresh=True, extents=True, durable=False)

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size, ExtentKind.HOLE)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        del offset
        buffer[:] = bytes(len(buffer))

    def write(self, offset: int, data: memoryview) -> None:
        pass

    def zero(self, offset: int, length: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def reopen(self) -> None:
        pass

    def write_mark(self) -> str:
        return ""

    def close(self) -> None:
        pass
