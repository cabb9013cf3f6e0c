"""blocksync itself for a machine: this checkout and the packages it stands on, as a disk that holds a tar archive.

The guest's Python is of the version that most distributions of its age have; compiled packages fit where the
host's version is the same, and the archive then holds the very files that the tests run with.
"""

from __future__ import annotations

import sys
import sysconfig
import tarfile
from pathlib import Path

PACKAGES = [
    "_cffi_backend",
    "aiohappyeyeballs",
    "aiohttp",
    "aiosignal",
    "attr",
    "attrs",
    "blake3",
    "cffi",
    "click",
    "cryptography",
    "frozenlist",
    "idna",
    "markdown_it",
    "mdurl",
    "multidict",
    "propcache",
    "pycparser",
    "pygments",
    "rich",
    "typing_extensions",
    "uvloop",
    "xxhash",
    "yarl",
    "zstandard",
]
PLACE = "/opt/blocksync"
COMMAND = f"PYTHONPATH={PLACE} BLOCKSYNC_STATE_DIR=/root/state python3 -m blocksync"
GUEST_PYTHON = (3, 11)


def package_disk(path: Path) -> Path:
    """Write the archive; attach it as a disk and :func:`unpack` it in the guest."""
    assert sys.version_info[:2] == GUEST_PYTHON, f"these tests need Python {GUEST_PYTHON}, as the guest has it"
    site = Path(sysconfig.get_paths()["platlib"])
    here = Path(__file__).resolve().parent.parent.parent / "blocksync"
    with tarfile.open(path, "w") as archive:
        archive.add(here, "blocksync", filter=_without_caches)
        for name in PACKAGES:
            for found in [*site.glob(name), *site.glob(f"{name}.*")]:
                if found.is_dir() == (found.name == name):
                    archive.add(found, found.name, filter=_without_caches)
    with path.open("r+b") as file:  # a disk has whole sectors
        file.truncate(-(-path.stat().st_size // 512) * 512)
    return path


def unpack(device: str) -> str:
    """The guest's command that unpacks it."""
    return f"mkdir -p {PLACE} && tar -xf {device} -C {PLACE}"


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name or entry.name.endswith(".pyi") else entry
