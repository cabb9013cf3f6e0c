"""How a pass grows: with the disk's span, its data, the size of blocks, and the number of slots.

    python -m benchmarks.growth [--quick]

Disks are sparse files in memory. Beside times it tells the manifest's size and the most memory that an end had.
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

MIB, GIB = 1 << 20, 1 << 30
# Runs of data on a sparse disk, each of so many bytes.
RUN_BYTES = 4 * MIB


def sparse(path: Path, size: int, data: int) -> None:
    """A disk with ``data`` bytes in runs spread over it."""
    chance = random.Random(size)
    runs = data // RUN_BYTES
    content = chance.randbytes(RUN_BYTES)
    with path.open("wb") as file:
        file.truncate(size)
        for number in range(runs):
            file.seek(size // runs * number // MIB * MIB)
            file.write(number.to_bytes(8, "little") + content[8:])


def one(folder: Path, size: int, data: int, block: str = "64K") -> dict[str, Any]:
    """First pass and a pass without changes, of one disk."""
    folder.mkdir()
    disk = folder / "disk.img"
    sparse(disk, size, data)
    with Ends(folder, {"a": size}, ports=(free_port(), free_port())) as ends:
        ends.pair(disk, "a")
        first = ends.send(disk, "a", "--block-size", block)
        nothing = ends.send(disk, "a")
        manifest = sum(path.stat().st_size for path in (folder / "far" / "slots" / "a").glob("manifest"))
        peak = ends.receiver_peak_bytes()
    for path in folder.glob("*.target"):
        path.unlink()
    disk.unlink()
    return {
        "size": size, "data": data, "block": block,
        "first": first.seconds, "first_processor": first.sender + first.receiver,
        "nothing": nothing.seconds, "nothing_processor": nothing.sender + nothing.receiver,
        "manifest_share": manifest / size, "receiver_peak": peak,
    }  # fmt: skip


def slots(folder: Path, count: int, size: int) -> dict[str, Any]:
    """As many senders at once, each to a slot of its own, of one receiver."""
    folder.mkdir()
    disks = [folder / f"disk{number}.img" for number in range(count)]
    for disk in disks:
        sparse(disk, size, size)
    names = {f"s{number}": size for number in range(count)}
    with Ends(folder, names, ports=(free_port(), free_port())) as ends:
        ends.pair(disks[0], "s0")
        began = time.perf_counter()
        running = [
            subprocess.Popen(
                ends.words("send", str(disk), "--slot", name, "--connections", "2"), stdout=subprocess.DEVNULL
            )
            for disk, name in zip(disks, names, strict=True)
        ]
        codes = [process.wait() for process in running]
        seconds = time.perf_counter() - began
        peak = ends.receiver_peak_bytes()
    for path in (*disks, *folder.glob("*.target")):
        path.unlink()
    if any(codes):
        raise RuntimeError(f"senders ended with {codes}")
    return {"slots": count, "each": size, "seconds": seconds, "receiver_peak": peak}


def measure(folder: Path, *, quick: bool) -> dict[str, list[dict[str, Any]]]:
    spans = (1, 4, 16) if quick else (1, 4, 16, 64)
    data = (64, 256) if quick else (64, 256, 1024)
    blocks = ("4K", "64K", "4M") if quick else ("4K", "16K", "64K", "256K", "1M", "4M")
    counts = (1, 4) if quick else (1, 2, 4, 8, 16)
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-growth-") as made:
        place = Path(made)
        return {
            "span": [one(place / f"span{size}", size * GIB, 64 * MIB) for size in spans],
            "data": [one(place / f"data{size}", GIB, size * MIB) for size in data],
            "blocks": [one(place / f"block{block}", GIB, 128 * MIB, block) for block in blocks],
            "slots": [slots(place / f"slots{count}", count, 32 * MIB) for count in counts],
        }


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "| disk | data | block | first pass | processor | nothing changed | processor | manifest | receiver's memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['size'] // GIB} GiB | {row['data'] // MIB} MiB | {row['block']} | {row['first']:.2f} s | "
        f"{row['first_processor']:.2f} s | {row['nothing']:.2f} s | {row['nothing_processor']:.2f} s | "
        f"{100 * row['manifest_share']:.3f} % of the disk | {row['receiver_peak'] // MIB} MiB |"
        for kind in ("span", "data", "blocks")
        for row in found[kind]
    ]
    lines += ["", "| slots at once, 32 MiB each | seconds | receiver's memory |", "| --- | --- | --- |"]
    lines += [
        f"| {row['slots']} | {row['seconds']:.2f} | {row['receiver_peak'] // MIB} MiB |" for row in found["slots"]
    ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    found = measure(wanted.folder, quick=wanted.quick)
    print("\n".join(table(found)))
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
