"""Filesystems made by the tools of their own projects."""

from __future__ import annotations

from pathlib import Path

from volume_images import image, run

MIB = 1 << 20
EXT = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard")
MAKERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ext2": (64, ("mkfs.ext2", "-q", "-F", "-L", "label two")),
    "ext3": (64, ("mkfs.ext3", "-q", "-F", "-L", "three")),
    "ext4": (200, (*EXT, "-b", "4096", "-L", "vier")),
    "ext4-1k": (100, (*EXT, "-b", "1024")),
    "ext4-plain": (64, (*EXT, "-b", "4096", "-O", "^metadata_csum,^64bit,uninit_bg")),
    "ext4-bigalloc": (200, (*EXT, "-b", "4096", "-O", "bigalloc", "-C", "65536")),
    "ext4-bigalloc-1k": (100, (*EXT, "-b", "1024", "-O", "bigalloc")),
    "ext4-meta_bg": (200, (*EXT, "-b", "1024", "-O", "meta_bg,^resize_inode,64bit")),
    "ext4-sparse2": (200, (*EXT, "-b", "1024", "-O", "sparse_super2,^resize_inode")),
    "ext4-noflex": (200, (*EXT, "-b", "1024", "-O", "^flex_bg")),
    "xfs": (320, ("mkfs.xfs", "-q", "-f", "-L", "five")),
    "xfs-v4": (320, ("mkfs.xfs", "-q", "-f", "-m", "crc=0", "-L", "four")),
    "xfs-1k": (1000, ("mkfs.xfs", "-q", "-f", "-b", "size=1024", "-d", "agcount=7")),
    "btrfs": (256, ("mkfs.btrfs", "-q", "-f", "-L", "bee")),
    "btrfs-dup": (512, ("mkfs.btrfs", "-q", "-f", "-d", "dup", "-m", "dup")),
    "btrfs-xxhash": (256, ("mkfs.btrfs", "-q", "-f", "--csum", "xxhash", "-d", "single", "-m", "single")),
    "btrfs-sha256": (256, ("mkfs.btrfs", "-q", "-f", "--csum", "sha256")),
    "btrfs-blake2": (256, ("mkfs.btrfs", "-q", "-f", "--csum", "blake2")),
    "ntfs": (64, ("mkfs.ntfs", "-q", "-F", "-f", "-L", "fenetre")),
    "ntfs-512": (32, ("mkfs.ntfs", "-q", "-F", "-f", "-c", "512")),
    "fat12": (4, ("mkfs.vfat", "-F", "12", "-n", "TWELVE")),
    "fat16": (40, ("mkfs.vfat", "-F", "16", "-n", "SIXTEEN")),
    "fat32": (80, ("mkfs.vfat", "-F", "32", "-n", "THIRTYTWO")),
    "swap": (20, ("mkswap", "-L", "tausch")),
}


def made(path: Path, name: str) -> Path:
    """A fresh filesystem of that name in the table."""
    size, command = MAKERS[name]
    image(path, size * MIB)
    run(*command, path, environment={"LC_ALL": "C.UTF-8"})
    return path
