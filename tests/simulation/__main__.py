"""``python -m tests.simulation``: walk the small scopes, print what was looked at."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.simulation.exhaustive import Explorer, Tally, scopes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--states", type=int, default=0, help="stop each scope after this many crash states")
    parser.add_argument("--scope", default="", help="only scopes whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the samples where there are too many subsets")
    wanted = parser.parse_args()
    total = Tally()
    for scope in scopes():
        if wanted.scope not in scope.name:
            continue
        tally = Tally()
        began = time.process_time()
        Explorer(scope, tally, wanted.states, wanted.seed).run()
        total.states += tally.states
        total.images += tally.images
        print(  # noqa: T201 - a program's output
            json.dumps(
                {
                    "scope": scope.name,
                    "states": tally.states,
                    "images": tally.images,
                    "sampled": tally.sampled,
                    "seconds": round(time.process_time() - began, 1),
                }
            ),
            flush=True,
        )
    print(json.dumps({"states": total.states, "images": total.images}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
