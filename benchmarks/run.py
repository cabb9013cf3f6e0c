"""Everything in one command: measures, keeps the figures as JSON, draws plots, and puts the tables into README.md.

    python -m benchmarks.run [--quick] [--only PART …] [--keep] [--folder /dev/shm] [--results DIR]
        [--readme]

The parts are compare, start, links, device, processor, growth, scale, opening and micro. ``--quick`` is over in less
than ten minutes on two cores; a full run takes about half an hour, or goes in pieces: ``--only PART --keep`` leaves the
last run's other parts as they are, each with the commit at which it was measured. Figures are medians of interleaved
runs; where other work disturbs the machine, the ratios and the processor seconds still say something, the seconds do
not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import compare, growth, links, opening, processor, scale
from benchmarks.data import MIB, make_disk
from benchmarks.device import measure as measure_device
from benchmarks.device import table as device_table
from benchmarks.ends import Ends
from benchmarks.plots import bars
from benchmarks.tools import free_port

HERE = Path(__file__).parent
GIB = 1 << 30
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def run_compare(folder: Path, *, quick: bool) -> dict[str, Any]:
    size, rounds = (GIB, 3) if quick else (4 * GIB, 3)
    tools = compare.chosen([])
    results: compare.Results = {tool.name: {work: [] for work in compare.WORKS} for tool in tools}
    changed = 0
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-bench-") as made:
        disk = Path(made) / "disk.img"
        make_disk(disk, size)
        for number in range(rounds):
            changed = compare.one_round(disk, Path(made), tools, number, results)
    return {"size": size, "rounds": rounds, "changed": changed, "runs": compare.plain(results)}


def compare_lines(found: dict[str, Any]) -> list[str]:
    head = f"{found['size'] // GIB} GiB, medians of {found['rounds']} interleaved rounds."
    return [head, "", *compare.table(compare.parsed(found["runs"]), found["changed"])]


def run_start(folder: Path, *, quick: bool) -> dict[str, float]:
    """Milliseconds: of an interpreter, of ``--version``, and of a whole send of a disk in which nothing changed."""
    seconds: dict[str, list[float]] = {"python": [], "version": [], "send": [], "send_processor": []}
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-start-") as made:
        disk = Path(made) / "disk.img"
        make_disk(disk, 4 * MIB)
        with Ends(Path(made), {"a": 4 * MIB}, ports=(free_port(), free_port())) as ends:
            ends.pair(disk, "a")
            ends.send(disk, "a")
            for _ in range(7 if quick else 15):
                for name, words in (("python", ["-c", "pass"]), ("version", ["-m", "blocksync", "--version"])):
                    began = time.perf_counter()
                    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
                    seconds[name].append(time.perf_counter() - began)
                sent = ends.send(disk, "a")
                seconds["send"].append(sent.seconds)
                seconds["send_processor"].append(sent.sender)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def start_lines(found: dict[str, float]) -> list[str]:
    over = found["version"] - found["python"]
    send, processor = found["send"], found["send_processor"]
    return [
        f"`blocksync --version` takes {over:.0f} ms more than `python -c pass` (goal 150).",
        f"A whole `send` of 4 MiB without changes takes {send:.0f} ms, {processor:.0f} ms of processor at the sender;",
        "its first block is read before that (goal 400 ms).",
    ]


def run_links(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    only = ["100M", "1G", "delay"] if os.geteuid() == 0 else ["delay"]
    return links.measure((512 if quick else 2048) * MIB, only, folder)


def run_opening(_folder: Path, *, quick: bool) -> dict[str, Any]:
    # A sparse file of that size needs a filesystem that has such: memory is none.
    return opening.measure(Path(tempfile.gettempdir()), quick=quick)


def run_scale(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    counts, size = ((1, 8), 16 * MIB) if quick else ((1, 8, 32), 64 * MIB)
    return [scale.measure(folder, count, size) for count in counts]


def run_micro(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    report = folder / f"blocksync-micro-{os.getpid()}.json"
    words = [
        "--benchmark-max-time",
        "0.1" if quick else "0.5",
        "--benchmark-min-rounds",
        "5",
        "--benchmark-disable-gc",
    ]
    try:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "micro"),
             f"--benchmark-json={report}", *words],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(report.read_text())["benchmarks"]
    finally:
        report.unlink(missing_ok=True)
    return [{"name": one["name"].removeprefix("test_"), "median": one["stats"]["median"]} for one in found]


def micro_lines(found: list[dict[str, Any]]) -> list[str]:
    lines = ["| kernel, a MiB unless it says less | median |", "| --- | --- |"]
    return lines + [f"| {one['name']} | {1e6 * one['median']:.1f} µs |" for one in found]


PARTS: dict[str, tuple[str, Callable[..., Any], Callable[[Any], list[str]]]] = {
    "compare": ("Against the peers", run_compare, compare_lines),
    "start": ("Start", run_start, start_lines),
    "links": ("Links", run_links, links.table),
    "device": ("A device, read directly", measure_device, device_table),
    "processor": ("Processor", processor.measure, processor.table),
    "growth": ("Growth", growth.measure, growth.table),
    "scale": ("Many senders to one receiver", run_scale, scale.table),
    "opening": ("Opening", run_opening, opening.table),
    "micro": ("Kernels", run_micro, micro_lines),
}


def page(found: dict[str, Any]) -> list[str]:
    machine = found["machine"]
    lines = [
        f"Machine: {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']},",
        f"Python {machine['python']}, blocksync {machine['blocksync']} at {machine['commit']};",
        f"load when it began {found['load']:.1f}.",
    ]
    for name, (title, _, lines_of) in PARTS.items():
        if name in found["parts"]:
            lines += ["", f"### {title}", "", *lines_of(found["parts"][name])]
            commit = found["commits"][name]
            if commit != machine["commit"]:
                lines += ["", f"Measured at {commit}."]
    return lines


def kept(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The parts of the run that is there, and the commit at which each was measured."""
    if not path.exists():
        return {}, {}
    last = json.loads(path.read_text())
    return last["parts"], last.get("commits") or dict.fromkeys(last["parts"], last["machine"]["commit"])


def plot(found: dict[str, Any], folder: Path) -> None:
    if "compare" in found["parts"]:
        results = compare.parsed(found["parts"]["compare"]["runs"])
        for number, work in enumerate(compare.WORKS, start=1):
            values = {name: compare.median(works[work]) for name, works in results.items()}
            (folder / f"compare-{number}.svg").write_text(bars(f"{work}: seconds", values))
    if "growth" in found["parts"]:
        rows = found["parts"]["growth"]
        values = {f"{row['data'] // MIB} MiB of data": row["first_processor"] for row in rows["data"]}
        (folder / "growth-data.svg").write_text(bars("first pass: seconds of processor, both ends", values))
        values = {f"{row['size'] // GIB} GiB span": row["first_processor"] for row in rows["span"]}
        (folder / "growth-span.svg").write_text(
            bars("64 MiB of data on a sparse disk: seconds of processor", values)
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="leave the last run's other parts as they are")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", action="store_true", help="put the tables into benchmarks/README.md")
    wanted = parser.parse_args()
    report = wanted.results / ("quick.json" if wanted.quick else "full.json")
    parts, commits = kept(report) if wanted.keep else ({}, {})
    found: dict[str, Any] = {
        "machine": compare.machine(),
        "load": os.getloadavg()[0],
        "quick": wanted.quick,
        "commits": commits,
        "parts": parts,
    }
    began = time.monotonic()
    for name in wanted.only:
        print(f"== {name} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
        parts[name] = PARTS[name][1](wanted.folder, quick=wanted.quick)
        commits[name] = found["machine"]["commit"]
    wanted.results.mkdir(exist_ok=True)
    report.write_text(json.dumps(found, indent=1) + "\n")
    plot(found, wanted.results)
    lines = page(found)
    print("\n".join(lines))
    if wanted.readme:
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
