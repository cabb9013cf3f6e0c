"""Boot loaders on an EFI system partition: which are there, what is wrong with them, and what is put in their place.

A GRUB is rebuilt by grub-mkimage, unsigned. Where a shim stands beside it, the chain is the distribution's, and
signed: it stays, and is copied to the fallback path, since entries of the firmware do not travel. A GRUB beside a
shim that is not signed is refused by that shim under Secure Boot, and started without: one that looks for the old
volume is replaced by the signed one that Debian's packages keep in the system, else rebuilt, since as it is it boots
neither way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blocksync.errors import GuestFileError
from blocksync.flatten.changes import keep_original
from blocksync.flatten.efiprograms import LOADERS, is_signed, names_volume, started_by
from blocksync.flatten.grubimage import UEFI, make_image, modules_of, same_modules, search_for
from blocksync.flatten.system import Part, System
from blocksync.flatten.tree import Guest

FALLBACK = "BOOTX64.EFI"
_MOST_LOADER_BYTES = 64 << 20
_MOST_FOLDERS = 64
_SHIMS = ("shimx64.efi", "shim.efi")
_MANAGERS = ("mmx64.efi", "MokManager.efi")
# They start what the other folders' lists name, and need no GRUB beside themselves.
_LISTERS = ("fbx64.efi", "fallback.efi")
# Where Debian's and Ubuntu's grub-efi-amd64-signed keeps what it copies to the partition.
_SIGNED = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
RESCUE = "'error: disk 'lvmid/…' not found.' and the prompt 'grub rescue>'"
REFUSED = "with Secure Boot the shim refuses it: 'Verification failed: (0x1A) Security Violation'"


@dataclass(slots=True, kw_only=True)
class Folder:
    """A folder of boot loaders.

    Args:
        path: in the system.
        shim: path of its shim; empty where there is none.
        grub: path of its GRUB, be it there or not.
        there: whether it is.
        certified: it carries certificates.
        lost: its prefix is on a logical volume.
    """

    path: str
    shim: str
    grub: str
    there: bool = False
    certified: bool = False
    lost: bool = False

    def holds(self, image: bytes | None) -> None:
        """Note what its GRUB is; images are large, and a hostile system has many: none is kept."""
        self.there = image is not None
        self.certified = image is not None and is_signed(image)
        self.lost = image is not None and names_volume(image)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def signed(self) -> bool:
        """Whether its chain is whole: a shim, and a GRUB that is signed and looks beside itself."""
        return bool(self.shim) and self.certified and not self.lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a loader.

    Args:
        path: of the loader in the system.
        names: what was found in it.
        symptom: what will happen at the next boot.
        fatal: also without Secure Boot.
    """

    path: str
    symptom: str
    names: tuple[str, ...] = ()
    fatal: bool = True


def folders(guest: Guest, esp: str) -> tuple[Folder, list[Folder]]:
    """The folder at the fallback path, and all others, by their names."""
    names = [name for name in guest.names(f"{esp}/EFI") if guest.kind(f"{esp}/EFI/{name}") == "folder"]
    if len(names) > _MOST_FOLDERS:
        raise GuestFileError(f"{esp}/EFI holds more than {_MOST_FOLDERS} folders of boot loaders")
    vendors = [_folder(guest, f"{esp}/EFI/{name}", _SHIMS) for name in names if name.upper() != "BOOT"]
    return _folder(guest, f"{esp}/EFI/BOOT", (FALLBACK,)), vendors


def _folder(guest: Guest, path: str, shims: tuple[str, ...]) -> Folder:
    starts = ""
    shim = ""
    for name in shims:
        image = _read(guest, f"{path}/{name}")
        starts = started_by(image) if image is not None else ""
        # What is called a shim is one; what lies at the fallback path may be anything.
        if starts or (image is not None and name != FALLBACK):
            shim = f"{path}/{name}"
            break
    there = [name for name in LOADERS if guest.kind(f"{path}/{name}") == "file"]
    grub = f"{path}/{starts or next(iter(there), LOADERS[0])}"
    folder = Folder(path=path, shim=shim, grub=grub)
    folder.holds(_read(guest, grub))
    return folder


def faults(guest: Guest, esp: str) -> Iterator[Fault]:
    """What will go wrong with the loaders of a partition."""
    fallback, vendors = folders(guest, esp)
    first = f"{fallback.path}/{FALLBACK}"
    image = _read(guest, first)
    if image is None:
        yield Fault(path=first, symptom="firmware without an entry for it finds nothing to boot")
    elif names_volume(image):
        yield Fault(path=first, names=("(lvmid/…)",), symptom=RESCUE)
    elif fallback.shim and not fallback.there and _needs_grub(guest, fallback):
        yield Fault(path=fallback.grub, symptom="the shim at the fallback path finds no GRUB: 'Not Found'")
    for folder in (fallback, *vendors):
        if not folder.there or (folder is fallback and not folder.shim):
            continue
        unsigned = bool(folder.shim) and not folder.certified
        if folder.lost:
            symptom = f"without Secure Boot {RESCUE}; {REFUSED}" if unsigned else RESCUE
            yield Fault(path=folder.grub, names=("(lvmid/…)",), symptom=symptom)
        elif unsigned:
            mend = "install the system's signed GRUB, or leave Secure Boot off"
            yield Fault(path=folder.grub, symptom=f"{REFUSED}; without it boots: {mend}", fatal=False)


def rebuild_uefi(system: System, esp: str, home: Part, path: str, folder: str) -> tuple[list[str], list[str]]:
    """Mend the loaders of a partition.

    Args:
        esp: its mount point.
        home, path: where GRUB's files lie, and their path there.
        folder: their path in the system.

    Returns:
        what was done, and what should be known; lines for people.

    Raises:
        BootLoaderError: a GRUB must be rebuilt and cannot.
    """
    return _Mending(system, esp, home, path, folder).mend()


class _Mending:
    """One partition's loaders while they are mended."""

    def __init__(self, system: System, esp: str, home: Part, path: str, folder: str) -> None:
        self._guest = system.guest
        self._home, self._path, self._folder = home, path, folder
        self._fallback, self._vendors = folders(system.guest, esp)
        self._built: tuple[bytes, str] | None = None
        self._done: list[str] = []
        self._notes: list[str] = []

    def mend(self) -> tuple[list[str], list[str]]:
        chained = any(each.shim for each in (*self._vendors, self._fallback))
        for folder in self._vendors:
            if folder.there and (not chained or folder.lost):
                self._replace(folder)
            elif folder.shim and not folder.there:
                self._use_signed(folder)
        chains = [folder for folder in self._vendors if folder.shim and folder.there]
        # Of several the first whose chain is whole, else the first.
        self._mend_fallback(next((each for each in chains if each.signed), next(iter(chains), None)))
        for folder in (self._fallback, *self._vendors):
            if folder.shim and folder.there and not folder.certified:
                self._notes.append(f"{folder.grub} is not signed: {REFUSED}")
        return self._done, self._notes

    def _mend_fallback(self, chain: Folder | None) -> None:
        """What firmware without an entry starts; what lies there stays, unless it cannot boot."""
        first = f"{self._fallback.path}/{FALLBACK}"
        if self._fallback.shim:
            self._mend_beside_shim(self._fallback, chain)
            self._done.append(f"the shim at {first} is kept")
            return
        present = _read(self._guest, first)
        vendor = next((folder for folder in self._vendors if folder.shim), None)
        if vendor is not None and present is not None and not names_volume(present):
            self._done.append(f"the signed loaders of EFI/{vendor.name} are kept, and {first} as it is")
        elif chain is not None:
            self._copy_chain(chain, first)
            self._done.append(f"the signed loaders of EFI/{chain.name} are kept, and can be booted from EFI/BOOT")
        else:
            image, whose = self._image()
            self._put(first, image)
            self._done.insert(0, self._told(first, whose))

    def _mend_beside_shim(self, folder: Folder, chain: Folder | None) -> None:
        if not (folder.lost or (not folder.there and _needs_grub(self._guest, folder))):
            return
        image = _read(self._guest, chain.grub) if chain is not None else None
        if image is None:
            self._replace(folder)
            return
        self._put(folder.grub, image)
        folder.holds(image)

    def _copy_chain(self, chain: Folder, first: str) -> None:
        shim = _read(self._guest, chain.shim)
        assert shim is not None
        self._put(first, shim)
        for name in (chain.grub.rpartition("/")[2], *_MANAGERS):
            content = _read(self._guest, f"{chain.path}/{name}")
            if content is not None:
                self._put(f"{self._fallback.path}/{name}", content)

    def _replace(self, folder: Folder) -> None:
        """A GRUB that reads its files where they are now: signed where the system has one, else rebuilt."""
        if folder.shim and self._use_signed(folder):
            return
        image, whose = self._image()
        self._put(folder.grub, image)
        folder.holds(image)
        self._done.append(self._told(folder.grub, whose))

    def _use_signed(self, folder: Folder) -> bool:
        """Put the system's own signed GRUB beside a shim; it reads ``grub.cfg`` in the folder that it was made for."""
        signed = _read(self._guest, _SIGNED)
        if (
            signed is None
            or not is_signed(signed)
            or f"/efi/{folder.name.lower()}\0".encode() not in signed.lower()
        ):
            return False
        config = f"{folder.path}/grub.cfg"
        if not self._guest.kind(config):
            if not self._home.uuid:
                return False
            search = search_for(self._home, self._path)
            self._guest.write(config, f"{search}configfile $prefix/grub.cfg\n".encode())
        self._put(folder.grub, signed)
        folder.holds(signed)
        self._done.append(f"the system's own signed GRUB stands at {folder.grub}, reading {config}")
        return True

    def _image(self) -> tuple[bytes, str]:
        search = search_for(self._home, self._path)
        if self._built is None:
            with modules_of(self._guest, UEFI) as (modules, whose):
                image = make_image(modules, UEFI, self._home, prefix=self._path, config=search, more=("fat",))
                same_modules(self._guest, modules, f"{self._folder}/{UEFI}")
            self._built = image, whose
        return self._built

    def _told(self, place: str, whose: str) -> str:
        return f"GRUB for UEFI rebuilt at {place}, reading {self._path} on {self._home.called} ({whose} modules)"

    def _put(self, place: str, image: bytes) -> None:
        before = _read(self._guest, place)
        if before == image:
            return
        if before is not None:
            keep_original(self._guest, place, before)
        self._guest.make_folders(place.rpartition("/")[0])
        self._guest.write(place, image)


def _needs_grub(guest: Guest, fallback: Folder) -> bool:
    """Whether the shim at the fallback path starts a GRUB beside itself, and not one of another folder."""
    return not any(guest.kind(f"{fallback.path}/{name}") == "file" for name in _LISTERS)


def _read(guest: Guest, path: str) -> bytes | None:
    return guest.read(path, _MOST_LOADER_BYTES)
