"""Partition tables made by sfdisk and sgdisk, whole and damaged, against what sfdisk itself reads back."""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_images import image, looped, run

from blocksync.errors import LayoutDamagedError, LayoutError, LayoutUnknownError
from blocksync.volumes.partitions import PartitionTable, partition_reader, read_partitions
from blocksync.volumes.reader import BytesReader, FileReader

MIB = 1 << 20
Open = Callable[[Path], FileReader]

MBR = """label: dos
label-id: 0xdeadbeef
start=2048, size=4096, type=83, bootable
start=8192, size=8192, type=82
start=16384, size=40960, type=f
start=57344, size=2048, type=8e
start=18432, size=2048, type=83
start=22528, size=4096, type=83
start=28672, size=2048, type=7
"""
GPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
start=2048, size=4096, type=U, name="EFI system"
start=8192, size=8192, type=L, name="données", attrs="LegacyBIOSBootable"
start=20480, size=2048, type=S, uuid=AAAAAAAA-BBBB-4CCC-8DDD-EEEEEEEEEEEE
"""


def made(path: Path, script: str, *, sector: int = 512, size: int = 64 * MIB) -> Path:
    image(path, size)
    if sector == 512:
        run("sfdisk", "-q", path, text=script)
        return path
    with looped(path, sector) as device:
        run("sfdisk", "-q", "--no-reread", "--no-tell-kernel", device, text=script)
    return path


def as_sfdisk_reads(path: Path, sector: int = 512) -> list[tuple[int, int, int, str, str, bool]]:
    if sector == 512:
        return _parsed(run("sfdisk", "-J", path), str(path), sector)
    with looped(path, sector) as device:
        return _parsed(run("sfdisk", "-J", device), device, sector)


def _parsed(listing: str, node: str, sector: int) -> list[tuple[int, int, int, str, str, bool]]:
    return [
        (
            int(entry["node"].removeprefix(node).lstrip("p")),
            entry["start"] * sector,
            entry["size"] * sector,
            entry["type"].lower() if "-" in entry["type"] else f"0x{int(entry['type'], 16):02x}",
            entry.get("name", ""),
            entry.get("bootable", False) or "LegacyBIOSBootable" in entry.get("attrs", ""),
        )
        for entry in json.loads(listing)["partitiontable"]["partitions"]
    ]


def as_read(table: PartitionTable | None) -> list[tuple[int, int, int, str, str, bool]]:
    assert table is not None
    return [
        (part.number, part.offset, part.size, part.type_id, part.name, part.bootable) for part in table.partitions
    ]


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_mbr_with_logical_partitions(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    table = read_partitions(opened(path))
    assert as_read(table) == as_sfdisk_reads(path)
    assert table is not None
    assert (table.kind, table.identity, len(table.partitions)) == ("mbr", "deadbeef", 7)
    assert [part.container for part in table.partitions] == [False, False, True, False, False, False, False]
    assert table.partitions[4].uuid == "deadbeef-05"


def test_an_extended_partition_without_logical_ones(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", "label: dos\nstart=2048, size=4096, type=5\n")
    assert as_read(read_partitions(opened(path))) == as_sfdisk_reads(path)


def test_a_logical_partition_that_was_deleted_leaves_the_chain_whole(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    run("sfdisk", "-q", "--delete", path, "6")
    assert as_read(read_partitions(opened(path))) == as_sfdisk_reads(path)


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt(tmp_path: Path, opened: Open, sector: int) -> None:
    script = GPT
    if sector == 4096:
        for number in (4096, 8192, 2048, 20480):
            script = script.replace(f"={number}", f"={number // 8}")
    path = made(tmp_path / "disk", script, sector=sector)
    table = read_partitions(opened(path))
    assert table is not None
    assert as_read(table) == as_sfdisk_reads(path, sector)
    assert (table.kind, table.sector_bytes, table.notes) == ("gpt", sector, ())
    assert table.identity == "11111111-2222-3333-4444-555555555555"
    assert table.partitions[2].uuid == "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
    assert table == read_partitions(opened(path), sector_bytes=sector)


def test_gpt_of_sgdisk_with_many_entries(tmp_path: Path, opened: Open) -> None:
    path = image(tmp_path / "disk", 64 * MIB)
    run("sgdisk", "-S", "256", "-n", "200:4096:8191", "-c", "200:last", "-n", "3:8192:0", path)
    table = read_partitions(opened(path))
    assert as_read(table) == as_sfdisk_reads(path)
    assert table is not None
    assert [part.number for part in table.partitions] == [3, 200]


@pytest.mark.parametrize("place", [(1, 0), (1, 16), (1, 40), (2, 32), (2, 120)])
@pytest.mark.parametrize("sector", [512, 4096])
def test_a_damaged_primary_gives_way_to_the_backup(
    tmp_path: Path, opened: Open, place: tuple[int, int], sector: int
) -> None:
    path = made(tmp_path / "disk", "label: gpt\nsize=+1MiB\n", sector=sector)
    whole = read_partitions(opened(path))
    patch(path, place[0] * sector + place[1], b"\xff")
    table = read_partitions(opened(path))
    assert as_read(table) == as_read(whole)
    assert table is not None
    assert "backup was used" in table.notes[0]


def test_a_damaged_backup_is_noted(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    patch(path, 64 * MIB - 512 + 60, b"\xff")
    table = read_partitions(opened(path))
    assert as_read(table) == as_sfdisk_reads(path)
    assert table is not None
    assert "backup GPT is damaged" in table.notes[0]


def test_both_copies_damaged_is_refused(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    patch(path, 512 + 60, b"\xff")
    patch(path, 64 * MIB - 512 + 60, b"\xff")
    with pytest.raises(LayoutDamagedError, match="checksum"):
        read_partitions(opened(path))


def test_copies_that_differ_are_noted(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    with path.open("rb") as file:
        file.seek(64 * MIB - 33 * 512)
        tail = file.read(33 * 512)
    made(path, GPT.replace("size=2048", "size=4096"))
    patch(path, 64 * MIB - 33 * 512, tail)
    table = read_partitions(opened(path))
    assert table is not None
    assert as_read(table)[2][2] == 4096 * 512
    assert table.notes == ("the backup GPT differs from the primary, which was used",)


def test_a_disk_that_has_grown_says_where_its_backup_lies(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    with path.open("r+b") as file:
        file.truncate(80 * MIB)
    table = read_partitions(opened(path))
    assert table is not None
    assert table.notes == ("the backup GPT does not lie at the end of the disk",)
    with path.open("r+b") as file:
        file.truncate(48 * MIB)
    table = read_partitions(opened(path))
    assert table is not None
    assert table.notes == ("the backup GPT lies beyond the end of the disk",)


def rewrite_header(path: Path, offset: int, data: bytes) -> None:
    """Change a GPT header and make its checksum right again; the backup is wiped."""
    with path.open("r+b") as file:
        file.seek(512)
        header = bytearray(file.read(92))
        header[offset : offset + len(data)] = data
        header[16:20] = bytes(4)
        header[16:20] = struct.pack("<I", zlib.crc32(header))
        file.seek(512)
        file.write(header)
        file.seek(-512, 2)
        file.write(bytes(512))


@pytest.mark.parametrize(
    ("offset", "data", "says"),
    [
        (24, struct.pack("<Q", 2), "belongs in sector 2"),
        (40, struct.pack("<Q", 9000), "leaves the usable area"),
        (72, struct.pack("<Q", 1 << 60), "outside"),
        (80, struct.pack("<I", 1 << 31), "entries"),
        (84, struct.pack("<I", 64), "entries of 64"),
        (12, struct.pack("<I", 513), "size of 513"),
    ],
)
def test_headers_with_right_checksums_and_wrong_contents(
    tmp_path: Path, opened: Open, offset: int, data: bytes, says: str
) -> None:
    path = made(tmp_path / "disk", GPT)
    rewrite_header(path, offset, data)
    with pytest.raises(LayoutDamagedError, match=says):
        read_partitions(opened(path))


def test_another_revision_is_unknown(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    rewrite_header(path, 8, struct.pack("<I", 0x00020000))
    with pytest.raises(LayoutUnknownError, match="revision"):
        read_partitions(opened(path))


def test_what_is_no_table(tmp_path: Path, opened: Open) -> None:
    assert read_partitions(BytesReader(b"")) is None
    assert read_partitions(BytesReader(bytes(MIB))) is None
    for name, tool in (("fat", ("mkfs.vfat",)), ("ntfs", ("mkfs.ntfs", "-F", "-Q"))):
        path = image(tmp_path / name, 64 * MIB)
        run(*tool, path)
        assert read_partitions(opened(path)) is None


def test_a_gpt_without_its_protective_record_is_read_and_noted(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    patch(path, 0, bytes(512))
    table = read_partitions(opened(path))
    assert table is not None
    assert "no protective" in table.notes[0]


def test_an_mbr_with_partitions_wins_over_a_stale_gpt(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", GPT)
    with path.open("rb") as file:
        stale = file.read(34 * 512)
    made(path, "label: dos\nstart=4096, size=2048\n")
    patch(path, 512, stale[512:])
    table = read_partitions(opened(path))
    assert table is not None
    assert table.kind == "mbr"


def test_a_chain_that_loops_is_refused(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    ebr = 16384 * 512
    link = struct.pack("<B3sB3sII", 0, bytes(3), 5, bytes(3), 0, 64)
    patch(path, ebr + 446 + 16, link)
    with pytest.raises(LayoutDamagedError, match="does not end"):
        read_partitions(opened(path))


def test_a_partition_past_the_end_is_refused(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    with path.open("r+b") as file:
        file.truncate(24 * MIB)
    with pytest.raises(LayoutDamagedError, match="partition 3"):
        read_partitions(opened(path))


def test_overlap_is_refused(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    patch(path, 446 + 16 + 8, struct.pack("<I", 2048))
    with pytest.raises(LayoutDamagedError, match="partitions 1 and 2 overlap"):
        read_partitions(opened(path))


def test_a_partition_is_a_reader(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "disk", MBR)
    patch(path, 8192 * 512 + 100, b"here")
    reader = opened(path)
    table = read_partitions(reader)
    assert table is not None
    part = partition_reader(reader, table.partitions[1])
    assert part.pread(100, 4) == b"here"
    with pytest.raises(LayoutDamagedError):
        part.pread(part.size - 1, 2)


@pytest.fixture(scope="module", params=["mbr", "gpt"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tables") / "disk"
    script = GPT if request.param == "gpt" else MBR
    return made(path, script, size=32 * MIB).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 16384, -1, -33]), st.integers(0, 511), st.integers(0, 255))))
def test_flipped_bytes_give_a_table_or_a_coded_refusal(small: bytes, flips: list[tuple[int, int, int]]) -> None:
    data = bytearray(small)
    for sector, offset, value in flips:
        data[sector * 512 % len(data) + offset] ^= value
    reader = BytesReader(bytes(data))
    try:
        table = read_partitions(reader)
    except LayoutError:
        return
    for part in table.partitions if table else ():
        assert part.offset + part.size <= reader.size


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_no_bug(data: bytes) -> None:
    with contextlib.suppress(LayoutError):
        read_partitions(BytesReader(data))
