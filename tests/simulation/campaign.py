"""Many seeds: runs spread over processes, added up, put into the ledger."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.ledger import record
from tests.simulation import oracle
from tests.simulation.runs import Outcome, Run

BATCH = 100
# Ledger lines are written this often, so that a campaign that is stopped has counted.
RUNS_A_LINE = 5000


@dataclass(slots=True)
class Sum:
    """Of some runs."""

    runs: int = 0
    sessions: int = 0
    checks: int = 0
    steps: int = 0
    processor: float = 0.0
    simulated: float = 0.0
    hit: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, other: Sum) -> None:
        self.runs += other.runs
        self.sessions += other.sessions
        self.checks += other.checks
        self.steps += other.steps
        self.processor += other.processor
        self.simulated += other.simulated
        self.hit.update(other.hit)
        self.violations.extend(other.violations)


def replay(seed: int) -> Outcome:
    """One run with its trace.

    Raises:
        ViolationError: with the trace as its ``trace`` attribute.
    """
    oracle.watch()
    run = Run(seed, traced=True)
    try:
        return run.run()
    except oracle.ViolationError as error:
        error.trace = run.trace
        raise


def campaign(first: int, count: int, jobs: int, ledger: Path | None = None, *, stop: bool = False) -> Iterator[Sum]:
    """Play ``count`` seeds from ``first`` on; yields the sum so far after each part."""
    total = Sum()
    last = first + count
    with ProcessPoolExecutor(jobs, get_context("fork"), oracle.watch) as pool:
        for start in range(first, last, RUNS_A_LINE):
            end = min(start + RUNS_A_LINE, last)
            part = Sum()
            for batch in pool.map(_play, [(at, min(at + BATCH, end)) for at in range(start, end, BATCH)]):
                part.add(batch)
                if stop and part.violations:
                    pool.shutdown(wait=True, cancel_futures=True)
                    yield part
                    return
            if ledger is not None:
                record(
                    gate="schedules",
                    count=part.runs,
                    seconds=part.processor,
                    seeds=(start, end - 1),
                    faults=part.hit,
                    failures=len(part.violations),
                    ledger=ledger,
                )
            total.add(part)
            yield total


def _play(seeds: tuple[int, int]) -> Sum:
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    found = Sum()
    began = time.process_time()
    for seed in range(*seeds):
        found.runs += 1
        try:
            outcome = Run(seed).run()
        except oracle.ViolationError as error:
            found.violations.append(str(error))
            continue
        found.sessions += outcome.sessions
        found.checks += outcome.checks
        found.steps += outcome.steps
        found.simulated += outcome.seconds
        found.hit.update(outcome.hit)
    found.processor = time.process_time() - began
    return found


def default_jobs() -> int:
    return len(os.sched_getaffinity(0))
