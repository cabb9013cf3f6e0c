"""Places inside disk images as sources: names, identities, faults, and a whole transfer of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.api import CopyOptions, copy
from blocksync.errors import LayoutError, SourceError, UnreadableError, UsageError, VolumeMissingError
from blocksync.extents import ExtentKind
from blocksync.sources import open_source
from blocksync.sources.disk import FileSource
from blocksync.sources.rescue import RescueSource
from blocksync.sources.volume import VolumeSource
from blocksync.volumes.reader import Composite, Reader, Run
from tests.devices import image, run

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = image(tmp_path / "disk.img", 64 * MIB)
    script = "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=16384\n"
    script += "start=20480, size=65536, type=5\nstart=22528, size=8192\n"
    run("sfdisk", "-q", path, text=script)
    with path.open("r+b") as file:
        for at in (1, 11):
            file.seek(at * MIB)
            file.write(b"partition at %d MiB" % at)
    return path


def test_a_partition_has_the_identity_of_its_table_and_its_number(disk: Path) -> None:
    with open_source(f"{disk}#1") as first, open_source(f"{disk}#5") as fifth:
        assert first.identity == "partition:mbr:1234abcd:1"
        assert (first.size, fifth.size) == (8 * MIB, 4 * MIB)
        assert first.name == f"{disk}#1"
        buffer = memoryview(bytearray(512))
        fifth.read_into(0, buffer)
        assert bytes(buffer).startswith(b"partition at 11 MiB")
        kinds = [extent.kind for extent in fifth.extents()]
        assert kinds == [ExtentKind.DATA, ExtentKind.HOLE]


def test_what_is_not_there_is_told_with_what_is(disk: Path) -> None:
    for place in ("3", "vg0/root"):
        with pytest.raises(VolumeMissingError) as caught:
            open_source(f"{disk}#{place}")
        assert "inspect" in caught.value.remedy
    with pytest.raises(VolumeMissingError, match="extended"):
        open_source(f"{disk}#2")
    with pytest.raises(UsageError, match="neither"):
        open_source(f"{disk}#root")
    with pytest.raises(UsageError, match="which disk"):
        open_source(f"{disk},{disk}#1")
    with pytest.raises(SourceError):
        open_source(f"{disk}.not#1")


def test_a_file_whose_name_has_a_hash_is_that_file(tmp_path: Path) -> None:
    path = image(tmp_path / "disk#1", MIB)
    with open_source(str(path)) as source:
        assert source.identity == f"file:{path}"


def test_a_layout_that_changes_meanwhile_is_noticed(disk: Path) -> None:
    with open_source(f"{disk}#1") as source:
        source.check()
        with disk.open("r+b") as file:
            file.seek(446 + 12)
            file.write((8192).to_bytes(4, "little"))
        with pytest.raises(SourceError, match="layout"):
            source.check()


def test_a_partition_is_copied_as_a_disk_is(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.img"
    options = CopyOptions(create=True, state_dir=tmp_path / "state")
    result = copy(f"{disk}#1", str(target), options)
    assert result.size == 8 * MIB
    assert target.read_bytes() == disk.read_bytes()[MIB : 9 * MIB]
    again = copy(f"{disk}#1", str(target), CopyOptions(state_dir=tmp_path / "state"))
    assert (again.kind, again.changed) == ("incremental", 0)


def test_damage_is_a_layout_error(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(446 + 8)
        file.write(b"\xff\xff\xff\x7f")
    with pytest.raises(LayoutError):
        open_source(f"{disk}#1")


class Worn(FileSource):
    """Two sectors cannot be read: one of the first partition, and one of what lies between it and the next."""

    bad = (1 * MIB + 4096, 9 * MIB + 512)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if any(offset < each + 512 and each < offset + len(buffer) for each in self.bad):
            raise UnreadableError("cannot read: Input/output error")
        super().read_into(offset, buffer)


def test_what_a_disk_lost_is_told_of_the_volume_that_it_belonged_to(disk: Path) -> None:
    rescued = RescueSource(Worn(str(disk)))
    rescued.read_into(0, memoryview(bytearray(12 * MIB)))
    assert rescued.unreadable() == ((1 * MIB + 4096, 512), (9 * MIB + 512, 512))
    with VolumeSource([rescued], "1") as first, VolumeSource([rescued], "5") as fifth:
        assert first.unreadable() == ((4096, 512),)
        assert fifth.unreadable() == ()


class InPieces(Composite):
    """A MiB of which the first sectors were lost, a hole, and two pages around another lost sector."""

    size = 2 * MIB + 8192

    def __init__(self, disk: Reader) -> None:
        self._disk = disk

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        assert (offset, length) == (0, self.size)
        yield from ((self._disk, 9 * MIB + 256, MIB), (None, 0, MIB), (self._disk, MIB, 8192))


def test_what_a_disk_lost_is_told_in_the_order_of_the_volume(disk: Path) -> None:
    rescued = RescueSource(Worn(str(disk)))
    rescued.read_into(0, memoryview(bytearray(12 * MIB)))
    with VolumeSource([rescued], "1") as volume:
        ((_, reader),) = volume._named
        pieces = InPieces(reader)
        volume._reader, volume.size = pieces, pieces.size
        assert volume.unreadable() == ((256, 512), (2 * MIB + 4096, 512))
