"""Many senders to one receiver at once: how even their shares are, and what memory the receiver takes.

    python -m benchmarks.scale [--counts 1,8,32] [--size MIB] [--json FILE]

Each sender is a process with a slot of its own. A first pass fills empty targets; in a second one every page of each
disk has changed, so that the receiver holds overwrites back, which takes the most memory. How even the shares are is
read off the targets of the first pass: what each of them got between the moment at which all senders were at work and
that at which the first one was done; and off the ends, since equal disks that begin together end together.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
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


def shares(seen: list[list[int]], size: int) -> dict[str, float] | None:
    """What each target got while all were at work, in shares of the mean.

    Args:
        seen: bytes of each target at each look.
        size: bytes of each when it is done.

    Returns:
        the least, the middle and the greatest share, and how much of all disks went over meanwhile; None where the
        first was done before the last began.
    """
    together = [each for each in seen if min(each) > 0 and max(each) < size]
    if len(together) < 2:
        return None
    got = [last - first for first, last in zip(together[0], together[-1], strict=True)]
    mean = sum(got) / len(got)
    if not mean:
        return None
    return {
        "least": min(got) / mean,
        "middle": statistics.median(got) / mean,
        "greatest": max(got) / mean,
        "of_all": sum(got) / (size * len(got)),
    }


def together(senders: list[subprocess.Popen[bytes]], targets: list[Path], held: set[int] | None) -> set[int] | None:
    """Hold each sender once its first bytes are there, until all are: commands take seconds to start.

    Args:
        held: those that are held; None when all were let go.
    """
    if held is None:
        return None
    for number, (sender, target) in enumerate(zip(senders, targets, strict=True)):
        if number not in held and target.stat().st_blocks:
            sender.send_signal(signal.SIGSTOP)
            held.add(number)
    if len(held) < len(senders):
        return held
    for sender in senders:
        sender.send_signal(signal.SIGCONT)
    return None


def one_round(ends: Ends, disks: dict[str, Path], size: int, targets: list[Path] | None = None) -> dict[str, Any]:
    """A pass of every disk at once; with ``targets``, which are empty, also how even the shares are."""
    began = time.perf_counter()
    running = {
        slot: subprocess.Popen(
            ends.words("send", str(disk), "--slot", slot, "--level", "0"), stdout=subprocess.DEVNULL
        )
        for slot, disk in disks.items()
    }
    ended: dict[str, float] = {}
    seen: list[list[int]] = []
    held: set[int] | None = set()
    while len(ended) < len(running):
        now = time.perf_counter() - began
        if now > LIMIT_SECONDS:
            raise RuntimeError("the senders take too long")
        ended.update({slot: now for slot, each in running.items() if slot not in ended and each.poll() is not None})
        if targets is not None:
            held = together(list(running.values()), targets, held)
            seen.append([target.stat().st_blocks * 512 for target in targets])
        time.sleep(LOOK_SECONDS)
    if any(each.returncode for each in running.values()):
        raise RuntimeError("a sender failed")
    times = sorted(ended.values())
    return {
        "seconds": times[-1],
        "first_done": times[0],
        "rate": size * len(disks) / times[-1],
        "receiver_peak": ends.receiver_peak_bytes(),
        "shares": shares(seen, size),
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
            found["first"] = one_round(ends, disks, size, [place / f"{slot}.target" for slot in disks])
            for number, disk in enumerate(disks.values()):
                fill(disk, size, 1000 + number)
            found["changed"] = one_round(ends, disks, size)
        return found


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| senders | pass | together | first done | last done | shares | receiver's peak memory |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for kind, words in (("first", "first"), ("changed", "all changed")):
            got = row[kind]
            even = got["shares"]
            said = (
                f"{even['least']:.2f} to {even['greatest']:.2f} over {100 * even['of_all']:.0f} %" if even else ""
            )
            lines.append(
                f"| {row['senders']} | {words} | {got['rate'] / 1e6:.0f} MB/s | {got['first_done']:.1f} s | "
                f"{got['seconds']:.1f} s | {said} | {got['receiver_peak'] // MIB} MiB |"
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
