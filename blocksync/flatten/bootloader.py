"""GRUB on the target, rebuilt with this machine's grub-mkimage; no code of the system is run.

A core image, and an EFI image, know where to find ``/boot/grub``; on LVM that is ``(lvmid/…)``, and what is
compressed inside cannot be edited. So both are made anew: for a BIOS here, for UEFI in
:mod:`~blocksync.flatten.uefi`.

BIOS: the format of boot.img and diskboot.img is GRUB's ``include/grub/i386/pc/boot.h``. Only bytes 0 to 439 of the
first sector are written.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BootLoaderError
from blocksync.flatten.changes import FOLDER
from blocksync.flatten.grubimage import BIOS, UEFI, make_image, modules_of, same_modules, search_for
from blocksync.flatten.kinds import BIOS_BOOT_TYPE
from blocksync.flatten.system import Part, System
from blocksync.flatten.tree import Guest
from blocksync.flatten.uefi import rebuild_uefi

BOOT_CODE_BYTES = 440
_SECTOR = 512
SEAL = FOLDER + "/loader.json"
"""Which core was put where: what is in it cannot be read back, since it is compressed."""

WriteTarget = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaders:
    """What was done about booting; lines for people."""

    done: tuple[str, ...]
    notes: tuple[str, ...]


def rebuild(system: System, write: WriteTarget) -> Loaders:
    """Rebuild what the system boots with.

    Args:
        write: writes bytes to the target at an offset.

    Raises:
        BootLoaderError: this machine lacks what is needed, or it does not fit.
    """
    done: list[str] = []
    notes: list[str] = []
    folder = grub_folder(system.guest)
    esp = find_esp(system)
    bios = bios_place(system)
    if folder is None:
        if _boots_entries(system):
            return Loaders(done=("systemd-boot reads its entries: nothing to rebuild",), notes=())
        legacy = system.guest.kind("/boot/grub/menu.lst") or system.guest.kind("/boot/grub/grub.conf")
        what = "GRUB legacy, which is not rebuilt" if legacy else "no GRUB configuration"
        return Loaders(done=(), notes=(f"the system has {what}: make its boot loader work by hand",))
    home, path = system.home_of(folder)
    if esp is not None:
        mended, known = rebuild_uefi(system, esp, home, path, folder)
        done += mended
        notes += known
    if bios is not None and (esp is None or system.guest.kind(f"{folder}/{BIOS}") == "folder"):
        done.append(_rebuild_bios(system, bios, home, path, folder, write))
    if not done:
        notes.append("the target has neither an EFI system partition nor a place for GRUB: it will not boot")
    return Loaders(done=tuple(done), notes=tuple(notes))


def grub_folder(guest: Guest) -> str | None:
    """Where GRUB's configuration lies in the system."""
    for folder in ("/boot/grub2", "/boot/grub"):
        if any(guest.kind(f"{folder}/{name}") for name in ("grub.cfg", "grubenv", BIOS, UEFI)):
            return folder
    return None


def find_esp(system: System) -> str | None:
    """The mount point of the EFI system partition."""
    for point in ("/boot/efi", "/efi", "/boot"):
        home = system.homes.get(point)
        if home is not None and home[0].kind == "vfat" and system.guest.kind(f"{point}/EFI") == "folder":
            return point
    return None


def _boots_entries(system: System) -> bool:
    return any(system.guest.names(f"{point}/loader/entries") for point in ("/boot", "/boot/efi", "/efi"))


# -- BIOS ---------------------------------------------------------------------------------------------------------


def bios_place(system: System) -> tuple[int, int] | None:
    """``(offset, length)`` for GRUB's core: a bios_grub partition, or the gap behind a master boot record."""
    disk = system.disk
    if disk.table == "gpt":
        place = next((part for part in disk.parts if part.type_id == BIOS_BOOT_TYPE), None)
        return (place.offset, place.size) if place is not None else None
    if disk.table == "mbr" and disk.parts:
        first = min(part.offset for part in disk.parts)
        return (_SECTOR, first - _SECTOR) if first > _SECTOR else None
    return None


def _rebuild_bios(
    system: System, place: tuple[int, int], home: Part, path: str, folder: str, write: WriteTarget
) -> str:
    # On the disk that was booted its number is enough; which one another disk has, only the BIOS knows.
    partition = f"{'gpt' if system.disk.table == 'gpt' else 'msdos'}{home.number}"
    prefix, config = (path, search_for(home, path)) if home.target else (f"(,{partition}){path}", None)
    with modules_of(system.guest, BIOS) as (modules, whose):
        core = make_image(modules, BIOS, home, prefix=prefix, config=config, more=("biosdisk",))
        boot = _boot_image(modules)
        same_modules(system.guest, modules, f"{folder}/{BIOS}")
    offset, room = place
    if len(core) > room:
        raise BootLoaderError(
            f"GRUB's core of {len(core)} bytes does not fit into the {room} bytes there are for it"
        )
    first, sectors = offset // _SECTOR, -(-len(core) // _SECTOR)
    image = located_core(core, first, sectors)
    write(offset, image)
    write(0, located_boot(boot, first))
    seal = {"offset": offset, "length": len(image), "sha256": hashlib.sha256(image).hexdigest()}
    system.guest.make_folders(FOLDER)
    system.guest.write(SEAL, json.dumps(seal).encode() + b"\n", mode=0o600)
    return f"GRUB for BIOS rebuilt at sector {first}, reading {path} on {home.called} ({whose} modules)"


def located_boot(boot: bytes, first: int) -> bytes:
    """boot.img that loads a core at sector ``first``, as far as it is written."""
    code = bytearray(boot[:BOOT_CODE_BYTES])
    struct.pack_into("<Q", code, 0x5C, first)
    code[0x64] = 0xFF  # the drive that the BIOS booted from
    code[0x66:0x68] = b"\x90\x90"  # the drive number's check is left out, as grub-install does on hard disks
    return bytes(code)


def located_core(core: bytes, first: int, sectors: int) -> bytes:
    """A core image that knows where its own rest is: one run behind its first sector."""
    image = bytearray(core.ljust(sectors * _SECTOR, b"\0"))
    struct.pack_into("<QHH", image, 0x1F4, first + 1, sectors - 1, 0x820)
    return bytes(image)


def _boot_image(modules: Path) -> bytes:
    boot = (modules / "boot.img").read_bytes()
    if len(boot) != _SECTOR:
        raise BootLoaderError("boot.img is no boot sector")
    return boot
