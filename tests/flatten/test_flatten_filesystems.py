"""Three ways to a system's files are one: a folder, an ext4 by debugfs, a FAT by mtools; and a repair without root."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flatten_trees import alias_map, contents, copied

from blocksync.errors import GuestFileError
from blocksync.flatten.changes import apply_changes, find_changes
from blocksync.flatten.debugfs import ExtTree
from blocksync.flatten.fat import FatTree
from blocksync.flatten.mounts import Place, mounted, privately
from blocksync.flatten.tree import FolderTree, Guest, Tree
from tests.devices import need_root

MIB = 1 << 20
KINDS = ("folder", "ext4", "fat")


def disk_with(path: Path, tool: list[str]) -> Path:
    """An image whose filesystem begins at 1 MiB."""
    inner = path.with_suffix(".inner")
    with inner.open("wb") as file:
        file.truncate(40 * MIB)
    subprocess.run([*tool, inner], check=True, capture_output=True)
    with path.open("wb") as file:
        file.truncate(41 * MIB)
        file.seek(MIB)
        file.write(inner.read_bytes())
    inner.unlink()
    return path


def opened(kind: str, tmp_path: Path, tree: Path) -> Tree:
    if kind == "folder":
        return FolderTree(os.open(tree, os.O_RDONLY | os.O_DIRECTORY), "root")
    if kind == "ext4":
        image = disk_with(tmp_path / "disk.img", ["mkfs.ext4", "-q", "-F", "-d", str(tree)])
        return ExtTree(str(image), MIB, write=True)
    return FatTree(str(disk_with(tmp_path / "disk.img", ["mkfs.vfat"])), MIB)


@pytest.fixture(params=KINDS)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    empty = tmp_path / "empty"
    empty.mkdir()
    made = opened(request.param, tmp_path, empty)
    yield made
    made.close()


def test_what_is_written_is_read_back_listed_and_removed(tree: Tree) -> None:
    assert tree.kind(()) == "folder"
    assert tree.kind(("EFI",)) == ""
    assert tree.kind(("EFI", "none", "at-all")) == ""
    tree.make_folder(("EFI",))
    tree.make_folder(("EFI",))
    tree.make_folder(("EFI", "BOOT"))
    assert tree.names(("EFI", "BOOT")) == []
    data = os.urandom(100_000)
    tree.write(("EFI", "BOOT", "grub.cfg"), data)
    tree.write(("EFI", "empty"), b"")
    assert tree.kind(("EFI", "BOOT")) == "folder"
    assert tree.kind(("EFI", "BOOT", "grub.cfg")) == "file"
    assert tree.read(("EFI", "BOOT", "grub.cfg"), MIB) == data
    assert tree.read(("EFI", "empty"), MIB) == b""
    assert tree.names(("EFI",)) == ["BOOT", "empty"]
    tree.write(("EFI", "BOOT", "grub.cfg"), b"short")
    assert tree.read(("EFI", "BOOT", "grub.cfg"), MIB) == b"short"
    with pytest.raises(GuestFileError, match="more than 4 bytes"):
        tree.read(("EFI", "BOOT", "grub.cfg"), 4)
    tree.remove(("EFI", "BOOT", "grub.cfg"))
    assert tree.kind(("EFI", "BOOT", "grub.cfg")) == ""
    tree.sync()


def test_a_target_is_free_when_its_mount_ends_though_somebody_looked_at_the_loop_device(tmp_path: Path) -> None:
    need_root()
    image = disk_with(tmp_path / "disk.img", ["mkfs.ext4", "-q", "-F"])
    place = Place(path=str(image), offset=MIB, size=40 * MIB, kind="ext4")

    def loops() -> list[str]:
        words = ["losetup", "--noheadings", "--output", "NAME", "-j", str(image)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    def work() -> list[str]:
        with mounted(place, read_only=True):
            looking = os.open(loops()[0], os.O_RDONLY)
            looked = threading.Timer(1.0, os.close, [looking])
            looked.start()
        left = loops()
        looked.join()
        return left

    assert privately(work) == []


@pytest.mark.parametrize("kind", ["folder", "ext4"])
def test_links_are_seen_and_not_followed(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "outside").symlink_to("/etc")
    (source / "long").symlink_to("/" + "a" * 100)
    (source / "file").write_text("content")
    (source / "file").chmod(0o640)
    made = opened(kind, tmp_path, source)
    assert made.kind(("outside",)) == "link"
    assert made.link(("outside",)) == "/etc"
    assert made.link(("long",)) == "/" + "a" * 100
    assert made.kind(("outside", "passwd")) == ""
    made.make_link(("new",), "../somewhere")
    assert made.link(("new",)) == "../somewhere"
    made.write(("file",), b"other")
    made.close()
    if kind == "folder":
        assert (source / "file").stat().st_mode & 0o777 == 0o640
    else:
        said = subprocess.run(
            ["debugfs", "-R", "stat /file", f"{tmp_path / 'disk.img'}?offset={MIB}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "Mode:  0640" in said


def test_an_ext4_is_repaired_by_debugfs_as_by_a_mount(tmp_path: Path) -> None:
    source = copied("el9", "before", tmp_path / "source")
    made = opened("ext4", tmp_path, source)
    aliases = alias_map("el9")
    apply_changes(Guest(made), find_changes(Guest(made), aliases), {})
    assert find_changes(Guest(made), aliases) == []
    made.close()
    image = f"{tmp_path / 'disk.img'}?offset={MIB}"
    checked = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["debugfs", "-R", f"rdump / {out}", image], check=True, capture_output=True)
    found = {name: content for name, content in contents(out).items() if not name.startswith("lost+found")}
    assert found == contents(copied("el9", "after", tmp_path / "expected"))
