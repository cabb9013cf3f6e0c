"""What providers print is read or refused; dirty bitmaps of a real server drive real passes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync import api
from blocksync.changes.cow import ranges
from blocksync.changes.era import parse_blocks
from blocksync.changes.thin import parse_delta
from blocksync.changes.xml import elements
from blocksync.errors import ChangesUnknownError
from blocksync.extents import Extent
from blocksync.options import CopyOptions
from blocksync.results import SendResult
from tests.devices import run
from tests.nbd.servers import qemu_nbd

MIB = 1 << 20
KIB64 = 64 << 10

# As thin_delta 0.9 prints it.
DELTA = """<superblock uuid="" time="1" transaction="2" data_block_size="128" nr_data_blocks="0">
  <diff left="1" right="2">
    <same begin="0" length="2"/>
    <different begin="2" length="1"/>
    <right_only begin="3" length="2"/>
    <left_only begin="9" length="1"/>
  </diff>
</superblock>
"""
ERAS = """<blocks>
  <block block="1"/>
  <range begin="4" end = "6"/>
</blocks>
"""


def test_a_delta_of_thin_volumes_is_read() -> None:
    assert list(parse_delta(DELTA, 10 * KIB64 - 512)) == [
        Extent(2 * KIB64, 3 * KIB64),
        Extent(9 * KIB64, KIB64 - 512),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        '<superblock data_block_size="128">\n</superblock>',
        DELTA.replace("128", "x"),
        DELTA.replace("data_block_size", "other"),
        DELTA.replace('begin="9"', 'begin="10"'),
        DELTA.replace('begin="3"', 'begin="1"'),
        DELTA.replace('length="1"', 'length="0"'),
        DELTA.replace("<same", "<other"),
        DELTA.replace("<diff", "<!DOCTYPE x><diff"),
        DELTA + "Killed",
    ],
)
def test_what_is_no_delta_is_refused(text: str) -> None:
    with pytest.raises(ChangesUnknownError):
        list(parse_delta(text, 10 * KIB64))


def test_eras_are_read_and_their_ranges_end_before_the_end() -> None:
    assert list(parse_blocks(ERAS, 4096, 5 * 4096 + 512)) == [Extent(4096, 4096), Extent(4 * 4096, 4096 + 512)]
    assert list(parse_blocks("<blocks>\n</blocks>\n", 4096, MIB)) == []
    for wrong in ("", ERAS.replace('"1"', '"5"'), ERAS.replace('"4"', '"6"'), ERAS.replace('"4"', '"600"')):
        with pytest.raises(ChangesUnknownError):
            list(parse_blocks(wrong, 4096, 6 * 4096))


@given(st.text(max_size=200))
def test_any_text_is_elements_or_a_typed_error(text: str) -> None:
    try:
        list(elements(text))
    except ChangesUnknownError:
        return


def test_chunks_are_joined_and_cut_at_the_end() -> None:
    assert list(ranges([0, 1, 5], 4096, 5 * 4096 + 512)) == [Extent(0, 8192), Extent(5 * 4096, 512)]
    assert list(ranges([], 4096, MIB)) == []
    with pytest.raises(ChangesUnknownError, match="beyond"):
        list(ranges([9], 4096, 4096))


# -- NBD
# ----------------------------------------------------------------------------------------------------------------


class Image:
    """A qcow2 image with a bitmap; written by qemu-io, sent while qemu-nbd exports it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "disk.qcow2"
        self.raw = folder / "raw.img"
        raw = random.Random(3).randbytes(32 * MIB)
        self.raw.write_bytes(raw)
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.path)

    def bitmap(self, name: str, what: str = "--add") -> None:
        run("qemu-img", "bitmap", what, *(["-g", "64K"] if what == "--add" else []), self.path, name)

    def write(self, *places: int) -> None:
        for place in places:
            run("qemu-io", "-f", "qcow2", "-c", f"write -P {place % 251} {place * KIB64} 64K", self.path)

    def send(self, *bitmaps: str, words: str = "") -> SendResult:
        more = [f"--bitmap={name}" for name in bitmaps]
        with qemu_nbd(self.folder, self.path, "--read-only", *more, image_format="qcow2") as at:
            # The socket has another name each time; a production server's stays.
            fixed = self.folder / "fixed.sock"
            fixed.unlink(missing_ok=True)
            fixed.symlink_to(at.partition("socket=")[2])
            address = f"nbd+unix:///?socket={fixed}{words}"
            options = CopyOptions(create=True, state_dir=self.folder / "state")
            return api.copy(address, str(self.folder / "target.img"), options)

    def same(self) -> bool:
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, self.raw)
        return self.raw.read_bytes() == (self.folder / "target.img").read_bytes()


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def test_a_bitmap_that_was_there_is_gone_by(image: Image) -> None:
    image.bitmap("since")
    assert image.send("since", words="&bitmap=since").tracker == ""
    image.write(7, 100, 101, *range(300, 340))
    result = image.send("since", words="&bitmap=since")
    assert result.tracker == "nbd-bitmap"
    assert 43 * KIB64 < result.read <= 2 * 43 * KIB64
    assert image.same()
    # It goes on recording from its beginning: more than needed, never less.
    image.write(50)
    assert image.send("since", words="&bitmap=since").tracker == "nbd-bitmap"
    assert image.same()


def test_checkpoints_that_fit_are_gone_by_and_others_are_not(image: Image) -> None:
    image.bitmap("one")
    image.send(words="&bitmap=none&checkpoint=monday")
    image.write(9)
    tuesday = image.send("one", words="&bitmap=one&since=monday&checkpoint=tuesday")
    assert tuesday.tracker == "nbd-bitmap"
    image.bitmap("two")
    image.write(10)
    # A pass was left out: this bitmap does not reach back to what the target holds.
    assert image.send("two", words="&bitmap=two&since=wednesday&checkpoint=thursday").tracker == ""
    assert image.same()


def test_a_bitmap_that_began_later_or_is_not_there_is_not_gone_by(image: Image) -> None:
    image.bitmap("old")
    image.send("old", words="&bitmap=old")
    image.write(11)
    image.bitmap("new")
    assert image.send("old", "new", words="&bitmap=new").tracker == ""
    assert image.same()
    image.bitmap("old", "--remove")
    assert image.send("new", words="&bitmap=old").tracker == ""


def test_a_bitmap_that_was_cleared_behind_our_back_is_found_out(image: Image) -> None:
    image.bitmap("since")
    image.send("since", words="&bitmap=since")
    # Three quarters of the disk, so that the sample cannot miss it but once in four thousand million times.
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 24M", image.path)
    image.bitmap("since", "--clear")
    assert image.send("since", words="&bitmap=since").tracker == ""
    assert image.same()
