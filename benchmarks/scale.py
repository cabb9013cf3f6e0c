"""Many senders to one receiver at once: how even their shares are, and what memory the receiver takes.

    python -m benchmarks.scale [--counts 1,8,32] [--size MIB] [--json FILE]

Each sender is a process with a slot of its own. A first pass fills empty targets; in a second one every page of each
disk has changed, so that the receiver holds overwrites back, which takes the most memory. How even the shares are is
read off the ends: equal disks that begin together end together.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ends import Ends
from benchmarks.tools import free_port

MIB = 1 << 20
LOOK_SECONDS = 0.05
LIMIT_SECONDS = 900


def fill(path: Path, size: int, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(chance.randbytes(MIB))


def one_round(ends: Ends, disks: dict[str, Path], size: int) -> dict[str, Any]:
    """A pass of every disk at once."""
    began = time.perf_counter()
    running = {
        slot: subprocess.Popen(
            ends.words("send", str(disk), "--slot", slot, "--level", "0"), stdout=subprocess.DEVNULL
        )
        for slot, disk in disks.items()
    }
    ended: dict[str, float] = {}
    while len(ended) < len(running):
        now = time.perf_counter() - began
        if now > LIMIT_SECONDS:
            raise RuntimeError("the senders take too long")
        ended.update({slot: now for slot, each in running.items() if slot not in ended and each.poll() is not None})
        time.sleep(LOOK_SECONDS)
    if any(each.returncode for each in running.values()):
        raise RuntimeError("a sender failed")
    times = sorted(ended.values())
    return {
        "seconds": times[-1],
        "first_done": times[0],
        "rate": size * len(disks) / times[-1],
        "receiver_peak": ends.receiver_peak_bytes(),
    }


def measure(folder: Path, count: int, size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-scale-") as made:
        place = Path(made)
        disks = {f"s{number}": place / f"disk{number}" for number in range(count)}
        found: dict[str, Any] = {"senders": count, "size": size}
        with Ends(
            place,
            dict.fromkeys(disks, size),
            ports=(free_port(), free_port()),
        ) as ends:
            for number, (slot, disk) in enumerate(disks.items()):
                fill(disk, size, number)
                if not number:
                    ends.pair(disk, slot)
            found["idle"] = ends.receiver_peak_bytes()
            found["first"] = one_round(ends, disks, size)
            for number, disk in enumerate(disks.values()):
                fill(disk, size, 1000 + number)
            found["changed"] = one_round(ends, disks, size)
        return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| senders | pass | together | first done | last done | receiver's peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for kind, words in (("first", "first"), ("changed", "all changed")):
            got = row[kind]
            lines.append(
                f"| {row['senders']} | {words} | {got['rate'] / 1e6:.0f} MB/s | {got['first_done']:.1f} s | "
                f"{got['seconds']:.1f} s | {got['receiver_peak'] // MIB} MiB |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--counts", default="1,8,32")
    parser.add_argument("--size", type=int, default=64, help="MiB of each disk")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    rows = [measure(wanted.folder, int(count), wanted.size * MIB) for count in wanted.counts.split(",")]
    print("\n".join(table(rows)))
    if wanted.json:
        wanted.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
