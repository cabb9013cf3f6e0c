"""The simulations, as programs.

::

    python -m tests.simulation --seed 7             one run of both ends again, with what happened in it
    python -m tests.simulation --runs 20000         many runs, from --first on
    python -m tests.simulation --scopes             the small scopes, every crash; --states bounds each pass of each

``--ledger`` appends what was done to tests/ledger.jsonl (or to the file named).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.ledger import LEDGER, record


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="play this run again and print its trace")
    what.add_argument("--runs", type=int, help="play so many runs")
    what.add_argument("--scopes", action="store_true", help="walk the small scopes")
    parser.add_argument("--first", type=int, default=1, help="first seed of the runs")
    parser.add_argument("--jobs", type=int, default=0, help="processes at once (default: the processors)")
    parser.add_argument(
        "--states", type=int, default=0, help="stop each pass of each scope after so many crash states"
    )
    parser.add_argument("--scope", default="", help="only scopes whose name contains this")
    parser.add_argument("--stop", action="store_true", help="at the first broken promise")
    parser.add_argument("--ledger", type=Path, nargs="?", const=LEDGER, default=None, help="append to the ledger")
    wanted = parser.parse_args()
    if wanted.scopes:
        return walk(wanted.scope, wanted.states, wanted.ledger)
    from tests.simulation import seam

    seam.install()
    if wanted.seed is not None:
        return again(wanted.seed)
    return play(wanted.first, wanted.runs, wanted.jobs, wanted.ledger, stop=wanted.stop)


def again(seed: int) -> int:
    from tests.simulation.campaign import replay
    from tests.simulation.oracle import ViolationError

    try:
        outcome = replay(seed)
    except ViolationError as error:
        say("\n".join([*error.trace, f"VIOLATION {error}"]))
        return 1
    say("\n".join(outcome.trace))
    say(json.dumps({"seed": seed, "faults": outcome.hit, "steps": outcome.steps, "checks": outcome.checks}))
    return 0


def play(first: int, count: int, jobs: int, ledger: Path | None, *, stop: bool) -> int:
    from tests.simulation.campaign import Sum, campaign, default_jobs

    total = Sum()
    shown = 0
    for total in campaign(first, count, jobs or default_jobs(), ledger, stop=stop):
        for violation in total.violations[shown:]:
            say(f"VIOLATION {violation}", sys.stderr)
        shown = len(total.violations)
        rate = total.runs / total.processor
        say(f"{total.runs} runs, {rate:.0f} a processor second, {shown} violations", sys.stderr)
    say(
        json.dumps(
            {
                "runs": total.runs,
                "seeds": [first, first + count - 1],
                "violations": len(total.violations),
                "processor_seconds": round(total.processor, 1),
                "simulated_hours": round(total.simulated / 3600, 1),
                "connections": total.sessions,
                "checks": total.checks,
                "faults": dict(sorted(total.hit.items())),
            }
        )
    )
    return 1 if total.violations else 0


def walk(name: str, states: int, ledger: Path | None) -> int:
    from tests.simulation.exhaustive import Explorer, Tally, scopes

    total = Tally()
    began = time.process_time()
    for scope in scopes():
        if name not in scope.name:
            continue
        tally = Tally()
        scope_began = time.process_time()
        Explorer(scope, tally, states).run()
        total.states += tally.states
        total.images += tally.images
        seconds = time.process_time() - scope_began
        if ledger is not None:
            record(
                gate="crash states",
                count=tally.states,
                seconds=seconds,
                faults={scope.name: tally.states},
                ledger=ledger,
            )
        say(
            json.dumps(
                {
                    "scope": scope.name,
                    "states": tally.states,
                    "images": tally.images,
                    "sampled": tally.sampled,
                    "seconds": round(seconds, 1),
                }
            )
        )
    say(
        json.dumps(
            {"states": total.states, "images": total.images, "seconds": round(time.process_time() - began, 1)}
        )
    )
    return 0


def say(text: str, where: object = None) -> None:
    print(text, file=where, flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
