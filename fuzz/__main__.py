"""``python -m fuzz SURFACE… --seconds N``: coverage-guided fuzzing; ``all`` for every surface in turn.

Needs atheris (``pip install -e '.[fuzz]'``). What breaks the promise is written to ``fuzz/crashes/SURFACE`` and ends
the run of that surface; ``python -m fuzz SURFACE --file PATH`` runs one input again, without atheris.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz import surfaces

CRASHES = Path(__file__).with_name("crashes")
CORPORA = Path(tempfile.gettempdir()) / f"blocksync-fuzz-{os.geteuid()}"
# One input that takes longer, or that allocates more at once, breaks the promise.
INPUT_SECONDS = 10
ALLOCATION_MIB = 192
MEMORY_MIB = 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("surface", nargs="+", choices=[*surfaces.NAMES, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each surface")
    parser.add_argument("--runs", type=int, default=-1, help="executions at most, for each surface")
    parser.add_argument("--seed", type=int, default=0, help="0 takes one by chance")
    parser.add_argument("--file", type=Path, help="run this input alone")
    parser.add_argument("--ledger", action="store_true", help="append the outcome to tests/ledger.jsonl")
    wanted = parser.parse_args()
    names = surfaces.NAMES if "all" in wanted.surface else tuple(wanted.surface)
    if wanted.file is not None:
        surfaces.meets(surfaces.load(names[0]), wanted.file.read_bytes())
        return 0
    broken = 0
    for name in names:
        broken += _fuzz(name, wanted)
    return 1 if broken else 0


def _fuzz(name: str, wanted: argparse.Namespace) -> bool:
    """Fuzz a surface; whether it broke its promise."""
    surface = surfaces.load(name)
    corpus, crashes = CORPORA / name, CRASHES / name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(surface.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable, "-m", "fuzz.campaign", name, f"-max_total_time={wanted.seconds}", f"-runs={wanted.runs}",
            f"-max_len={surface.most_bytes}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}",
            f"-malloc_limit_mb={ALLOCATION_MIB}", f"-artifact_prefix={crashes}/", "-print_final_stats=1",
            f"-seed={wanted.seed}", str(corpus),
        ],
        check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr) or re.search(r"Done (\d+) runs", done.stderr)
    count = int(found[1]) if found else 0
    covered = re.findall(r"cov: (\d+)", done.stderr)
    said = {
        "surface": name,
        "executions": count,
        "seconds": round(seconds, 1),
        "covered": int(covered[-1]) if covered else 0,
        "broken": done.returncode != 0,
    }
    print(json.dumps(said), flush=True)  # noqa: T201 - a program's output
    if done.returncode:
        print(done.stderr[-4000:], flush=True)  # noqa: T201
    if not any(crashes.iterdir()):
        crashes.rmdir()
    if wanted.ledger:
        from tests import ledger

        ledger.record(gate=f"fuzz/{name}", count=count, seconds=seconds, failures=int(done.returncode != 0))
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
