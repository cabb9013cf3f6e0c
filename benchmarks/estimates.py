"""Estimates against the truth: ``python -m benchmarks.estimates`` (root, Linux: makes two network namespaces).

For each kind of disk and each link: a receiver and a sender in namespaces of their own, joined by a veth pair whose
rate a token bucket limits; ``blocksync estimate``, then ``blocksync send``; was the pass's time within the stated
interval? Everything it makes is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import MIB, make_disk

LINKS = {"unlimited": "", "1 Gbit/s": "1gbit", "100 Mbit/s": "100mbit"}
KINDS = ("dense", "sparse", "compressible", "mixed")
# On a slow link a smaller disk takes as long.
SIZES_MIB = {"unlimited": 2048, "1 Gbit/s": 1024, "100 Mbit/s": 384}
ADDRESS = "10.213.77.1"
LIMIT_SECONDS = 900


def make(path: Path, kind: str, size: int) -> None:
    """A disk of a kind."""
    chance = random.Random(7)
    if kind == "mixed":
        make_disk(path, size)
        return
    words = [bytes(chance.choices(range(97, 123), k=chance.randrange(2, 11))) for _ in range(4000)]
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            if kind == "sparse" and chance.random() < 0.8:
                continue
            file.seek(at)
            if kind == "compressible":
                file.write(b" ".join(chance.choices(words, k=MIB // 5))[:MIB].ljust(MIB))
            else:
                file.write(chance.randbytes(MIB))
        file.truncate(size)


def sh(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def joined(rate: str) -> Iterator[tuple[str, str]]:
    """Two namespaces, receiver's and sender's, with a link of that rate between them."""
    tag = f"bse{os.getpid() % 100000}"
    there, here = f"{tag}r", f"{tag}s"
    try:
        for name in (there, here):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", there, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", here)
        for name, device, address in ((there, "v0", f"{ADDRESS}/24"), (here, "v1", "10.213.77.2/24")):
            sh("ip", "-n", name, "addr", "add", address, "dev", device)
            sh("ip", "-n", name, "link", "set", device, "up")
            if rate:
                shape = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
                sh("tc", "-n", name, "qdisc", "add", "dev", device, *shape)
        yield there, here
    finally:
        for name in (there, here):
            subprocess.run(["ip", "netns", "delete", name], check=False)


def blocksync(space: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", space, sys.executable, "-m", "blocksync", *words]


def last(command: list[str]) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        raise SystemExit(f"{command}: {said}")
    return said


def one(folder: Path, disk: Path, rate: str) -> dict[str, object]:
    """An estimate and a pass; the figures of both."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with joined(rate) as (there, here):
        target = f"d={folder / 'target.img'}"
        code = folder / "code"
        words = ("--target", target, "--create", str(disk.stat().st_size), "--code-file", str(code), "--json")
        receiver = subprocess.Popen(
            blocksync(there, "recv", *words, "--state-dir", str(folder / "r")), stdout=subprocess.PIPE, text=True
        )
        try:
            assert receiver.stdout is not None
            assert json.loads(receiver.stdout.readline())["type"] == "listening"
            to = ("--to", ADDRESS, "--state-dir", str(folder / "s"), "--json")
            predicted = last(blocksync(here, "estimate", str(disk), *to, "--code-file", str(code)))
            happened = last(blocksync(here, "send", str(disk), *to))
        finally:
            receiver.terminate()
            receiver.wait()
            assert receiver.stdout is not None
            receiver.stdout.close()
    return {"predicted": predicted, "happened": happened}


def row(kind: str, link: str, figures: dict[str, object]) -> tuple[str, bool, float]:
    """A line of the table, whether the truth lay within, and half the interval's width, relative."""
    predicted, happened = figures["predicted"], figures["happened"]
    assert isinstance(predicted, dict)
    assert isinstance(happened, dict)
    span = predicted["seconds"]
    truth = float(happened["seconds"])
    within = span["low"] <= truth <= span["high"]
    width = (span["high"] - span["low"]) / 2 / span["likely"]
    wire = float(happened["wire"])
    wired = predicted["wire"]["low"] <= wire <= predicted["wire"]["high"]
    cells = (
        kind,
        link,
        predicted["bottleneck"],
        f"{span['likely']:.1f}",
        f"{span['low']:.1f} to {span['high']:.1f}",
        f"±{100 * width:.0f} %",
        f"{truth:.1f}",
        f"{100 * (truth / span['likely'] - 1):+.0f} %",
        "yes" if within else "**no**",
        f"{predicted['wire']['likely'] / MIB:.0f}",
        f"{wire / MIB:.0f}",
        "yes" if wired else "**no**",
        f"{predicted['took']:.0f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |", within, width


HEAD = (
    "| disk | link | bottleneck | predicted, s | interval, s | width | truth, s | off by | within | wire, MiB | "
    "truth, MiB | within | estimate took, s |\n|" + " --- |" * 13
)


def main() -> None:
    """Run the matrix and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--links", nargs="*", default=list(LINKS), choices=list(LINKS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the disks' sizes")
    parser.add_argument("--raw", type=Path, help="keep all figures here, as JSON lines")
    wanted = parser.parse_args()
    print(HEAD, flush=True)
    inside = cases = 0
    with tempfile.TemporaryDirectory(prefix="blocksync-estimates-") as name:
        folder = Path(name)
        for turn in range(wanted.rounds):
            for link in wanted.links:
                for kind in wanted.kinds:
                    size = int(SIZES_MIB[link] * wanted.scale) * MIB
                    disk = folder / f"{kind}-{size}.img"
                    if not disk.exists():
                        make(disk, kind, size)
                    figures = one(folder / "run", disk, LINKS[link])
                    line, within, _ = row(kind, link, figures)
                    print(line, flush=True)
                    inside, cases = inside + within, cases + 1
                    if wanted.raw:
                        with wanted.raw.open("a") as raw:
                            raw.write(json.dumps({"kind": kind, "link": link, "turn": turn, **figures}) + "\n")
                    time.sleep(1)
    load = os.getloadavg()[1] / (os.cpu_count() or 1)
    print(f"\n{inside} of {cases} within; load of the machine {load:.1f} processes a processor")


if __name__ == "__main__":
    main()
