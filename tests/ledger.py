"""The ledger of campaigns: one line a run, so that many short runs add up to a long one.

``tests/ledger.jsonl`` is appended to by the commands that run the gates, when they are told ``--ledger``. A line says
what was run and what came out::

    {"commit": "0123456789ab", "changed": false, "when": "2026-01-01T00:00:00Z", "gate": "schedules", "count": 1000,
     "seeds": [1, 1000], "faults": {"cut": 812}, "seconds": 61.2, "failures": 0}

``commit`` is the one that was checked out, ``changed`` whether tracked files differed from it; ``seeds`` the range that
runs the same things again (null where there are none); ``faults`` how often each kind was injected; ``seconds`` of
processor time. ``python -m tests.ledger`` adds the lines up and writes the totals into docs/RELIABILITY.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "tests" / "ledger.jsonl"
PAGE = ROOT / "docs" / "RELIABILITY.md"
BEGIN_MARK = "<!-- totals: written by python -m tests.ledger -->"
END_MARK = "<!-- end of totals -->"


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate counts.

    Args:
        unit: what ``count`` counts.
        adds_up: whether runs add up; else the last run is the result.
    """

    unit: str
    adds_up: bool = True


# A gate may have parts, named behind a slash: "fuzz/frames".
GATES = {
    "crash states": Gate("crash schedules over small scopes"),
    "schedules": Gate("random runs of both ends over simulated network, disks and time"),
    "bit flips": Gate("single bits flipped on the wire, in the journal, on the disk"),
    "planted bugs": Gate("bugs planted, each of which must be caught", adds_up=False),
    "kills": Gate("real processes killed at a system call"),
    "io errors": Gate("operations of real processes that were made to fail"),
    "links": Gate("sessions of real processes over broken links"),
    "link sweep": Gate("bytes of sessions at each of which the way broke, held or dribbled"),
    "hostile": Gate("hostile sessions against a real receiver"),
    "fuzz": Gate("executions"),
}


@dataclass(slots=True)
class Total:
    """Runs of one gate, added up."""

    runs: int = 0
    count: int = 0
    seconds: float = 0.0
    failures: int = 0
    faults: dict[str, int] = field(default_factory=dict)


def record(
    *,
    gate: str,
    count: int,
    seconds: float,
    seeds: tuple[int, int] | None = None,
    faults: Mapping[str, int] | None = None,
    failures: int = 0,
    ledger: Path = LEDGER,
) -> None:
    """Append a run.

    Args:
        gate: one of :data:`GATES`, with a part behind a slash where it has parts.
        count: in the gate's unit.
        seconds: of processor time, of all processes that took part.
        seeds: first and last.
        faults: how often each kind was injected (or, for bit flips and planted bugs, how many by place).
        failures: promises that were broken; what is found is fixed, the line stays.
        ledger: the file.

    Raises:
        ValueError: there is no such gate.
    """
    if gate.partition("/")[0] not in GATES:
        raise ValueError(f"there is no gate {gate!r}; gates are named in tests/ledger.py")
    commit, changed = _commit()
    line = {
        "commit": commit,
        "changed": changed,
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gate": gate,
        "count": count,
        "seeds": list(seeds) if seeds else None,
        "faults": dict(sorted((faults or {}).items())),
        "seconds": round(seconds, 1),
        "failures": failures,
    }
    # One write of one line: several campaigns may append at once.
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def _commit() -> tuple[str, bool]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = [
        line
        for line in git("status", "--porcelain", "--untracked-files=no").splitlines()
        if LEDGER.name not in line
    ]
    return git("rev-parse", "--short=12", "HEAD") or "unknown", bool(changed)


def totals(lines: Iterable[str]) -> dict[str, Total]:
    """Add the ledger's lines up, by gate, in the order of :data:`GATES`."""
    found: dict[str, Total] = {}
    for text in lines:
        said: dict[str, Any] = json.loads(text)
        gate = said["gate"]
        total = found.setdefault(gate, Total())
        if not GATES[gate.partition("/")[0]].adds_up:
            total.count = total.failures = 0
            total.faults.clear()
        total.runs += 1
        total.count += said["count"]
        total.seconds += said["seconds"]
        total.failures += said["failures"]
        for kind, times in said["faults"].items():
            total.faults[kind] = total.faults.get(kind, 0) + times
    order = list(GATES)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0].partition("/")[0]), item[0])))


def table(found: Mapping[str, Total]) -> str:
    """The totals as the page shows them."""
    rows = [
        "| gate | runs | count | of what | processor time | failures |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, total in found.items():
        unit = GATES[name.partition("/")[0]].unit
        rows.append(
            f"| {name} | {total.runs} | {total.count:,} | {unit} | {_duration(total.seconds)} | {total.failures} |"
        )
    kinds = [
        f"- {name}: " + ", ".join(f"{kind} {times:,}" for kind, times in sorted(total.faults.items()))
        for name, total in found.items()
        if total.faults
    ]
    return "\n".join([*rows, "", "Faults by kind:", "", *kinds])


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def write_totals(page: Path, ledger: Path) -> None:
    """Put the totals between the page's marks.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN_MARK)
    _, end, after = rest.partition(END_MARK)
    if not begin or not end:
        raise ValueError(f"{page} has no place for the totals")
    found = totals(ledger.read_text().splitlines())
    page.write_text(f"{before}{begin}\n\n{table(found)}\n\n{end}{after}")


def main() -> int:
    argparse.ArgumentParser(prog="python -m tests.ledger", description=__doc__.partition("\n")[0]).parse_args()
    write_totals(PAGE, LEDGER)
    print(table(totals(LEDGER.read_text().splitlines())))  # noqa: T201 - a program's output
    return 0


if __name__ == "__main__":
    sys.exit(main())
