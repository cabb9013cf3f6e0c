"""First passes over shaped links and over a long way.

    python -m benchmarks.links [--size 512M] [--only 100M 1G delay]

A shaped link is a veth pair between two network namespaces under tbf; the long way is a proxy that delays each way
by 40 ms. Needs root for the former.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.data import MIB, make_disk
from benchmarks.ends import Ends
from benchmarks.network import FAR, Delaying, Shaped, bulk, shaped, zstd_bytes
from benchmarks.tools import free_port
from blocksync.cli.quantities import parse_size

RATES = {"100M": (100_000_000, 9, 1.03), "1G": (1_000_000_000, 3, 1.0)}
ROUND_TRIP_SECONDS = 0.08
WAY_BYTES_A_SECOND = 25_000_000


def over_shaped(disk: Path, folder: Path, name: str) -> dict[str, Any]:
    """One first pass over a link of a rate, and what zstd would have made of the disk."""
    rate, level, _ = RATES[name]
    folder.mkdir()
    size = disk.stat().st_size
    with (
        shaped(rate) as link,
        Ends(folder, {"a": size}, ports=(18080, 18703), near=link.near, far=link.far, listen=FAR) as ends,
    ):
        ends.pair(disk, "a")
        samples: list[tuple[float, int]] = []
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(link, samples, over))
        watcher.start()
        first = ends.send(disk, "a")
        over.set()
        watcher.join()
    return {
        "link": name,
        "seconds": first.seconds,
        "wire": first.result["wire"],
        "level": first.result["level"],
        "full": _fullness(samples, rate),
        "zstd_level": level,
        "zstd_bytes": zstd_bytes(disk, level),
    }


def _watch(link: Shaped, samples: list[tuple[float, int]], over: threading.Event) -> None:
    while not over.wait(0.1):
        samples.append((time.monotonic(), link.sent()))


def _fullness(samples: list[tuple[float, int]], rate: int) -> float:
    """Share of the link's rate that was used from the tenth to the nine-tenths of what was sent."""
    total = samples[-1][1] - samples[0][1]
    inner = [(at, sent) for at, sent in samples if 0.1 * total < sent - samples[0][1] < 0.9 * total]
    if len(inner) < 2:
        return 0.0
    return (inner[-1][1] - inner[0][1]) * 8 / (inner[-1][0] - inner[0][0]) / rate


def over_long_way(disk: Path, folder: Path) -> dict[str, Any]:
    """One first pass through the delaying proxy, without compression, and one bulk copy of as many bytes."""
    folder.mkdir()
    ports = (free_port(), free_port())
    plain = free_port()
    proxy = Delaying("127.0.0.2", "127.0.0.1", [*ports, plain], ROUND_TRIP_SECONDS / 2, WAY_BYTES_A_SECOND)
    size = disk.stat().st_size
    try:
        with Ends(folder, {"a": size}, ports=ports, to="127.0.0.2") as ends:
            ends.pair(disk, "a")
            first = ends.send(disk, "a", "--level", "0")
            nothing = ends.send(disk, "a")
        copied = bulk("127.0.0.2", plain, ("127.0.0.1", plain), int(first.result["wire"]))
    finally:
        proxy.close()
    return {
        "link": "80 ms",
        "seconds": first.result["seconds"],
        "wire": first.result["wire"],
        "bulk_seconds": copied,
        "share_of_bulk": copied / first.result["seconds"],
        "nothing_changed_seconds": nothing.result["seconds"],
    }


def measure(size: int, only: list[str], folder: Path) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-links-") as made:
        disk = Path(made) / "disk.img"
        for name in only:
            # A slower link moves less, so that each takes some ten seconds.
            make_disk(disk, max(64 * MIB, size // {"100M": 4, "1G": 1, "delay": 1}[name]) // MIB * MIB)
            place = Path(made) / name
            found.append(over_long_way(disk, place) if name == "delay" else over_shaped(disk, place, name))
            print(json.dumps(found[-1]), file=sys.stderr)
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    lines = ["| link | what | measured | goal |", "| --- | --- | --- | --- |"]
    for one in found:
        if one["link"] == "80 ms":
            lines.append(f"| 80 ms round trip | share of a bulk copy's rate | {one['share_of_bulk']:.2f} | 0.90 |")
            continue
        share = RATES[one["link"]][2]
        lines.append(
            f"| {one['link']}bit/s | link full, level {one['level']} at the end | {one['full']:.2f} | 0.95 |"
        )
        ratio = one["wire"] / one["zstd_bytes"]
        lines.append(
            f"| {one['link']}bit/s | bytes against zstd -{one['zstd_level']} | {ratio:.3f} | {share:.2f} |"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("512M"))
    parser.add_argument("--only", nargs="*", default=["100M", "1G", "delay"])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    wanted = parser.parse_args()
    print("\n".join(table(measure(wanted.size, wanted.only, wanted.folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
