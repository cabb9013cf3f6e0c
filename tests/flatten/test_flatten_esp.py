"""The EFI system partition: a signed chain stays, an unsigned loader is rebuilt, and nothing on it leads out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flatten_trees import contents

from blocksync.errors import GuestFileError, GuestPathError
from blocksync.flatten.bootloader import rebuild
from blocksync.flatten.system import Part, System, TargetDisk
from blocksync.flatten.tree import FolderTree, Guest

FALLBACK = "EFI/BOOT/BOOTX64.EFI"
CHAIN = {"shimx64.efi": b"MZ signed shim", "grubx64.efi": b"MZ signed grub", "mmx64.efi": b"MZ signed manager"}
LOADER_PATHS = (
    "boot/efi/EFI/BOOT/BOOTX64.EFI",
    "boot/efi/EFI/debian/grubx64.efi",
    "boot/grub/x86_64-efi/normal.mod",
    "etc/blocksync-flatten/original/boot/efi/EFI/BOOT/BOOTX64.EFI",
)


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


@pytest.mark.parametrize("path", LOADER_PATHS)
@pytest.mark.parametrize("how", ["file", "folder", "hard link", "fifo"])
def test_what_a_loader_is_written_to_leads_to_nothing_of_the_host(path: str, how: str, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    bait = host / Path(path).name
    bait.write_bytes(b"the host's own (lvmid/a/b)")
    root = tmp_path / "root"
    system = uefi_system(root)
    (root / "boot/efi/EFI/debian/grubx64.efi").write_bytes(b"MZ (lvmid/a/b)")
    victim = root / path
    victim.parent.mkdir(parents=True, exist_ok=True)
    if how == "folder":
        for inside in victim.parent.iterdir():
            inside.unlink()
        victim.parent.rmdir()
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
        rebuild(system, never)
    except (GuestFileError, GuestPathError) as error:
        assert error.code in ("BS1120", "BS1121")  # noqa: PT017 - refusing is one of two right answers
    assert contents(host) == before
    if how == "hard link":
        assert (root / "etc/other").read_bytes() == b"another file of the system"
