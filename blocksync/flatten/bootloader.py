"""GRUB on the target, rebuilt with this machine's grub-mkimage; no code of the system is run.

A core image, and an EFI image, know where to find ``/boot/grub``; on LVM that is ``(lvmid/…)``, and what is
compressed inside cannot be edited. So both are made anew. The modules are the system's own where it has the whole
set (``blscfg`` exists in Fedora's GRUB alone), else this machine's; those that GRUB loads later must be of the
same build, so they are copied to ``/boot/grub`` where they differ. grub-mkimage reads the system's modules as
nobody, on copies, with limits.

BIOS: the format of boot.img and diskboot.img is GRUB's ``include/grub/i386/pc/boot.h``. Only bytes 0 to 439 of the
first sector are written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import BootLoaderError, GuestFileError
from blocksync.flatten.changes import FOLDER, keep_original
from blocksync.flatten.kinds import BIOS_BOOT_TYPE
from blocksync.flatten.system import Part, System
from blocksync.flatten.tree import Guest

BOOT_CODE_BYTES = 440
_SECTOR = 512
_MOST_MODULE_BYTES = 4 << 20
_MOST_MODULES = 600
_MOST_LOADER_BYTES = 64 << 20
_BIOS, _UEFI = "i386-pc", "x86_64-efi"
_HOST_MODULES = Path("/usr/lib/grub")
_COMMON = (
    "part_gpt",
    "part_msdos",
    "search",
    "search_fs_uuid",
    "search_fs_file",
    "search_label",
    "normal",
    "configfile",
)
_SCRIPT = (
    "linux",
    "echo",
    "test",
    "boot",
    "ls",
    "cat",
    "minicmd",
    "all_video",
    "gzio",
    "blscfg",
    "increment",
    "loadenv",
)
_FILESYSTEMS = {"ext2": "ext2", "ext3": "ext2", "ext4": "ext2", "xfs": "xfs", "btrfs": "btrfs", "vfat": "fat"}
_FALLBACK = "EFI/BOOT"
_NOBODY = 65534
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
        done += _rebuild_uefi(system, esp, home, path, folder)
    if bios is not None and (esp is None or system.guest.kind(f"{folder}/{_BIOS}") == "folder"):
        done.append(_rebuild_bios(system, bios, home, path, folder, write))
    if not done:
        notes.append("the target has neither an EFI system partition nor a place for GRUB: it will not boot")
    return Loaders(done=tuple(done), notes=tuple(notes))


def grub_folder(guest: Guest) -> str | None:
    """Where GRUB's configuration lies in the system."""
    for folder in ("/boot/grub2", "/boot/grub"):
        if any(guest.kind(f"{folder}/{name}") for name in ("grub.cfg", "grubenv", _BIOS, _UEFI)):
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
    partition = f"{'gpt' if system.disk.table == 'gpt' else 'msdos'}{home.number}"
    with _modules(system.guest, _BIOS) as (modules, whose):
        core = _image(modules, _BIOS, home, prefix=f"(,{partition}){path}", config=None, more=("biosdisk",))
        boot = _boot_image(modules)
        _same_modules(system.guest, modules, f"{folder}/{_BIOS}")
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
    return f"GRUB for BIOS rebuilt at sector {first}, reading {path} on partition {home.number} ({whose} modules)"


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


# -- UEFI ---------------------------------------------------------------------------------------------------------


def _rebuild_uefi(system: System, esp: str, home: Part, path: str, folder: str) -> list[str]:
    guest = system.guest
    vendor = _shim_folder(guest, esp)
    if vendor is not None:
        return [_keep_shim(guest, esp, vendor)]
    if not home.uuid:
        raise BootLoaderError(f"the filesystem of partition {home.number}, which holds {folder}, has no UUID")
    config = f"search.fs_uuid {home.uuid} root\nset prefix=($root)'{path}'\n"
    with _modules(guest, _UEFI) as (modules, whose):
        image = _image(modules, _UEFI, home, prefix=path, config=config, more=("fat",))
        _same_modules(guest, modules, f"{folder}/{_UEFI}")
    places = [f"{esp}/{_FALLBACK}/BOOTX64.EFI"]
    # A loader of a machine whose firmware still knows it: its prefix names the old volume.
    for name in guest.names(f"{esp}/EFI"):
        old = f"{esp}/EFI/{name}/grubx64.efi"
        if name.upper() != "BOOT" and guest.kind(old) == "file":
            places.append(old)
    guest.make_folders(f"{esp}/{_FALLBACK}")
    for place in places:
        _put_loader(guest, place, image)
    return [
        f"GRUB for UEFI rebuilt at {place}, reading {path} on partition {home.number} ({whose} modules)"
        for place in places
    ]


def names_volume(image: bytes) -> bool:
    """Whether an EFI image has a prefix on a logical volume: signed ones look beside themselves."""
    return b"(lvmid/" in image or b"(lvm/" in image


def _put_loader(guest: Guest, place: str, image: bytes) -> None:
    before = guest.read(place, _MOST_LOADER_BYTES)
    if before is not None and before != image:
        keep_original(guest, place, before)
    guest.write(place, image)


def _shim_folder(guest: Guest, esp: str) -> str | None:
    for name in guest.names(f"{esp}/EFI"):
        if name.upper() != "BOOT" and guest.kind(f"{esp}/EFI/{name}/shimx64.efi") == "file":
            return name
    return None


def _keep_shim(guest: Guest, esp: str, vendor: str) -> str:
    """With Secure Boot the signed chain stays; it is copied to where firmware without an entry looks.

    What lies there already stays too, unless it looks for its files on the old volume.
    """
    source = f"{esp}/EFI/{vendor}"
    fallback = guest.read(f"{esp}/{_FALLBACK}/BOOTX64.EFI", _MOST_LOADER_BYTES)
    if fallback is None or names_volume(fallback):
        guest.make_folders(f"{esp}/{_FALLBACK}")
        names = {"shimx64.efi": "BOOTX64.EFI", "grubx64.efi": "grubx64.efi", "mmx64.efi": "mmx64.efi"}
        for old, new in names.items():
            content = guest.read(f"{source}/{old}", _MOST_LOADER_BYTES)
            if content is not None:
                _put_loader(guest, f"{esp}/{_FALLBACK}/{new}", content)
    return f"the signed loaders of EFI/{vendor} are kept, and can be booted from EFI/BOOT"


# -- modules and images ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _modules(guest: Guest, platform: str) -> Iterator[tuple[Path, str]]:
    """A folder with a whole set of GRUB's modules, and whose they are."""
    for folder in (f"/usr/lib/grub/{platform}", f"/usr/share/grub2/{platform}"):
        names = guest.names(folder)
        if "kernel.img" in names and "moddep.lst" in names:
            with tempfile.TemporaryDirectory(prefix="blocksync-grub-") as copied:
                _copy_out(guest, folder, names, Path(copied))
                yield Path(copied), "its own"
            return
    ours = _HOST_MODULES / platform
    if not (ours / "kernel.img").is_file():
        package = "grub-pc-bin" if platform == _BIOS else "grub-efi-amd64-bin"
        raise BootLoaderError(
            f"neither the system nor this machine has GRUB's modules for {platform}",
            remedy=f"install them on this machine: apt-get install {package}; then blocksync flatten --repair TARGET",
        )
    yield ours, "this machine's"


def _copy_out(guest: Guest, folder: str, names: list[str], to: Path) -> None:
    wanted = [name for name in names if name.endswith((".mod", ".img", ".lst"))]
    if len(wanted) > _MOST_MODULES:
        raise GuestFileError(f"{folder} holds more than {_MOST_MODULES} modules")
    to.chmod(0o755)
    for name in wanted:
        content = guest.read(f"{folder}/{name}", _MOST_MODULE_BYTES)
        if content is not None:
            (to / name).write_bytes(content)
            (to / name).chmod(0o644)


def _same_modules(guest: Guest, modules: Path, folder: str) -> None:
    """GRUB loads modules of the build that its core is of, or none: a mismatch is a rescue prompt."""
    present = guest.names(folder)
    for module in sorted(modules.iterdir()):
        if module.suffix not in (".mod", ".lst"):
            continue
        content = module.read_bytes()
        if module.name in present and guest.read(f"{folder}/{module.name}", _MOST_MODULE_BYTES) == content:
            continue
        guest.make_folders(folder)
        guest.write(f"{folder}/{module.name}", content)


def _image(
    modules: Path, platform: str, home: Part, *, prefix: str, config: str | None, more: tuple[str, ...]
) -> bytes:
    filesystem = _FILESYSTEMS.get(home.kind)
    if filesystem is None:
        raise BootLoaderError(f"GRUB's files lie on {home.kind or 'an unknown filesystem'}, which is not supported")
    wanted = (*_COMMON, *(_SCRIPT if platform == _UEFI else ("blscfg",)), filesystem, *more)
    names = [name for name in dict.fromkeys(wanted) if (modules / f"{name}.mod").is_file()]
    with tempfile.TemporaryDirectory(prefix="blocksync-grub-") as folder:
        work = Path(folder)
        work.chmod(0o777)  # nobody writes there
        output = work / "image"
        words = ["grub-mkimage", "-O", platform, "-d", str(modules), "-o", str(output), "-p", prefix]
        if config is not None:
            (work / "config").write_text(config)
            words += ["-c", str(work / "config")]
        _run_as_nobody([*words, *names])
        return output.read_bytes()


def _run_as_nobody(words: list[str]) -> None:
    """Run a tool on what may be hostile: as nobody where we are root, and within limits."""
    tool = shutil.which(words[0]) or shutil.which(words[0].replace("grub-", "grub2-"))
    if tool is None:
        raise BootLoaderError(f"{words[0]} is missing on this machine")
    nobody = _NOBODY if os.geteuid() == 0 else None
    limits = ["prlimit", "--cpu=60", f"--as={1 << 30}", f"--fsize={64 << 20}", "--core=0"]
    try:
        done = subprocess.run(
            [*limits, tool, *words[1:]],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            stdin=subprocess.DEVNULL,
            user=nobody,
            group=nobody,
            extra_groups=None if nobody is None else [],
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BootLoaderError(f"grub-mkimage cannot be run: {error}") from error
    if done.returncode:
        raise BootLoaderError(f"grub-mkimage failed: {' '.join(done.stderr.split())[:300] or done.returncode}")
