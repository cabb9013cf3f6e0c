"""What change tracking saves: a pass that is told what changed, beside one that reads and compares everything.

    python -m benchmarks.tracked [--folder DIR]

A qcow2 image behind qemu-nbd, with a dirty bitmap; between two passes 1 % of its blocks are written, at random
places. The same image goes to two targets: to one by the bitmap's word, to the other without. Both are read through
NBD, from the page cache, in turns; needs qemu-utils and 13 GiB of room. Figures: medians of seconds, and bytes read
and sent.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.tools import told
from blocksync import api
from blocksync.options import CopyOptions
from blocksync.results import SendResult

MIB, GIB = 1 << 20, 1 << 30
DISK_BYTES = 4 * GIB
BLOCK_BYTES = 64 << 10
CHANGED_BLOCKS = DISK_BYTES // BLOCK_BYTES // 100
ROUNDS = 5
BITMAP = "since"


def run(*words: str | Path, text: str | None = None) -> None:
    subprocess.run([str(word) for word in words], input=text, text=True, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def exported(image: Path) -> Iterator[str]:
    """The image behind a qemu-nbd; yields its address."""
    where, number = image.with_suffix(".sock"), image.with_suffix(".pid")
    run("qemu-nbd", "--fork", "--pid-file", number, "--persistent", "--shared=8", "--socket", where, "--read-only",
        "--format=qcow2", f"--bitmap={BITMAP}", image)  # fmt: skip
    try:
        yield f"nbd+unix:///?socket={where}"
    finally:
        server = int(number.read_text())
        os.kill(server, signal.SIGTERM)
        # It has let go of the image when its lock is free: qemu-img waits for nobody.
        while Path(f"/proc/{server}/fd").exists():
            subprocess.run(["sleep", "0.05"], check=True)


def make(folder: Path) -> Path:
    """An image whose every block is allocated."""
    raw, image = folder / "disk.raw", folder / "disk.qcow2"
    with raw.open("wb") as file:
        for _ in range(DISK_BYTES // MIB):
            file.write(os.urandom(MIB))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    raw.unlink()
    run("qemu-img", "bitmap", "--add", "-g", "64K", image, BITMAP)
    return image


def change(image: Path, chance: random.Random) -> None:
    """Write 1 % of the blocks; the bitmap is emptied first, as whoever runs the backup does."""
    run("qemu-img", "bitmap", "--clear", image, BITMAP)
    blocks = chance.sample(range(DISK_BYTES // BLOCK_BYTES), CHANGED_BLOCKS)
    writes = "".join(
        f"write -q -P {chance.randrange(1, 256)} {block * BLOCK_BYTES} {BLOCK_BYTES}\n" for block in blocks
    )
    run("qemu-io", "-f", "qcow2", image, text=writes)


def passed(image: Path, way: str, folder: Path) -> SendResult:
    with exported(image) as address:
        source = f"{address}&bitmap={BITMAP}" if way == "tracked" else address
        target = folder / f"{way}.img"
        options = CopyOptions(create=not target.exists(), state_dir=folder / f"{way}.state")
        return api.copy(source, str(target), options)


def measure(folder: Path) -> dict[str, Any]:
    """Seconds, and bytes read and sent, of both ways."""
    ways = ("tracked", "compared")
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-tracked-") as made:
        place = Path(made)
        image, chance = make(place), random.Random(7)
        found: dict[str, list[SendResult]] = {way: [] for way in ways}
        for way in ways:
            passed(image, way, place)
        for number in range(ROUNDS):
            change(image, chance)
            for way in ways if number % 2 else reversed(ways):
                found[way].append(passed(image, way, place))
        assert {result.tracker for result in found["tracked"]} == {"nbd-bitmap"}
        assert {result.tracker for result in found["compared"]} == {""}
    facts: dict[str, Any] = {"disk_bytes": DISK_BYTES, "changed_bytes": CHANGED_BLOCKS * BLOCK_BYTES}
    for way in ways:
        facts[f"{way}_seconds"] = statistics.median(each.seconds for each in found[way])
        facts[f"{way}_read_bytes"] = statistics.median(each.read for each in found[way])
        facts[f"{way}_sent_bytes"] = statistics.median(each.changed for each in found[way])
    facts["times_faster"] = facts["compared_seconds"] / facts["tracked_seconds"]
    return facts


if __name__ == "__main__":
    told(__doc__, measure)
