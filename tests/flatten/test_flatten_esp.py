"""The EFI system partition: a signed chain stays, an unsigned loader is rebuilt, and nothing on it leads out."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from flatten_trees import contents, program

from blocksync import flatten
from blocksync.errors import GuestFileError, GuestPathError
from blocksync.flatten.bootloader import SEAL, rebuild
from blocksync.flatten.system import Part, System, TargetDisk
from blocksync.flatten.tree import FolderTree, Guest

OLD = b"MZ (lvmid/a/b)/boot/grub"
FALLBACK = "EFI/BOOT/BOOTX64.EFI"
CHAIN = {
    "shimx64.efi": program("\\grubx64.efi".encode("utf-16-le"), signed=True),
    "grubx64.efi": program(b"signed grub /EFI/debian\0", signed=True),
    "mmx64.efi": program(b"signed manager", signed=True),
}
SIGNED = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"


def part(number: int, kind: str) -> Part:
    return Part(
        number=number,
        offset=number << 20,
        size=1 << 20,
        type_id="",
        partuuid="",
        kind=kind,
        uuid=f"0a1b2c3d-0000-4000-8000-00000000000{number}",
        label="",
    )


def uefi_system(folder: Path) -> System:
    """A system of folders whose ESP is at ``/boot/efi``; its partitions are names alone."""
    for made in ("boot/efi/EFI/debian", "boot/grub", "etc"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    (folder / "boot/grub/grub.cfg").write_text("# no menu\n")
    esp, root = part(1, "vfat"), part(2, "ext4")
    disk = TargetDisk(path="", size=4 << 20, sector_bytes=512, table="gpt", parts=(esp, root), holds_lvm=False)
    tree = FolderTree(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), "root")
    return System(disk=disk, guest=Guest(tree), homes={"/": (root, "/"), "/boot/efi": (esp, "/")})


def signed_system(folder: Path) -> System:
    """With a shim, and beside it a loader of old at the fallback path."""
    system = uefi_system(folder)
    for name, content in CHAIN.items():
        (folder / "boot/efi/EFI/debian" / name).write_bytes(content)
    (folder / "boot/efi/EFI/BOOT").mkdir(exist_ok=True)
    (folder / "boot/efi" / FALLBACK).write_bytes(OLD)
    return system


def half_signed_system(folder: Path) -> System:
    """With a GRUB of old beside a shim, and the signed one where its package keeps it."""
    system = signed_system(folder)
    (folder / "boot/efi/EFI/debian/grubx64.efi").write_bytes(OLD)
    (folder / SIGNED).parent.mkdir(parents=True, exist_ok=True)
    (folder / SIGNED).write_bytes(CHAIN["grubx64.efi"])
    return system


def unsigned_system(folder: Path) -> System:
    """With loaders of old, at the fallback path and where a firmware's entry leads."""
    system = uefi_system(folder)
    (folder / "boot/efi/EFI/BOOT").mkdir(exist_ok=True)
    for path in (FALLBACK, "EFI/debian/grubx64.efi"):
        (folder / "boot/efi" / path).write_bytes(OLD)
    return system


def bios_system(folder: Path) -> System:
    """With a gap behind its master boot record."""
    for made in ("boot/grub", "etc"):
        (folder / made).mkdir(parents=True, exist_ok=True)
    (folder / "boot/grub/grub.cfg").write_text("# no menu\n")
    root = part(1, "ext4")
    disk = TargetDisk(path="", size=4 << 20, sector_bytes=512, table="mbr", parts=(root,), holds_lvm=False)
    tree = FolderTree(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), "root")
    return System(disk=disk, guest=Guest(tree), homes={"/": (root, "/")})


SYSTEMS: dict[str, Callable[[Path], System]] = {
    "signed": signed_system,
    "half signed": half_signed_system,
    "unsigned": unsigned_system,
    "bios": bios_system,
}


def nowhere(_offset: int, _data: bytes) -> None:
    """What is written outside of the filesystems."""


@functools.cache
def written_paths() -> list[tuple[str, str]]:
    """``(system, path)`` of each file that a rebuild finds or writes; of GRUB's modules one a kind."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for name, made in SYSTEMS.items():
        with tempfile.TemporaryDirectory(prefix="written-") as folder:
            rebuild(made(Path(folder)), nowhere)
            for file in sorted(Path(folder).rglob("*")):
                where = file.relative_to(folder)
                path = str(where)
                if not file.is_file():
                    continue
                kind = str(where.parent / f"*{where.suffix}") if where.suffix in (".mod", ".lst") else path
                found.setdefault((name, kind), (name, path))
    return sorted(found.values())


def never(_offset: int, _data: bytes) -> None:
    raise AssertionError("nothing is written outside of the filesystems")


def test_a_signed_chain_stays_and_is_found_without_an_entry_of_the_firmware(tmp_path: Path) -> None:
    system = uefi_system(tmp_path)
    esp = tmp_path / "boot/efi"
    for name, content in CHAIN.items():
        (esp / "EFI/debian" / name).write_bytes(content)
    done = rebuild(system, never).done
    assert done == ("the signed loaders of EFI/debian are kept, and can be booted from EFI/BOOT",)
    for name, content in CHAIN.items():
        assert (esp / "EFI/debian" / name).read_bytes() == content
        fallback = "BOOTX64.EFI" if name == "shimx64.efi" else name
        assert (esp / "EFI/BOOT" / fallback).read_bytes() == content
    before = contents(tmp_path)
    rebuild(system, never)
    assert contents(tmp_path) == before


def test_a_fallback_that_is_signed_already_stays(tmp_path: Path) -> None:
    system = uefi_system(tmp_path)
    esp = tmp_path / "boot/efi"
    (esp / "EFI/debian/shimx64.efi").write_bytes(CHAIN["shimx64.efi"])
    (esp / "EFI/BOOT").mkdir()
    (esp / FALLBACK).write_bytes(b"MZ the distribution's own")
    rebuild(system, never)
    assert (esp / FALLBACK).read_bytes() == b"MZ the distribution's own"


def test_a_fallback_that_looks_for_the_old_volume_gives_way_to_the_signed_chain(tmp_path: Path) -> None:
    rebuild(signed_system(tmp_path), never)
    folder = tmp_path / "boot/efi/EFI/BOOT"
    assert (folder / "BOOTX64.EFI").read_bytes() == CHAIN["shimx64.efi"]
    assert (folder / "grubx64.efi").read_bytes() == CHAIN["grubx64.efi"]
    assert (tmp_path / "etc/blocksync-flatten/original/boot/efi" / FALLBACK).read_bytes() == OLD
    before = contents(tmp_path)
    rebuild(uefi_system(tmp_path), never)
    assert contents(tmp_path) == before


def test_an_unsigned_loader_is_rebuilt_for_the_fallback_path_and_where_it_was(tmp_path: Path) -> None:
    system = uefi_system(tmp_path)
    old = tmp_path / "boot/efi/EFI/debian/grubx64.efi"
    old.write_bytes(b"MZ (lvmid/a/b)/boot/grub")
    assert len(rebuild(system, never).done) == 2
    fresh = (tmp_path / "boot/efi" / FALLBACK).read_bytes()
    assert fresh[:2] == b"MZ"
    assert old.read_bytes() == fresh
    kept = tmp_path / "etc/blocksync-flatten/original/boot/efi/EFI/debian/grubx64.efi"
    assert kept.read_bytes() == b"MZ (lvmid/a/b)/boot/grub"


def test_no_other_module_of_flatten_writes_into_a_system() -> None:
    """Files of configuration follow from the rules; those of boot loaders are found out by :func:`written_paths`."""
    writing = re.compile(r"guest\.(?:write|remove|make_link|make_folders)\(|\bkeep_original\(")
    folder = Path(flatten.__path__[0])
    found = {path.name for path in folder.glob("*.py") if writing.search(path.read_text())}
    assert found == {"changes.py", "bootloader.py", "uefi.py", "grubimage.py"}
    places = {path for _, path in written_paths()}
    assert {"boot/efi/" + FALLBACK, "boot/efi/EFI/debian/grubx64.efi", SEAL[1:]} <= places
    assert any(path.startswith("boot/grub/i386-pc/") for path in places)
    assert "boot/efi/EFI/debian/grub.cfg" in places


@pytest.mark.parametrize(("name", "path"), written_paths())
@pytest.mark.parametrize("how", ["file", "folder", "hard link", "fifo"])
def test_what_a_loader_is_written_to_leads_to_nothing_of_the_host(
    name: str, path: str, how: str, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    bait = host / Path(path).name
    bait.write_bytes(b"the host's own (lvmid/a/b)")
    root = tmp_path / "root"
    system = SYSTEMS[name](root)
    victim = root / path
    victim.parent.mkdir(parents=True, exist_ok=True)
    if how == "folder":
        shutil.rmtree(victim.parent)
        victim.parent.symlink_to(host)
    else:
        victim.unlink(missing_ok=True)
        if how == "file":
            victim.symlink_to(bait)
        elif how == "fifo":
            os.mkfifo(victim)
        else:  # within a filesystem alone: another file of the system, not of the host
            other = root / "etc/other"
            other.write_bytes(b"another file of the system")
            victim.hardlink_to(other)
    before = contents(host)
    try:
        rebuild(system, nowhere)
    except (GuestFileError, GuestPathError) as error:
        assert error.code in ("BS1120", "BS1121")  # noqa: PT017 - refusing is one of two right answers
    assert contents(host) == before
    if how == "hard link":
        assert (root / "etc/other").read_bytes() == b"another file of the system"
