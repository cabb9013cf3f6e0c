"""Move one seeded disk with blocksync and with its peers, interleaved in one run; print ratios of medians.

    python -m benchmarks.compare [--size 4G] [--rounds 3] [--only NAME …] [--json FILE] [--folder /dev/shm]

Three works: the first pass into an empty target; a pass with nothing changed; a pass after 1 % of the 4 KiB pages
changed. All tools see the same disk in the page cache and write to files of the same folder, by default in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.data import MIB, change_pages, make_disk
from benchmarks.tools import TOOLS, Run, Tool
from blocksync import __version__
from blocksync.cli.quantities import parse_size

WORKS = ("first pass", "nothing changed", "1 % of pages changed")
Results = dict[str, dict[str, list[Run]]]


def chosen(names: list[str]) -> list[type[Tool]]:
    tools = []
    for tool in TOOLS:
        if names and not any(name in tool.name for name in names):
            continue
        if tool.missing():
            print(f"left out: {tool.name}, for lack of {', '.join(tool.missing())}", file=sys.stderr)
            continue
        tools.append(tool)
    return tools


def one_round(disk: Path, folder: Path, tools: list[type[Tool]], number: int, results: Results) -> int:
    """All works with all tools once; returns the bytes that were changed for the last work."""
    running: list[Tool] = []
    changed = 0
    try:
        for work in WORKS:
            if work == WORKS[2]:
                changed = change_pages(disk, 0.01, seed=100 + number)
            for at, kind in enumerate(tools):
                if work == WORKS[0]:
                    place = folder / str(at)
                    place.mkdir()
                    running.append(kind(disk, place))
                run = running[at].move()
                results[kind.name][work].append(run)
                print(f"round {number + 1}, {work}, {kind.name}: {run.seconds:.2f} s", file=sys.stderr)
    finally:
        for tool in running:
            tool.close()
        for at in range(len(tools)):
            shutil.rmtree(folder / str(at), ignore_errors=True)
    return changed


def table(results: Results, changed: int) -> list[str]:
    """Markdown: median seconds, the ratio to blocksync's, bytes on the wire where the tool tells them."""
    lines = ["| tool | " + " | ".join(WORKS) + " |", "| --- |" + " --- |" * len(WORKS)]
    ours = {work: median(results["blocksync"][work]) for work in WORKS} if "blocksync" in results else {}
    for name, works in results.items():
        cells = []
        for work in WORKS:
            seconds = median(works[work])
            cell = f"{seconds:.2f} s"
            if ours and name != "blocksync":
                cell += f" ({seconds / ours[work]:.2f} x ours)"
            wires = [run.wire for run in works[work] if run.wire is not None]
            if wires:
                cell += f", {statistics.median(wires) / 1e6:.2f} MB"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if "blocksync" in results and changed:
        wire = statistics.median([run.wire or 0 for run in results["blocksync"][WORKS[2]]])
        lines.extend(["", f"1 % of pages: {wire / changed:.3f} x the changed bytes on the wire."])
    if ours:
        lines.extend(["", *goals(results, ours)])
    return lines


def goals(results: Results, ours: dict[str, float]) -> list[str]:
    """What was to be reached, and what was: ratios of medians of this run."""
    first, nothing, some = WORKS
    lines = ["| goal | to reach | measured |", "| --- | --- | --- |"]
    if "cat to null" in results:
        cat = median(results["cat to null"][nothing])
        inner = statistics.median([run.inner or run.seconds for run in results["blocksync"][nothing]])
        lines.append(f"| nothing changed, the pass alone, against cat | 0.80 | {inner / cat:.2f} |")
        lines.append(f"| nothing changed, the whole command, against cat | | {ours[nothing] / cat:.2f} |")
    lines.append(f"| 1 % of pages against nothing changed | 1.50 | {ours[some] / ours[nothing]:.2f} |")
    if "nbdcopy TLS" in results:
        lines.append(
            f"| first pass against nbdcopy TLS | 0.80 | {ours[first] / median(results['nbdcopy TLS'][first]):.2f} |"
        )
    return lines


def median(runs: list[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def machine() -> dict[str, object]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "blocksync": __version__,
        "commit": commit.stdout.strip(),
    }


def plain(results: Results) -> dict[str, dict[str, list[list[float | int | None]]]]:
    """As JSON keeps them: seconds, bytes on the wire, processor, seconds without the start."""
    return {
        name: {
            work: [[run.seconds, run.wire, run.processor, run.inner] for run in runs]
            for work, runs in works.items()
        }
        for name, works in results.items()
    }


def parsed(runs: dict[str, dict[str, list[list[Any]]]]) -> Results:
    """Back from JSON."""
    return {
        name: {work: [Run(*run) for run in of_work] for work, of_work in works.items()}
        for name, works in runs.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("4G"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    wanted = parser.parse_args()
    tools = chosen(wanted.only)
    results: Results = {tool.name: {work: [] for work in WORKS} for tool in tools}
    changed = 0
    with tempfile.TemporaryDirectory(dir=wanted.folder, prefix="blocksync-bench-") as folder:
        disk = Path(folder) / "disk.img"
        make_disk(disk, wanted.size // MIB * MIB)
        for number in range(wanted.rounds):
            changed = one_round(disk, Path(folder), tools, number, results)
    lines = table(results, changed)
    print("\n".join(lines))
    if wanted.json:
        wanted.json.write_text(
            json.dumps({"machine": machine(), "size": wanted.size, "runs": plain(results)}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
