"""A pass without changes over a block device, against plain direct reads of it: needs root, for a loop device.

The device's file lies on a filesystem that can be read past its cache; where the loop device cannot do that, figures
compare cached reads.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data import MIB, make_disk
from benchmarks.ends import Ends
from benchmarks.tools import free_port

READERS = 4
# Storage that others share varies twofold from one read to the next:
# with eight rounds the ratio came out as 83, 92 and 100 %.
ROUNDS = 24


@contextlib.contextmanager
def loop_over(path: Path) -> Iterator[Path]:
    done = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", str(path)], check=True, capture_output=True, text=True
    )
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=False)


def plain(device: Path, size: int) -> float:
    """Seconds that as many threads as a pass has take to read all of it directly, a MiB at a time."""
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    steps = iter(range(0, size, 8 * MIB))
    lock = threading.Lock()

    def read() -> None:
        buffer = memoryview(mmap.mmap(-1, MIB))
        while True:
            with lock:
                step = next(steps, None)
            if step is None:
                return
            for at in range(step, min(step + 8 * MIB, size), MIB):
                os.preadv(descriptor, [buffer], at)

    began = time.perf_counter()
    threads = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    os.close(descriptor)
    return seconds


def measure(folder: Path, *, quick: bool) -> dict[str, Any] | None:
    """None where there are no rights for a loop device."""
    if os.geteuid() != 0:
        return None
    size = (512 if quick else 4096) * MIB
    ours, alone = [], []
    with tempfile.TemporaryDirectory(prefix="blocksync-device-", dir=os.environ.get("TMPDIR", "/var/tmp")) as made:
        disk = Path(made) / "disk.img"
        make_disk(disk, size)
        os.sync()
        with (
            loop_over(disk) as device,
            tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-device-") as state,
            Ends(Path(state), {"a": size}, ports=(free_port(), free_port())) as ends,
        ):
            ends.pair(device, "a")
            ends.send(device, "a")
            for number in range(3 if quick else ROUNDS):
                # Each goes first in half of the rounds: what went before may still be writing or cached below.
                if number % 2:
                    ours.append(float(ends.send(device, "a").result["seconds"]))
                alone.append(plain(device, size))
                if not number % 2:
                    ours.append(float(ends.send(device, "a").result["seconds"]))
    return {"size": size, "pass": ours, "plain": alone}


def table(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return ["Not measured: needs root."]
    ratio = statistics.median(one / other for one, other in zip(found["plain"], found["pass"], strict=True))
    size = found["size"] // MIB
    ours, plainly = statistics.median(found["pass"]), statistics.median(found["plain"])
    return [
        f"A pass without changes over {size} MiB reaches {100 * ratio:.0f} % of the rate of plain direct",
        f"reads by {READERS} threads (goal 95 %): {ours:.2f} s against {plainly:.2f} s.",
    ]
