"""``python -m tests.flips``: single bits flipped on the wire, in state, on the target; each must be caught.

A seed is one flip: ``--seed N`` plays it again and says where it was and what caught it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.flips.places import Broken, play
from tests.ledger import LEDGER, record

BATCH = 50
FLIPS_A_LINE = 20_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.flips", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, help="play this flip alone")
    parser.add_argument("--flips", type=int, default=5000)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once")
    parser.add_argument("--ledger", type=Path, nargs="?", const=LEDGER, default=None, help="append to the ledger")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        try:
            say(f"{play(wanted.seed) or 'the bit was not looked at'}")
        except Broken as broken:
            say(f"NOT CAUGHT {broken}")
            return 1
        return 0
    return campaign(wanted.first, wanted.flips, wanted.jobs, wanted.ledger)


def campaign(first: int, count: int, jobs: int, ledger: Path | None) -> int:
    """Play seeds from ``first`` on until ``count`` flips were looked at; the exit code."""
    total: Counter[str] = Counter()
    broken: list[str] = []
    spent, at = 0.0, first
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        while sum(total.values()) < count:
            begun, line, failures, seconds = at, Counter[str](), 0, 0.0
            while sum(line.values()) < min(FLIPS_A_LINE, count - sum(total.values())):
                starts = range(at, at + 4 * jobs * BATCH, BATCH)
                at = starts[-1] + BATCH
                for caught, said, took in pool.map(_batch, starts):
                    line.update(caught)
                    broken += said
                    failures += len(said)
                    seconds += took
                    for each in said:
                        say(f"NOT CAUGHT {each}")
            total.update(line)
            spent += seconds
            if ledger is not None:
                record(
                    gate="bit flips",
                    count=sum(line.values()),
                    seconds=seconds,
                    seeds=(begun, at - 1),
                    faults=line,
                    failures=failures,
                    ledger=ledger,
                )
    said = {
        "flips": sum(total.values()),
        "seeds": [first, at - 1],
        "not caught": len(broken),
        "processor_seconds": round(spent, 1),
        "caught": dict(sorted(total.items())),
    }
    say(json.dumps(said))
    return 1 if broken else 0


def _batch(start: int) -> tuple[Counter[str], list[str], float]:
    began = time.process_time()
    caught: Counter[str] = Counter()
    broken: list[str] = []
    for seed in range(start, start + BATCH):
        try:
            how = play(seed)
        except Broken as error:
            broken.append(str(error))
            caught["not caught"] += 1
            continue
        except Exception as error:  # noqa: BLE001 - whatever else is raised is a broken promise, with its seed
            broken.append(f"seed {seed}: {type(error).__name__}: {error}")
            caught["not caught"] += 1
            continue
        if how is not None:
            caught[": ".join(how)] += 1
    return caught, broken, time.process_time() - began


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program's output


if __name__ == "__main__":
    sys.exit(main())
