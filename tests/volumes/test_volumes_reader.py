"""Reading a source as bytes, whatever its alignment."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from blocksync.errors import SourceError
from blocksync.volumes.reader import SourceReader

SIZE = 64 << 10


@dataclass
class Aligned:
    """Reads in units of 4096 bytes, in two goes as a device may; everything from an offset on cannot be read."""

    broken_from: int = SIZE
    size: int = SIZE
    alignment: int = 4096

    @property
    def capabilities(self) -> Aligned:
        return self

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert not offset % self.alignment
        assert not len(buffer) % self.alignment
        half = buffer[: len(buffer) // 2]
        half[:] = bytes(at // 256 % 256 for at in range(offset, offset + len(half)))
        rest = buffer[len(half) :]
        if offset + len(buffer) > self.broken_from:
            raise SourceError("cannot read: Input/output error")
        rest[:] = bytes(at // 256 % 256 for at in range(offset + len(half), offset + len(buffer)))


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (4095, 2), (100, 9000), (SIZE - 1, 1), (0, SIZE), (7, 0)])
def test_any_range_is_read(offset: int, length: int) -> None:
    expected = bytes(at // 256 % 256 for at in range(offset, offset + length))
    assert SourceReader(Aligned()).pread(offset, length) == expected


def test_a_read_that_fails_is_that_error() -> None:
    """Its traceback holds views of the memory that was read into, which therefore must not be closed."""
    with pytest.raises(SourceError, match="Input/output error"):
        SourceReader(Aligned(broken_from=8192)).pread(8000, 1000)
