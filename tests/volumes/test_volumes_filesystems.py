"""Filesystems made by their own tools: what we say of them is what blkid and they themselves say."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from filesystem_images import MAKERS, MIB, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_images import image, run

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.filesystems import detect
from blocksync.volumes.filesystems.ext import read_superblock
from blocksync.volumes.reader import BytesReader, FileReader

Open = Callable[[Path], FileReader]


def blkid(path: Path) -> dict[str, str]:
    said = run("blkid", "-p", "-o", "export", path, environment={"LC_ALL": "C.UTF-8"})
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


@pytest.mark.parametrize("name", MAKERS)
def test_kind_uuid_and_label_are_those_that_blkid_shows(tmp_path: Path, opened: Open, name: str) -> None:
    path = made(tmp_path / "image", name)
    found = detect(opened(path))
    said = blkid(path)
    assert found is not None
    kind = said["VERSION"].lower() if said["TYPE"] == "vfat" else said["TYPE"]
    label = re.sub(r"\\(.)", r"\1", said.get("LABEL", ""))
    assert (found.kind, found.uuid, found.label) == (kind, said.get("UUID", ""), label)
    assert found.others == ()
    assert found.clean in (True, None)
    assert found.used is not None
    assert found.size is not None
    assert 0 < found.used < found.size <= path.stat().st_size


@pytest.mark.parametrize("name", ["ext4", "ext4-bigalloc", "ext4-1k"])
def test_used_bytes_of_ext_are_those_that_dumpe2fs_counts(tmp_path: Path, opened: Open, name: str) -> None:
    path = made(tmp_path / "image", name)
    said = dict(line.split(":", 1) for line in run("dumpe2fs", "-h", path).splitlines() if ":" in line)
    used = int(said["Block count"]) - int(said["Free blocks"])
    found = detect(opened(path))
    assert found is not None
    assert found.used == used * int(said["Block size"])


def test_luks_and_members_of_raids_are_recognised_by_their_headers() -> None:
    luks = b"LUKS\xba\xbe\0\2" + bytes(16) + b"secret".ljust(48, b"\0") + bytes(96)
    luks += b"01234567-89ab-cdef-0123-456789abcdef".ljust(40, b"\0")
    found = detect(BytesReader(luks.ljust(MIB, b"\0")))
    assert found is not None
    assert (found.kind, found.label, found.uuid) == ("luks", "secret", "01234567-89ab-cdef-0123-456789abcdef")
    member = (
        bytes(4096) + struct.pack("<II", 0xA92B4EFC, 1) + bytes(8) + bytes(range(16)) + b"host:0".ljust(32, b"\0")
    )
    found = detect(BytesReader(member.ljust(MIB, b"\0")))
    assert found is not None
    assert (found.kind, found.label, found.uuid) == ("md", "host:0", "00010203-0405-0607-0809-0a0b0c0d0e0f")


def test_a_hibernated_system_is_no_swap_area(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "image", "swap")
    with path.open("r+b") as file:
        file.seek(4086)
        file.write(b"S1SUSPEND\0")
    found = detect(opened(path))
    assert found is not None
    assert (found.kind, found.clean) == ("swsuspend", False)


def test_leftovers_of_an_earlier_use_are_named(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "image", "ext4")
    with (made(tmp_path / "other", "btrfs")).open("rb") as file:
        file.seek(64 << 10)
        superblock = file.read(4096)
    with path.open("r+b") as file:
        file.seek(64 << 10)
        file.write(superblock)
    found = detect(opened(path))
    assert found is not None
    assert (found.kind, found.others) == ("ext4", ("btrfs",))


def test_nothing_is_recognised_in_zeros_or_in_next_to_nothing(tmp_path: Path, opened: Open) -> None:
    assert detect(opened(image(tmp_path / "image", 10 * MIB))) is None
    for size in (0, 1, 511, 512, 1500, 4096):
        assert detect(BytesReader(bytes(size))) is None


def test_a_flipped_bit_in_a_guarded_superblock_is_seen(tmp_path: Path, opened: Open) -> None:
    path = made(tmp_path / "image", "ext4")
    with path.open("r+b") as file:
        file.seek(1024 + 0x78)
        file.write(b"V")
    with pytest.raises(LayoutDamagedError, match="checksum"):
        read_superblock(opened(path))
    found = detect(opened(path))
    assert found is not None
    assert (found.kind, found.clean, found.used) == ("ext", False, None)


@pytest.mark.parametrize("name", ["ext3", "xfs-v4", "btrfs", "ntfs", "fat12", "fat32", "swap"])
def test_mutated_superblocks_give_a_value_or_nothing(tmp_path: Path, name: str) -> None:
    with made(tmp_path / "image", name).open("rb") as file:
        head = file.read(2 * MIB)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, 4095), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8))
    def mutate(changes: list[tuple[int, bytes]]) -> None:
        raw = bytearray(head)
        base = 64 << 10 if name.startswith("btrfs") else 0
        for at, data in changes:
            raw[base + at : base + at + len(data)] = data
        detect(BytesReader(bytes(raw[: len(head)])))

    mutate()
