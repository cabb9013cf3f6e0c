"""Filesystems that were used for a while: files made, grown, cut and removed at random, by the kernel's own drivers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from volume_images import looped, run

from tests.devices import released

KIB = 1 << 10
FUSE = {"ntfs": "ntfs-3g"}


@contextlib.contextmanager
def mounted(image: Path, kind: str, place: Path, *options: str) -> Iterator[Path]:
    """The image mounted; unmounted cleanly at the end."""
    place.mkdir(exist_ok=True)
    with looped(image) as device:
        more = ["-o", ",".join(options)] if options else []
        command = [FUSE[kind]] if kind in FUSE else ["mount", "-t", kind]
        run(*command, *more, device, place)
        try:
            yield place
        finally:
            run("umount", place)
            released(device)


def grow_old(folder: Path, seed: int, rounds: int = 120, most: int = 600 * KIB) -> None:
    """Use a mounted filesystem."""
    chance = random.Random(seed)
    names: list[Path] = []
    for number in range(rounds):
        what = chance.random()
        if what < 0.55 or not names:
            parent = folder / f"d{chance.randrange(7)}" / f"e{chance.randrange(3)}"
            parent.mkdir(parents=True, exist_ok=True)
            name = parent / f"file{number}"
            name.write_bytes(chance.randbytes(chance.choice((0, 20, 3000, 70_000, chance.randrange(most)))))
            names.append(name)
        elif what < 0.75:
            names.pop(chance.randrange(len(names))).unlink()
        elif what < 0.9:
            with chance.choice(names).open("ab") as file:
                file.write(chance.randbytes(chance.randrange(most // 2)))
        else:
            with chance.choice(names).open("r+b") as file:
                file.truncate(chance.randrange(most))
        if number % 40 == 39:
            os.sync()


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def partclone_map(image: Path, kind: str, log: Path) -> list[tuple[int, int]]:
    """What partclone takes for used: ``(start, end)`` in bytes."""
    run(f"partclone.{kind}", "-D", "-q", "-s", image, "-o", log, "-L", f"{log}.log")
    found = []
    for line in log.read_text().splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[2] == "+":
            start, length = int(fields[0], 0), int(fields[1], 0)
            found.append((start, start + length))
    return found


def check_filesystem(image: Path, kind: str) -> None:
    """The filesystem's own check, which must find nothing to mend."""
    commands = {
        "ext4": ("e2fsck", "-fn"),
        "xfs": ("xfs_repair", "-n"),
        "btrfs": ("btrfs", "check", "--readonly", "--check-data-csum"),
        "ntfs": ("ntfsfix", "-n"),
        "vfat": ("fsck.fat", "-n"),
    }
    done = subprocess.run([*commands[kind], str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
