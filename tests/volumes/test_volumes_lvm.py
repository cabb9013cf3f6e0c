"""Volume groups made by lvm2, read through stamped disks: every byte of a volume must come from where lvm2 says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lvm_fixtures import MIB, STAMP_BYTES, Lvm, linear_segment, stamp_disk, stamps, volume_text

from blocksync.errors import (
    LayoutDamagedError,
    LayoutUnknownError,
    VolumeIncompleteError,
    VolumeMissingError,
    VolumeUnsettledError,
)
from blocksync.volumes.lvm_disk import has_label, read_physical_volume
from blocksync.volumes.lvm_groups import Group, find_group, read_groups, read_physical_volumes
from blocksync.volumes.lvm_mapping import open_volume
from blocksync.volumes.reader import FileReader, Reader

Open = Callable[[Path], FileReader]
Disks = Callable[..., "tuple[Lvm, list[Path]]"]


def groups_of(opened: Open, paths: list[Path]) -> list[Group]:
    return read_groups(read_physical_volumes(opened(path) for path in paths))


def make_group(lvm: Lvm, name: str = "vg0", *options: str, devices: slice = slice(None)) -> None:
    chosen = lvm.devices[devices]
    lvm("pvcreate", "-q", "-y", *options, *chosen)
    lvm("vgcreate", "-q", "-s", "1m", name, *chosen)


def stamp_all(paths: list[Path]) -> None:
    for number, path in enumerate(paths):
        stamp_disk(path, number)


def whole(reader: Reader) -> bytes:
    return reader.pread(0, reader.size)


def by_lvm2(lvm: Lvm, volume: str) -> list[tuple[int, list[tuple[int, int]], int]]:
    """``(stripe size, [(device, first extent)…], extents)`` of each segment, as lvm2 reports them."""
    report = json.loads(
        lvm("lvs", "--reportformat", "json", "--segments", "--units", "b", "--nosuffix",
            "-o", "seg_start_pe,stripe_size,seg_pe_ranges,seg_size_pe,stripes", volume)
    )["report"][0]["seg"]  # fmt: skip
    found = []
    for segment in sorted(report, key=lambda entry: int(entry["seg_start_pe"])):
        areas = re.findall(r"(/dev/loop\d+):(\d+)-\d+", segment["seg_pe_ranges"])
        places = [(lvm.devices.index(device), int(first)) for device, first in areas]
        found.append((int(segment["stripe_size"]), places, int(segment["seg_size_pe"])))
    return found


def expected(lvm: Lvm, volume: str) -> bytes:
    """What a volume must read as, from lvm2's own report and the stamps; extents of 1 MiB from 1 MiB on."""
    content = b""
    for stripe_bytes, places, extents in by_lvm2(lvm, volume):
        length = extents * MIB
        if len(places) == 1:
            device, first = places[0]
            content += stamps(device, MIB + first * MIB, length)
            continue
        for at in range(0, length, stripe_bytes):
            device, first = places[at // stripe_bytes % len(places)]
            offset = MIB + first * MIB + at // (stripe_bytes * len(places)) * stripe_bytes
            content += stamps(device, offset, stripe_bytes)
    return content


def test_linear_and_striped_over_several_disks(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(3)
    make_group(lvm)
    lvm.create("-l5", "-n", "root", "vg0", f"{lvm.devices[1]}:10-20")
    lvm.create("-l9", "-n", "fast", "-i3", "-I4k", "vg0")
    lvm.create("-l6", "-n", "wide", "-i2", "-I64k", "vg0")
    lvm("lvextend", "--driverloaded", "n", "-l+2", "-i1", "vg0/wide")
    lvm("lvextend", "--driverloaded", "n", "-l+3", "vg0/root")
    lvm.create("-l50", "-n", "far", "vg0")
    stamp_all(paths)
    (group,) = groups_of(opened, paths)
    assert {name: volume.size // MIB for name, volume in group.volumes.items()} == {
        "root": 8, "far": 50, "fast": 9, "wide": 8,
    }  # fmt: skip
    assert group.volumes["root"].type == "linear"
    assert group.volumes["fast"].type == "striped"
    for name in group.volumes:
        assert whole(open_volume(group, name)) == expected(lvm, f"vg0/{name}")


def test_reads_may_start_and_end_anywhere(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    lvm.create("-l4", "-n", "fast", "-i2", "-I4k", "vg0")
    lvm("lvextend", "--driverloaded", "n", "-l+2", "-i1", "vg0/fast")
    stamp_all(paths)
    (group,) = groups_of(opened, paths)
    reader = open_volume(group, "fast")
    content = whole(reader)
    places = [(0, 0), (1, 1), (4095, 2), (4096, 8192), (4 * MIB - 1, 2), (3 * MIB + 7, 2 * MIB), (6 * MIB, 0)]
    for offset, length in places:
        assert reader.pread(offset, length) == content[offset : offset + length]
    with pytest.raises(LayoutDamagedError):
        reader.pread(reader.size - 1, 2)


def test_several_groups_and_disks_without_a_group(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(4)
    make_group(lvm, "left", devices=slice(0, 2))
    make_group(lvm, "right", devices=slice(2, 3))
    lvm("pvcreate", "-q", lvm.devices[3])
    lvm.create("-l45", "-n", "data", "left")
    lvm.create("-l3", "-n", "data", "right")
    stamp_all(paths)
    groups = groups_of(opened, paths)
    assert [group.name for group in groups] == ["left", "right"]
    for group in groups:
        assert whole(open_volume(group, "data")) == expected(lvm, f"{group.name}/data")
    assert find_group(groups, groups[1].uuid).name == "right"
    with pytest.raises(VolumeMissingError, match="no volume group other"):
        find_group(groups, "other")
    with pytest.raises(VolumeMissingError, match="no logical volume other"):
        open_volume(groups[0], "other")


@pytest.mark.parametrize("copies", ["0", "1", "2"])
def test_metadata_areas_may_be_two_one_or_none(disks: Disks, opened: Open, copies: str) -> None:
    lvm, paths = disks(2)
    lvm("pvcreate", "-q", "--metadatacopies", copies, lvm.devices[0])
    lvm("pvcreate", "-q", "--metadatacopies", "1", lvm.devices[1])
    lvm("vgcreate", "-q", "-s", "1m", "vg0", *lvm.devices)
    lvm.create("-l60", "-n", "data", "vg0")
    for number, path in enumerate(paths):
        stamp_disk(path, number, end=38 * MIB)  # not over the second area, at the end
    device = read_physical_volume(opened(paths[0]))
    assert device is not None
    assert len(device.copies) == len(device.metadata_areas) == int(copies)
    (group,) = groups_of(opened, paths)
    content = whole(open_volume(group, "data"))
    assert content[: 30 * MIB] == expected(lvm, "vg0/data")[: 30 * MIB]


def test_the_ring_wraps(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(1)
    make_group(lvm, "vg0", "--metadatasize", "32k", "--dataalignment", "64k")
    lvm.create("-l5", "-n", "data", "vg0")
    tags: list[str] = []
    for number in range(60):
        tags.append(f"tag{number}" + "x" * 100)
        lvm("lvchange", "--driverloaded", "n", "--addtag", tags[-1], "vg0/data")
        device = read_physical_volume(opened(paths[0]))
        assert device is not None
        (copy,) = device.copies
        assert copy.seqno == 3 + number
        found = copy.vg.section("logical_volumes").section("data").texts("tags")
        assert sorted(found) == sorted(tags)
        with paths[0].open("rb") as file:
            header = file.read(8192)[4096:]
        area, offset, length = (int.from_bytes(header[at : at + 8], "little") for at in (32, 40, 48))
        if offset + length > area:
            return  # the text just read went over the end and on at 512
    pytest.fail("the text never wrapped")


def test_a_disk_that_missed_an_update_is_used_as_the_newest_text_says(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    lvm.create("-l5", "-n", "data", "vg0", lvm.devices[1])
    before = paths[1].read_bytes()[:MIB]
    lvm("lvextend", "--driverloaded", "n", "-l+5", "vg0/data", lvm.devices[0])
    stamp_all(paths)
    content = expected(lvm, "vg0/data")
    with paths[1].open("r+b") as file:
        file.write(before)
    (group,) = groups_of(opened, paths)
    assert "older text" in " ".join(group.notes)
    assert whole(open_volume(group, "data")) == content


def test_a_disk_that_was_removed_is_stale(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    lvm.create("-l5", "-n", "data", "vg0", lvm.devices[0])
    before = paths[1].read_bytes()[:MIB]
    lvm("vgreduce", "vg0", lvm.devices[1])
    stamp_all(paths)
    content = expected(lvm, "vg0/data")
    with paths[1].open("r+b") as file:
        file.write(before)
    (group,) = groups_of(opened, paths)
    assert list(group.members) == ["pv0"]
    assert "stale" in " ".join(group.notes)
    assert whole(open_volume(group, "data")) == content


def test_a_missing_disk_refuses_only_what_lies_on_it(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    lvm.create("-l5", "-n", "here", "vg0", lvm.devices[0])
    lvm.create("-l5", "-n", "there", "vg0", lvm.devices[1])
    stamp_all(paths)
    (group,) = groups_of(opened, paths[:1])
    assert whole(open_volume(group, "here")) == expected(lvm, "vg0/here")
    with pytest.raises(VolumeIncompleteError, match="lacks its physical volume"):
        open_volume(group, "there")


def test_an_exported_group_is_refused(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(1)
    make_group(lvm)
    lvm.create("-l5", "-n", "data", "vg0")
    lvm("vgexport", "vg0")
    (group,) = groups_of(opened, paths)
    with pytest.raises(VolumeIncompleteError, match="exported"):
        open_volume(group, "data")


def test_one_disk_given_twice_is_refused(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(1)
    make_group(lvm)
    with pytest.raises(LayoutDamagedError, match="two devices are"):
        groups_of(opened, paths * 2)


def test_groups_whose_halves_went_apart_are_refused(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    before = paths[1].read_bytes()[:MIB]
    lvm.create("-l5", "-n", "one", "vg0")
    text = lvm.backup("vg0").replace("one", "two")
    other = paths[0].read_bytes()[:MIB]
    with paths[1].open("r+b") as file:
        file.write(before)
    lvm.restore("vg0", re.sub(r"seqno = \d+", "seqno = 1", text))
    with paths[0].open("r+b") as file:
        file.write(other)
    seqnos = [device.copies[0].seqno for device in read_physical_volumes(opened(path) for path in paths)]
    assert seqnos == [2, 2]
    with pytest.raises(LayoutDamagedError, match="two different texts"):
        groups_of(opened, paths)


def test_every_flipped_bit_of_the_only_text_is_noticed(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(1)
    make_group(lvm)
    lvm.create("-l5", "-n", "data", "vg0")
    raw = paths[0].read_bytes()
    start = 4096 + int.from_bytes(raw[4096 + 40 : 4096 + 48], "little")
    length = int.from_bytes(raw[4096 + 48 : 4096 + 56], "little")
    places = [*range(start, start + length, 37), 512 + 21, 512 + 40, 4096, 4096 + 10, 4096 + 45]
    for place in places:
        with paths[0].open("r+b") as file:
            file.seek(place)
            file.write(bytes([raw[place] ^ 0x10]))
        try:
            device = read_physical_volume(opened(paths[0]))
        except LayoutDamagedError:
            assert place < 1024
        else:
            assert device is not None
            assert device.copies == ()
            assert device.faults
        with paths[0].open("r+b") as file:
            file.seek(place)
            file.write(raw[place : place + 1])
    assert groups_of(opened, paths)


def test_a_damaged_area_gives_way_to_another(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(2)
    make_group(lvm)
    lvm.create("-l5", "-n", "data", "vg0")
    stamp_all(paths)
    content = expected(lvm, "vg0/data")
    with paths[0].open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff")
    (group,) = groups_of(opened, paths)
    assert "checksum" in " ".join(group.notes)
    assert whole(open_volume(group, "data")) == content


def test_types_that_are_not_read_and_volumes_in_motion_are_refused(disks: Disks, opened: Open) -> None:
    lvm, paths = disks(1)
    make_group(lvm)
    lvm.edit("vg0", volume_text("data", 1, [linear_segment(0, 0, 4)]))
    (group,) = groups_of(opened, paths)
    raw = group.volumes["data"].segments[0].section
    for kind in ("cache", "vdo", "writecache", "integrity", "error", "striped+FUTURE"):
        segment = type(group.volumes["data"].segments[0])(start_extent=0, extent_count=4, type=kind, section=raw)
        volume = type(group.volumes["data"])(
            name="data", uuid="u", size=4 * MIB, visible=True, status=frozenset(), segments=(segment,)
        )
        group.volumes["data"] = volume
        with pytest.raises(LayoutUnknownError, match="is of type"):
            open_volume(group, "data")
    moving = type(group.volumes["data"])(
        name="data", uuid="u", size=4 * MIB, visible=True, status=frozenset({"PVMOVE"}), segments=volume.segments
    )
    group.volumes["data"] = moving
    with pytest.raises(VolumeUnsettledError, match="in motion"):
        open_volume(group, "data")


def test_a_label_in_each_of_the_first_sectors(disks: Disks, opened: Open) -> None:
    for sector in range(4):
        lvm, paths = disks(1)
        lvm("pvcreate", "-q", "-y", "-ff", "--labelsector", str(sector), *lvm.devices)
        reader = opened(paths[0])
        assert has_label(reader)
        device = read_physical_volume(reader)
        assert device is not None
        assert device.uuid in lvm("pvs", "--noheadings", "-o", "pv_uuid", lvm.devices[0])
        lvm("pvremove", "-q", *lvm.devices)
        assert not has_label(reader)


def test_stamps_are_unique() -> None:
    assert len(stamps(1, 0, MIB)) == MIB
    assert stamps(1, 0, STAMP_BYTES) != stamps(2, 0, STAMP_BYTES) != stamps(2, STAMP_BYTES, STAMP_BYTES)
