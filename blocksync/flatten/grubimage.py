"""Images of GRUB, made by grub-mkimage of this machine; no code of the system is run.

The modules are the system's own where it has the whole set (``blscfg`` exists in Fedora's GRUB alone), else this
machine's; those that GRUB loads later must be of the same build, so they are copied to ``/boot/grub`` where they
differ. grub-mkimage reads the system's modules as nobody, on copies, with limits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blocksync.errors import BootLoaderError, GuestFileError
from blocksync.flatten.system import Part
from blocksync.flatten.tree import Guest

BIOS, UEFI = "i386-pc", "x86_64-efi"
_MOST_MODULE_BYTES = 4 << 20
_MOST_MODULES = 600
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
_NOBODY = 65534


@contextlib.contextmanager
def modules_of(guest: Guest, platform: str) -> Iterator[tuple[Path, str]]:
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
        package = "grub-pc-bin" if platform == BIOS else "grub-efi-amd64-bin"
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


def same_modules(guest: Guest, modules: Path, folder: str) -> None:
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


def search_for(home: Part, path: str) -> str:
    """What GRUB runs first: it looks on all disks for the filesystem with its files.

    Args:
        home, path: where these lie, and their path there.

    Raises:
        BootLoaderError: the filesystem has no UUID to be found by.
    """
    if not home.uuid:
        raise BootLoaderError(f"the filesystem of {home.called}, which holds {path}, has no UUID")
    return f"search.fs_uuid {home.uuid} root\nset prefix=($root)'{path}'\n"


def make_image(
    modules: Path, platform: str, home: Part, *, prefix: str, config: str | None, more: tuple[str, ...]
) -> bytes:
    filesystem = _FILESYSTEMS.get(home.kind)
    if filesystem is None:
        raise BootLoaderError(f"GRUB's files lie on {home.kind or 'an unknown filesystem'}, which is not supported")
    wanted = (*_COMMON, *(_SCRIPT if platform == UEFI else ("blscfg",)), filesystem, *more)
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
