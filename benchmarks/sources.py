"""What leaving out costs and saves: a 64 GiB ext4 that was used for a while, 2 GiB of it in use; and a file left out.

    python -m benchmarks.sources [--folder DIR]

Needs root (a loop mount) and 6 GiB of room. Figures: bytes sent of the disk before compression; bytes sent after a
1 GiB file came to it that is excluded; and, each from a cold page cache and in turns, the seconds of reading the used
ranges raw, of finding them (the map alone, which is what used blocks cost on top), and of both together.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tools import told
from blocksync import api
from blocksync.engine.allocation import allocated
from blocksync.extents import ExtentKind
from blocksync.options import CopyOptions
from blocksync.sources.disk import FileSource

MIB, GIB = 1 << 20, 1 << 30
DISK_BYTES, USED_BYTES = 64 * GIB, 2 * GIB
ROUNDS = 5
PIECE_BYTES = MIB


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[Path]:
    """The image's filesystem, mounted by the kernel."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        # Whoever looks at all loop devices keeps this one for a moment, and an image that is attached has no map.
        while subprocess.run(["losetup", "-j", image], check=True, capture_output=True).stdout:
            time.sleep(0.05)


def grow_old(place: Path, chance: random.Random) -> None:
    """Files made, and every third removed, until 2 GiB are in use, in many groups of blocks."""
    names: list[Path] = []
    held, number = 0, 0
    while held < USED_BYTES - 16 * MIB:
        folder = place / f"d{number % 97}"
        folder.mkdir(exist_ok=True)
        path = folder / f"f{number}"
        size = chance.choice((3_000, 70_000, MIB, 8 * MIB))
        path.write_bytes(os.urandom(size))
        names.append(path)
        held += size
        number += 1
        if number % 3 == 0:
            gone = names.pop(chance.randrange(len(names)))
            held -= gone.stat().st_size
            gone.unlink()


def ranges_in_use(image: Path) -> list[tuple[int, int]]:
    """``(offset, length)`` of what is read of the image."""
    with FileSource(str(image)) as source:
        found = allocated(source, all_blocks=False)
        return [(each.offset, each.length) for each in found.source.extents() if each.kind is ExtentKind.DATA]


def read_ranges(image: Path, ranges: Callable[[], list[tuple[int, int]]]) -> float:
    """Seconds of finding ranges and reading them, from a cold cache."""
    subprocess.run(["sync", "-f", image], check=True)
    descriptor = os.open(image, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        room = memoryview(bytearray(PIECE_BYTES))
        began = time.perf_counter()
        for offset, length in ranges():
            for at in range(offset, offset + length, PIECE_BYTES):
                os.preadv(descriptor, [room[: min(PIECE_BYTES, offset + length - at)]], at)
        return time.perf_counter() - began
    finally:
        os.close(descriptor)


def measure(folder: Path) -> dict[str, Any]:
    """All three figures: bytes and seconds."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-sources-") as made:
        place, image = Path(made), Path(made) / "disk.img"
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        with mounted(image, place / "mounted") as tree:
            grow_old(tree, random.Random(5))
        target, state = str(place / "target.img"), place / "state"
        first = api.copy(str(image), target, CopyOptions(create=True, state_dir=state))
        assert not first.notes, first.notes
        known = ranges_in_use(image)
        ways: dict[str, Callable[[], list[tuple[int, int]]]] = {
            "raw": lambda: known,
            "map": lambda: ranges_in_use(image)[:0],
            "used": lambda: ranges_in_use(image),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(ROUNDS):
            # The order turns: a disk that gets slower or faster meanwhile favours none of them.
            for name in (list(ways) * 2)[number % 3 :][:3]:
                seconds[name].append(read_ranges(image, ways[name]))
        medians = {name: statistics.median(found) for name, found in seconds.items()}
        with mounted(image, place / "mounted") as tree, (tree / "left-out.bin").open("wb") as file:
            for _ in range(1024):
                file.write(os.urandom(MIB))
        second = api.copy(str(image), target, CopyOptions(state_dir=state, exclude=("/left-out.bin",)))
        assert not second.notes, second.notes
        return {
            "disk_bytes": DISK_BYTES,
            "sent_bytes": first.changed,
            "read_bytes": first.read,
            **{f"{name}_seconds": found for name, found in medians.items()},
            "overhead_percent": 100 * medians["map"] / medians["raw"],
            "excluded_bytes": second.excluded_bytes,
            "sent_with_excluded_bytes": second.changed,
        }


if __name__ == "__main__":
    told(__doc__, measure)
