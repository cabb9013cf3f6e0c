"""Allocation maps of aged filesystems: never less than partclone's; with junk everywhere else nothing is missed."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from aged_images import check_filesystem, grow_old, mounted, partclone_map, sums
from filesystem_images import MAKERS, MIB, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volume_images import run

from blocksync.errors import FilesystemDirtyError, LayoutDamagedError, LayoutError, LayoutUnknownError
from blocksync.volumes.filesystems import AllocationMap, Filesystem, detect, open_map
from blocksync.volumes.reader import BytesReader, FileReader
from tests.devices import need_root

Open = Callable[[Path], FileReader]
# Another history, for those who look for faults.
SEED = int(os.environ.get("BLOCKSYNC_TEST_SEED", "3"))
EXT = [name for name in MAKERS if name.startswith("ext")]
BTRFS = [name for name in MAKERS if name.startswith("btrfs")]
PARTCLONE = {"ext": "extfs", "xfs": "xfs", "ntf": "ntfs"}


def kind_of(name: str) -> str:
    """The kernel's name of its driver."""
    if name.startswith("ext"):
        return "ext4"
    if name.startswith("fat"):
        return "vfat"
    return name.split("-", maxsplit=1)[0]


def map_of(reader: FileReader) -> AllocationMap:
    found = detect(reader)
    assert found is not None
    return open_map(reader, found)


def within(wanted: Iterable[tuple[int, int]], used: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The wanted ranges that are not covered."""
    lacking = []
    have = iter(used)
    current = next(have, None)
    for start, end in wanted:
        at = start
        while at < end:
            while current is not None and current[1] <= at:
                current = next(have, None)
            if current is None or current[0] > at:
                lacking.append((at, end))
                break
            at = current[1]
    return lacking


def restored(image: Path, ranges: list[tuple[int, int]], target: Path) -> Path:
    """A target that holds the used ranges, and junk everywhere else."""
    size = image.stat().st_size
    junk = random.Random(7).randbytes(MIB)
    with image.open("rb") as source, target.open("wb") as file:
        for _ in range(-(-size // MIB)):
            file.write(junk)
        file.truncate(size)
        for start, end in ranges:
            source.seek(start)
            file.seek(start)
            file.write(source.read(end - start))
    return target


def aged(tmp_path: Path, name: str, seed: int) -> tuple[Path, dict[str, str]]:
    need_root()
    image = made(tmp_path / "image", name)
    with mounted(image, kind_of(name), tmp_path / "there") as folder:
        grow_old(folder, seed, most=min(600, image.stat().st_size // 200_000) << 10)
        expected = sums(folder)
    return image, expected


@pytest.mark.parametrize("name", [*EXT, "xfs", "xfs-1k", *BTRFS, "ntfs", "ntfs-512"])
def test_an_aged_filesystem_is_whole_without_what_the_map_leaves_out(
    tmp_path: Path, opened: Open, name: str
) -> None:
    image, expected = aged(tmp_path, name, seed=SEED)
    found = map_of(opened(image))
    used = list(found.used(0, found.size))
    assert sum(end - start for start, end in used) < found.size * 0.9
    # partclone knows no clusters of ext4, and of btrfs it marks logical addresses as if they were the device's.
    tool = "" if "bigalloc" in name or name.startswith("btrfs") else PARTCLONE[name[:3]]
    if tool:
        assert within(partclone_map(image, tool, tmp_path / "map"), used) == []
    target = restored(image, used, tmp_path / "target")
    check_filesystem(target, kind_of(name))
    with mounted(target, kind_of(name), tmp_path / "again", "ro") as folder:
        assert sums(folder) == expected


def test_xfs_of_version_4_is_whole_without_what_the_map_leaves_out(tmp_path: Path, opened: Open) -> None:
    # Present kernels do not mount it any more: its own mkfs fills it.
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 320 * MIB)
    content = tmp_path / "content"
    content.write_bytes(random.Random(1).randbytes(9_000_001))
    files = "".join(f"file{number} ---644 0 0 {content}\n" for number in range(7))
    (tmp_path / "prototype").write_text(f"/\n0 0\nd--755 0 0\n{files}$\n")
    run("mkfs.xfs", "-q", "-m", "crc=0", "-p", tmp_path / "prototype", image)
    found = map_of(opened(image))
    used = list(found.used(0, found.size))
    assert 63 * MIB < sum(end - start for start, end in used) < 160 * MIB
    assert within(partclone_map(image, "xfs", tmp_path / "map"), used) == []
    check_filesystem(restored(image, used, tmp_path / "target"), "xfs")


@pytest.mark.parametrize("name", ["fat12", "fat16", "fat32"])
def test_an_aged_fat_is_whole_without_what_the_map_leaves_out(tmp_path: Path, opened: Open, name: str) -> None:
    image = made(tmp_path / "image", name)
    chance = random.Random(3)
    content = {}
    for number in range(24):
        path = tmp_path / f"f{number}"
        path.write_bytes(chance.randbytes(chance.randrange(1, 90_000)))
        content[path.name] = path.read_bytes()
        run("mcopy", "-i", image, path, "::")
        if number % 3 == 2:
            gone = chance.choice(sorted(content))
            del content[gone]
            run("mdel", "-i", image, f"::{gone}")
    found = map_of(opened(image))
    used = list(found.used(0, found.size))
    if name != "fat12":  # of whose entries partclone reads the wrong bytes
        assert within(partclone_map(image, "fat", tmp_path / "map"), used) == []
    target = restored(image, used, tmp_path / "target")
    check_filesystem(target, "vfat")
    for name_there, data in content.items():
        run("mcopy", "-n", "-i", target, f"::{name_there}", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data
        (tmp_path / "back").unlink()


def test_of_a_swap_area_the_header_alone_is_used(tmp_path: Path, opened: Open) -> None:
    image = made(tmp_path / "image", "swap")
    found = map_of(opened(image))
    assert list(found.used(0, found.size)) == [(0, 4096)]
    assert list(found.used(4096, found.size)) == []
    restored(image, [(0, 4096)], tmp_path / "target")
    assert "swap" in run("blkid", "-p", "-o", "value", "-s", "TYPE", tmp_path / "target")


@pytest.mark.parametrize("name", ["ext4", "ext4-1k", "xfs", "btrfs-dup", "ntfs", "fat12", "fat32"])
def test_a_part_of_the_map_is_that_part_of_the_whole(tmp_path: Path, opened: Open, name: str) -> None:
    image = made(tmp_path / "image", name)
    found = map_of(opened(image))
    whole = list(found.used(0, found.size))
    chance = random.Random(11)
    edges = [edge for run_ in whole for edge in run_] + [0, found.size]
    for _ in range(40):
        first, stop = sorted((chance.choice(edges) + chance.randrange(-3, 4) * 512, chance.randrange(found.size)))
        first = max(first, 0)
        expected = [(max(a, first), min(b, stop)) for a, b in whole if a < stop and b > first]
        assert list(found.used(first, stop)) == expected


def test_mounted_filesystems_are_refused_and_frozen_ones_are_not(tmp_path: Path, opened: Open) -> None:
    need_root()
    for name, kind in (("ext4", "ext4"), ("xfs", "xfs")):
        image = made(tmp_path / name, name)
        with mounted(image, kind, tmp_path / "there") as folder:
            grow_old(folder, seed=5, rounds=30)
            run("sync", "-f", folder)
            raw = tmp_path / "raw"
            run("cp", "--sparse=always", image, raw)
            with pytest.raises(FilesystemDirtyError, match=r"cleanly unmounted|replayed"):
                map_of(opened(raw))
            run("fsfreeze", "-f", folder)
            try:
                run("cp", "--sparse=always", image, raw)
                expected = sums(folder)
            finally:
                run("fsfreeze", "-u", folder)
        found = map_of(opened(raw))
        target = restored(raw, list(found.used(0, found.size)), tmp_path / "target")
        with mounted(target, kind, tmp_path / "again", *(["nouuid"] if kind == "xfs" else [])) as folder:
            assert sums(folder) == expected
        check_filesystem(target, kind)


def test_errors_a_log_tree_and_a_dirty_flag_are_refused(tmp_path: Path, opened: Open) -> None:
    need_root()
    image = made(tmp_path / "errors", "ext4-plain")
    run("debugfs", "-w", "-R", "ssv state 2", image)
    with pytest.raises(FilesystemDirtyError, match="errors"):
        map_of(opened(image))
    image = made(tmp_path / "log", "btrfs")
    with mounted(image, "btrfs", tmp_path / "there") as folder:
        (folder / "file").write_bytes(b"x" * 5000)
        run("sync", "-f", folder)
        with (folder / "file").open("ab") as file:
            file.write(b"more")
            file.flush()
            os.fsync(file.fileno())
        run("cp", "--sparse=always", image, tmp_path / "raw")
    with pytest.raises(FilesystemDirtyError, match="log"):
        map_of(opened(tmp_path / "raw"))
    image = made(tmp_path / "fat", "fat32")
    with image.open("r+b") as file:
        file.seek(65)
        file.write(b"\1")
    with pytest.raises(FilesystemDirtyError):
        map_of(opened(image))
    image = made(tmp_path / "ntfs", "ntfs")
    subprocess.run(["ntfsfix", image], check=False, capture_output=True)  # leaves the volume marked dirty
    with pytest.raises(FilesystemDirtyError):
        map_of(opened(image))


def test_striped_btrfs_and_unknown_features_are_refused(tmp_path: Path, opened: Open) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.touch()
        os.truncate(path, 256 * MIB)
    run("mkfs.btrfs", "-q", "-f", "-d", "raid0", "-m", "raid1", *paths)
    with pytest.raises(LayoutUnknownError, match="striped"):
        map_of(opened(paths[0]))
    with pytest.raises(LayoutUnknownError, match="no allocation map"):
        open_map(BytesReader(b""), Filesystem(kind="luks"))
    with pytest.raises(LayoutUnknownError, match="leave open"):
        open_map(BytesReader(b""), Filesystem(kind="ext4", others=("btrfs",)))


def test_both_halves_of_a_btrfs_mirror_are_read_alone(tmp_path: Path, opened: Open) -> None:
    need_root()
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.touch()
        os.truncate(path, 256 * MIB)
    run("mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", *paths)
    maps = [map_of(opened(path)) for path in paths]
    sizes = [sum(end - start for start, end in found.used(0, found.size)) for found in maps]
    assert all(MIB < size < 128 * MIB for size in sizes)


class Watched:
    """A reader that notes where it is read, and changes what it was told to."""

    def __init__(self, base: FileReader, changes: list[tuple[int, bytes]] | None = None) -> None:
        self._base = base
        self._changes = changes or []
        self.size = base.size
        self.seen: set[int] = set()

    def pread(self, offset: int, length: int, /) -> bytes:
        self.seen.add(offset)
        raw = bytearray(self._base.pread(offset, length))
        for at, data in self._changes:
            for index, byte in enumerate(data):
                if offset <= at + index < offset + length:
                    raw[at + index - offset] = byte
        return bytes(raw)


def places_of(reader: FileReader) -> list[int]:
    """Where the structures lie that a map is made from."""
    watched = Watched(reader)
    said = detect(watched)
    assert said is not None
    watched.seen.clear()
    found = open_map(watched, said)
    list(found.used(0, found.size))
    return sorted(watched.seen)


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs"])
def test_a_flipped_bit_in_guarded_metadata_is_seen(tmp_path: Path, opened: Open, name: str) -> None:
    reader = opened(made(tmp_path / "image", name))
    for offset in places_of(reader):
        content = reader.pread(offset, 64)
        if name == "xfs" and content[:4] not in (b"XFSB", b"XAGF", b"AB3B"):
            continue  # the log, which has a test of its own
        if not any(content):
            continue
        damaged = Watched(reader, [(offset + 40, bytes([content[40] ^ 4]))])
        with pytest.raises(LayoutError):
            list(open_map(damaged, Filesystem(kind=name)).used(0, reader.size))


@pytest.mark.parametrize("name", ["ext3", "ext4-plain", "xfs-v4", "btrfs", "ntfs", "fat12", "fat32"])
def test_mutated_metadata_give_a_map_or_a_typed_error(tmp_path: Path, opened: Open, name: str) -> None:
    reader = opened(made(tmp_path / "image", name))
    places = places_of(reader)
    change = st.tuples(st.sampled_from(places), st.integers(0, 600), st.binary(min_size=1, max_size=6))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(change, min_size=1, max_size=6))
    def mutate(changes: list[tuple[int, int, bytes]]) -> None:
        watched = Watched(reader, [(place + at, junk) for place, at, junk in changes])
        try:
            said = detect(watched)
            if said is None:
                return
            found = open_map(watched, said)
            at = 0
            for count, (start, end) in enumerate(found.used(0, found.size)):
                assert at <= start < end <= found.size
                at = end
                assert count < 100_000
        except LayoutError:
            pass

    mutate()


def test_a_filesystem_that_was_cut_short_is_refused(tmp_path: Path, opened: Open) -> None:
    for name in ("ext4", "xfs", "btrfs", "ntfs", "fat32"):
        image = made(tmp_path / name, name)
        os.truncate(image, image.stat().st_size // 2)
        with pytest.raises(LayoutDamagedError):
            map_of(opened(image))
