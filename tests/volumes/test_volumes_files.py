"""Files left out: their content and nothing else, whatever they share and however they are stored."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from aged_images import check_filesystem, grow_old, mounted, sums
from filesystem_images import MIB, made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_volumes_allocation import Watched, kind_of, restored
from volume_images import run

from blocksync.errors import FilesystemDirtyError, LayoutError
from blocksync.volumes.allocation import DiskMap
from blocksync.volumes.patterns import Rules
from blocksync.volumes.reader import FileReader
from tests.devices import need_root

Open = Callable[[Path], FileReader]
NAMES = ["ext4", "ext3", "ext4-1k", "ext4-bigalloc", "xfs", "xfs-1k", "ntfs"]
ROOMS = {"ext3": 400, "ntfs": 400}


def room(path: Path, name: str) -> Path:
    """A filesystem large enough for some files of megabytes."""
    made(path, name)
    if name in ROOMS:
        os.truncate(path, ROOMS[name] * MIB)
        command = {"ext3": ("mkfs.ext3", "-q", "-F"), "ntfs": ("mkfs.ntfs", "-q", "-F", "-f")}[name]
        run(*command, path)
    return path


def fill(folder: Path) -> None:
    chance = random.Random(21)
    grow_old(folder, seed=8, rounds=40)
    for name in ("var/log/big.gz", "var/log/big.log", "var/cache/one", "var/cache/sub/two", "keep/me"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(chance.randbytes(3 * MIB + 17))
    many = folder / "var/many"
    many.mkdir()
    for number in range(700):  # a folder with an index
        (many / f"a-rather-long-name-for-a-small-file-{number}.tmp").write_bytes(chance.randbytes(5000))
    pieces = folder / "var/log/pieces.gz"  # many extents: a tree, or indirect blocks of two levels
    other = folder / "keep/between"
    with pieces.open("wb") as file, other.open("wb") as between:
        for number in range(300):
            file.seek(number * 24576)
            file.write(chance.randbytes(9000))
            file.flush()
            between.write(chance.randbytes(4096))
            between.flush()
            if number % 8 == 0:
                os.fsync(file.fileno())
                os.fsync(between.fileno())


RULES = ["/var/log/*.gz", "/var/cache/", "*.tmp"]


def gone(name: str) -> bool:
    return (
        (name.startswith("var/log/") and name.endswith(".gz"))
        or name.startswith("var/cache/")
        or name.endswith(".tmp")
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_content_of_files_is_left_out_and_nothing_else(tmp_path: Path, opened: Open, name: str) -> None:
    need_root()
    image = room(tmp_path / "image", name)
    with mounted(image, kind_of(name), tmp_path / "there") as folder:
        fill(folder)
        expected = sums(folder)
        sizes = {path: (folder / path).stat().st_size for path in expected}
    found = DiskMap(opened(image), Rules(RULES))
    assert found.notes == []
    excluded = found.excluded[""]
    out = {path for path in expected if gone(path)}
    assert excluded.files == len(out) == 704
    assert {path.lstrip("/") for path, _ in excluded.names} == out
    assert sorted(excluded.matched)[:2] == ["/var/cache", "/var/log/big.gz"]
    plain = sum(end - start for start, end in DiskMap(opened(image)).used(0, found.size))
    used = list(found.used(0, found.size))
    assert plain - sum(end - start for start, end in used) == excluded.total
    assert excluded.total > 12 * MIB
    target = restored(image, used, tmp_path / "target")
    if name != "ntfs":  # whose check is no more than a look
        check_filesystem(target, kind_of(name))
    with mounted(target, kind_of(name), tmp_path / "again", "ro") as folder:
        now = sums(folder)
        assert {path: (folder / path).stat().st_size for path in now} == sizes
    assert {path for path in expected if now[path] != expected[path]} <= out
    assert all(now[path] != expected[path] for path in out if sizes[path] > 200_000)


def test_a_hard_link_that_is_kept_keeps_the_content(tmp_path: Path, opened: Open) -> None:
    need_root()
    for name in ("ext4", "xfs", "ntfs"):
        image = made(tmp_path / name, name)
        with mounted(image, kind_of(name), tmp_path / "there") as folder:
            for file, links in (("a.out", ("b.out", "c.out")), ("kept.out", ("kept",))):
                (folder / file).write_bytes(os.urandom(MIB))
                for link in links:
                    os.link(folder / file, folder / link)
        found = DiskMap(opened(image), Rules(["*.out"]))
        assert found.excluded[""].files == 1
        assert found.excluded[""].total == MIB


def test_blocks_that_files_share_are_kept(tmp_path: Path, opened: Open) -> None:
    need_root()
    image = made(tmp_path / "image", "xfs")
    with mounted(image, "xfs", tmp_path / "there") as folder:
        (folder / "kept").write_bytes(os.urandom(4 * MIB))
        run("cp", "--reflink=always", folder / "kept", folder / "copy.out")
        with (folder / "copy.out").open("r+b") as file:
            file.seek(MIB)
            file.write(os.urandom(MIB))
        expected = sums(folder)
    found = DiskMap(opened(image), Rules(["*.out"]))
    assert found.excluded[""].total == MIB
    target = restored(image, list(found.used(0, found.size)), tmp_path / "target")
    with mounted(target, "xfs", tmp_path / "again", "ro", "norecovery") as folder:
        assert sums(folder)["kept"] == expected["kept"]


def test_files_that_no_copy_needs_are_left_out_by_themselves(tmp_path: Path, opened: Open) -> None:
    need_root()
    image = made(tmp_path / "windows", "ntfs")
    with mounted(image, "ntfs", tmp_path / "there") as folder:
        for name in ("PAGEFILE.SYS", "hiberfil.sys", "other.sys"):
            (folder / name).write_bytes(os.urandom(2 * MIB))
    found = DiskMap(opened(image), Rules(()))
    assert sorted(found.excluded[""].names) == [("/hiberfil.sys", 2 * MIB), ("/pagefile.sys", 2 * MIB)]
    assert DiskMap(opened(image)).excluded == {}
    with mounted(image, "ntfs", tmp_path / "there") as folder, (folder / "hiberfil.sys").open("r+b") as file:
        file.write(b"HIBR")
    found = DiskMap(opened(image), Rules(()))
    assert found.found == 0
    assert "hibernated" in found.notes[0]
    for name in ("ext4", "xfs"):
        image = made(tmp_path / name, name)
        with mounted(image, name, tmp_path / "there") as folder:
            (folder / "etc").mkdir()
            (folder / "etc/fstab").write_text("# swap\n/dev/vda1 none swap sw 0 0\n/swapfile none swap sw 0 0\n")
            (folder / "swapfile").write_bytes(os.urandom(4 * MIB))
            run("mkswap", folder / "swapfile")
            (folder / "etc/kept").write_bytes(os.urandom(MIB))
        found = DiskMap(opened(image), Rules(()))
        assert found.excluded[""].names == [("/swapfile", 4 * MIB - 65536)]
        target = restored(image, list(found.used(0, found.size)), tmp_path / "target")
        with mounted(target, name, tmp_path / "again") as folder:
            assert run("blkid", "-p", "-o", "value", "-s", "TYPE", folder / "swapfile").strip() == "swap"


def test_kinds_whose_files_are_not_read_are_told(tmp_path: Path, opened: Open) -> None:
    found = DiskMap(opened(made(tmp_path / "image", "btrfs")), Rules(["*.iso"]))
    assert found.found == 1
    assert "btrfs cannot be left out" in found.notes[0]


@pytest.mark.parametrize("name", ["ext3", "ext4-plain", "xfs", "ntfs"])
def test_mutated_folders_and_inodes_give_files_or_a_typed_error(tmp_path: Path, opened: Open, name: str) -> None:
    need_root()
    image = made(tmp_path / "image", name)
    with mounted(image, kind_of(name), tmp_path / "there") as folder:
        grow_old(folder, seed=1, rounds=30, most=60_000)
    reader = opened(image)
    watched = Watched(reader)
    DiskMap(watched, Rules(["*"]))
    change = st.tuples(
        st.sampled_from(sorted(watched.seen)), st.integers(0, 400), st.binary(min_size=1, max_size=6)
    )

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(change, min_size=1, max_size=4))
    def mutate(changes: list[tuple[int, int, bytes]]) -> None:
        try:
            found = DiskMap(Watched(reader, [(place + at, junk) for place, at, junk in changes]), Rules(["*"]))
            list(found.used(0, found.size))
        except (LayoutError, FilesystemDirtyError):
            pass

    mutate()
