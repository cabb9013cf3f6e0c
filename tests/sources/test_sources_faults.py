"""Sources that are missing, forbidden, wrong, or change while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blocksync.errors import SourceError
from blocksync.sources import open_source
from tests.devices import image, loop_device, need_root

MIB = 1 << 20


@pytest.mark.parametrize("make", ["missing", "folder", "empty", "character device", "dangling link"])
def test_what_is_no_disk_is_refused_with_a_remedy(tmp_path: Path, make: str) -> None:
    path = tmp_path / "it"
    if make == "folder":
        path.mkdir()
    elif make == "empty":
        path.write_bytes(b"")
    elif make == "character device":
        path = Path("/dev/null")
    elif make == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SourceError) as told:
        open_source(str(path))
    assert str(path) in told.value.message
    assert told.value.remedy


def test_a_file_that_shrinks_while_it_is_read_is_an_error_not_zeros(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", 4 * MIB, b"x" * 4 * MIB)
    with open_source(str(path)) as source:
        os.truncate(path, MIB)
        with pytest.raises(SourceError, match="shrunk"):
            source.read_into(MIB, memoryview(bytearray(4096)))
        with pytest.raises(SourceError, match="changed its size"):
            source.check()


def test_a_file_that_grows_is_told_at_the_end(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img", MIB, b"x" * MIB)
    with open_source(str(path)) as source:
        os.truncate(path, 2 * MIB)
        assert sum(extent.length for extent in source.extents()) == MIB
        with pytest.raises(SourceError, match="changed its size"):
            source.check()


def test_a_device_that_shrinks_is_told(tmp_path: Path) -> None:
    need_root()
    path = image(tmp_path / "disk.img", 4 * MIB, b"x" * 4 * MIB)
    with loop_device(path) as device, open_source(device) as source:
        assert source.capabilities.direct
        os.truncate(path, MIB)
        os.system(f"losetup --set-capacity {device}")
        with pytest.raises(SourceError):
            source.read_into(2 * MIB, memoryview(bytearray(1 << 20))[:4096])
        with pytest.raises(SourceError, match="changed"):
            source.check()


def test_the_identity_is_of_the_place_and_the_same_each_time(tmp_path: Path) -> None:
    one, two = image(tmp_path / "one.img", MIB), image(tmp_path / "two.img", MIB)
    link = tmp_path / "link"
    link.symlink_to(one)
    with open_source(str(one)) as a, open_source(str(two)) as b, open_source(str(link)) as c:
        assert a.identity == c.identity
        assert a.identity != b.identity


def test_the_holes_of_a_large_sparse_file_are_found_without_reading_it(tmp_path: Path) -> None:
    path = image(tmp_path / "huge.img", 1 << 40, b"x" * 4096)
    with open_source(str(path)) as source:
        extents = list(source.extents())
    assert len(extents) == 2
    assert extents[1].reads_as_zeros
    assert extents[1].end == 1 << 40
