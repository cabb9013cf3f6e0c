"""An ext4 whose free blocks hold junk, for tests of what is not read."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

from tests.devices import image, mounted, need_root, run

MIB = 1 << 20
SIZE = 96 * MIB


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fill(folder: Path, seed: int) -> None:
    """Files made and removed: what is removed leaves junk in blocks that are free afterwards."""
    chance = random.Random(seed)
    for number in range(40):
        (folder / f"s{seed}f{number}").write_bytes(chance.randbytes(chance.randrange(1, MIB)))
    os.sync()
    for path in chance.sample(sorted(folder.glob("s*f*")), 18):
        path.unlink()


def used_disk(tmp_path: Path) -> Path:
    need_root()
    path = image(tmp_path / "disk.img", SIZE)
    run("mkfs.ext4", "-q", "-F", "-b", "1024", path)
    with mounted(path, tmp_path / "there") as folder:
        fill(folder, 1)
    return path
