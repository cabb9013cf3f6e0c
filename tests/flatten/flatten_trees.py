"""The simulated systems below ``trees``: what they were made of, and helpers to look at a tree of files."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from blocksync.flatten.aliases import Alias, AliasMap, volume_alias
from blocksync.flatten.tree import FolderTree, Guest

TREES = Path(__file__).parent / "trees"
SYSTEMS = ("el7", "el8", "el9", "suse", "debian")
PARTUUID = "11111111-2222-4333-8444-555555555555"
GROUP_UUID = "aAaAaA-1111-2222-3333-4444-5555-bBbBbB"
ROOT_UUID = "cCcCcC-1111-2222-3333-4444-5555-dDdDdD"


def uuid(number: int) -> str:
    return f"0a1b2c3d-0000-4000-8000-{number:012d}"


def alias(group: str, volume: str, number: int, partition: int, filesystem: str) -> Alias:
    return volume_alias(
        group=group,
        volume=volume,
        group_uuid=GROUP_UUID,
        volume_uuid=ROOT_UUID if volume == "root" else f"eEeEeE-0000-0000-0000-0000-0000-{number:06d}",
        number=partition,
        partuuid=PARTUUID,
        uuid=uuid(number),
        filesystem=filesystem,
    )


def alias_map(system: str) -> AliasMap:
    """What each system's volumes became."""
    if system == "el7":
        names = (("root", 1, 2, "xfs"), ("home", 2, 3, "xfs"), ("swap", 3, 4, "swap"))
        return AliasMap([alias("centos", *name) for name in names], "mbr")
    if system == "el8":
        names = (
            ("root", 11, 3, "xfs"),
            ("var", 12, 4, "xfs"),
            ("swap", 13, 5, "swap"),
            ("vault", 14, 6, "crypto_LUKS"),
        )
        return AliasMap([alias("rhel_db-01", *name) for name in names], "gpt")
    if system == "el9":
        names = (("root", 21, 2, "xfs"), ("root-old", 22, 3, "xfs"), ("swap", 23, 4, "swap"))
        return AliasMap([alias("almalinux", *name) for name in names], "gpt")
    if system == "suse":
        names = (("root", 31, 2, "btrfs"), ("swap", 32, 3, "swap"), ("vault", 33, 4, "crypto_LUKS"))
        return AliasMap([alias("system", *name) for name in names], "mbr")
    boot = Alias(names=("/dev/sda1",), number=1, partuuid=PARTUUID, uuid=uuid(43), filesystem="ext4")
    names = (("lv-root", 41, 2, "ext4"), ("lv-swap", 42, 3, "swap"), ("vault", 44, 4, "crypto_LUKS"))
    return AliasMap([*(alias("web-01-vg", *name) for name in names), boot], "gpt")


def copied(system: str, state: str, to: Path) -> Path:
    """A copy of a tree that may be changed."""
    shutil.copytree(TREES / system / state, to, symlinks=True)
    return to


def program(content: bytes, *, signed: bool = False) -> bytes:
    """An EFI program as far as it is looked at: PE32+ headers, content, and a certificate where it is signed."""
    header = bytearray(512)
    header[:2], header[128:132] = b"MZ", b"PE\0\0"
    struct.pack_into("<I", header, 0x3C, 128)
    struct.pack_into("<H", header, 152, 0x20B)
    struct.pack_into("<I", header, 260, 16)
    if signed:
        struct.pack_into("<II", header, 296, 512 + len(content), 16)
    return bytes(header) + content + (b"a certificate".ljust(16) if signed else b"")


def guest(folder: Path) -> Guest:
    return Guest(FolderTree(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), "root"))


def contents(folder: Path) -> dict[str, bytes | str]:
    """Each file's bytes and each link's target, without the repair's own folder."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith("etc/blocksync-flatten"):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found
