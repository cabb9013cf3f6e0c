"""A disk with bad sectors: what can be read is read, the rest is zeros, and each lost sector is told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from blocksync.api import CopyOptions, copy
from blocksync.errors import SourceError, UnreadableError
from blocksync.sources import rescue
from blocksync.sources.memory import MemorySource
from blocksync.sources.rescue import TRIES, RescueSource

SIZE = 4 << 20
SECTOR = 512


class FailingSource(MemorySource):
    """Some sectors cannot be read, each of them for so many tries."""

    def __init__(self, bad: dict[int, int]) -> None:
        super().__init__(SIZE)
        self.write(0, random.Random(7).randbytes(SIZE))
        self.bad = dict(bad)
        self.tries: dict[int, int] = {}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for sector in self.bad:
            if offset < sector + SECTOR and sector < offset + len(buffer):
                if len(buffer) == SECTOR:
                    self.tries[sector] = self.tries.get(sector, 0) + 1
                if self.tries.get(sector, 0) <= self.bad[sector]:
                    raise UnreadableError(f"cannot read at offset {sector}: Input/output error")
        super().read_into(offset, buffer)

    def content(self) -> bytes:
        content = bytearray(SIZE)
        super().read_into(0, memoryview(content))
        return bytes(content)


def read_all(source: RescueSource, length: int = 1 << 20) -> bytes:
    content = bytearray(source.size)
    for offset in range(0, source.size, length):
        source.read_into(offset, memoryview(content)[offset : offset + length])
    return bytes(content)


def test_all_but_the_bad_sectors_is_read_and_neighbours_are_joined() -> None:
    bad = [0, 5 * 4096 + SECTOR, 5 * 4096 + 2 * SECTOR, (1 << 20) - SECTOR, 1 << 20, SIZE - SECTOR]
    source = FailingSource(dict.fromkeys(bad, 99))
    rescued = RescueSource(source)
    expected = bytearray(source.content())
    for sector in bad:
        expected[sector : sector + SECTOR] = bytes(SECTOR)
    assert read_all(rescued) == expected
    assert rescued.unreadable() == (
        (0, SECTOR),
        (5 * 4096 + SECTOR, 2 * SECTOR),
        ((1 << 20) - SECTOR, 2 * SECTOR),
        (SIZE - SECTOR, SECTOR),
    )


def test_a_sector_that_comes_back_is_not_lost() -> None:
    source = FailingSource({8192: TRIES - 1})
    rescued = RescueSource(source)
    assert read_all(rescued) == source.content()
    assert rescued.unreadable() == ()
    assert source.tries[8192] == TRIES


def test_only_a_failing_medium_is_gone_on_after() -> None:
    source = FailingSource({})

    def shrunk(_offset: int, _buffer: memoryview) -> None:
        raise SourceError("the source has shrunk")

    source.read_into = shrunk  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="shrunk"):
        read_all(RescueSource(source))


def test_a_dying_disk_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescue, "MAX_RANGES", 10)
    source = FailingSource(dict.fromkeys(range(0, 12 * SECTOR, SECTOR), 99))
    with pytest.raises(SourceError, match="more than 10 sectors") as told:
        read_all(RescueSource(source))
    assert not isinstance(told.value, UnreadableError)


def test_a_pass_stops_by_default_and_goes_on_when_asked(tmp_path: Path) -> None:
    source = FailingSource({70_000 // SECTOR * SECTOR: 99})
    target = tmp_path / "target.img"
    with pytest.raises(UnreadableError) as told:
        copy(source, str(target), CopyOptions(create=True, state_dir=tmp_path / "state"))
    assert "--rescue" in told.value.remedy
    result = copy(source, str(target), CopyOptions(rescue=True, state_dir=tmp_path / "state"))
    lost = 70_000 // SECTOR * SECTOR
    assert result.unreadable == ((lost, SECTOR),)
    expected = bytearray(source.content())
    expected[lost : lost + SECTOR] = bytes(SECTOR)
    assert target.read_bytes() == expected
    source.bad.clear()
    mended = copy(source, str(target), CopyOptions(rescue=True, state_dir=tmp_path / "state"))
    assert mended.unreadable == ()
    assert 0 < mended.changed < 8192, "one page, and its place"
    assert target.read_bytes() == source.content()
