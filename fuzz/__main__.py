"""``python -m fuzz SURFACE… --seconds N``: coverage-guided fuzzing; ``all`` for every surface, ``--jobs`` at once.

Needs atheris (``pip install -e '.[fuzz]'``). What breaks the promise is written to ``fuzz/crashes/SURFACE`` and ends
the run of that surface; ``python -m fuzz SURFACE --file PATH`` runs one input again, without atheris.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzz import surfaces

CRASHES = Path(__file__).with_name("crashes")
CORPORA = Path(tempfile.gettempdir()) / f"blocksync-fuzz-{os.geteuid()}"
# By the clock, for one that hangs; what an input may take of a processor is told by the surfaces.
HANG_SECONDS = 120
# One input that allocates more at once breaks the promise.
ALLOCATION_MIB = 192
MEMORY_MIB = 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("surface", nargs="+", choices=[*surfaces.NAMES, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each surface")
    parser.add_argument("--runs", type=int, default=-1, help="executions at most, for each surface")
    parser.add_argument("--jobs", type=int, default=1, help="surfaces at once")
    parser.add_argument("--seed", type=int, default=0, help="0 takes one by chance")
    parser.add_argument("--file", type=Path, help="run this input alone")
    parser.add_argument("--ledger", action="store_true", help="append the outcome to tests/ledger.jsonl")
    wanted = parser.parse_args()
    names = surfaces.NAMES if "all" in wanted.surface else tuple(wanted.surface)
    if wanted.file is not None:
        surfaces.meets(surfaces.load(names[0]), wanted.file.read_bytes())
        return 0
    with ThreadPoolExecutor(max(wanted.jobs, 1)) as pool:
        broken = list(pool.map(lambda name: _fuzz(name, wanted), names))
    return 1 if any(broken) else 0


def _fuzz(name: str, wanted: argparse.Namespace) -> bool:
    """Fuzz a surface; whether it broke its promise."""
    surface = surfaces.load(name)
    corpus, crashes = CORPORA / name, CRASHES / name
    for folder in (corpus, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(surface.seeds()):
        (corpus / f"seed-{index}").write_bytes(seed)
    done, seconds = _run(
        [
            sys.executable, "-m", "fuzz.campaign", name, f"-max_total_time={wanted.seconds}", f"-runs={wanted.runs}",
            f"-max_len={surface.most_bytes}", f"-timeout={HANG_SECONDS}",
            f"-report_slow_units={HANG_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}",
            f"-malloc_limit_mb={ALLOCATION_MIB}", f"-artifact_prefix={crashes}/", "-print_final_stats=1",
            f"-seed={wanted.seed}", str(corpus),
        ],
    )  # fmt: skip
    said_last, code = done
    found = re.search(r"number_of_executed_units: (\d+)", said_last) or re.search(r"Done (\d+) runs", said_last)
    count = int(found[1]) if found else 0
    covered = re.findall(r"cov: (\d+)", said_last)
    said = {
        "surface": name,
        "executions": count,
        "seconds": round(seconds, 1),
        "covered": int(covered[-1]) if covered else 0,
        "broken": code != 0,
    }
    print(json.dumps(said), flush=True)  # noqa: T201 - a program's output
    if code:
        print(said_last[-4000:], flush=True)  # noqa: T201
    if not any(crashes.iterdir()):
        crashes.rmdir()
    if wanted.ledger:
        from tests import ledger

        ledger.record(gate=f"fuzz/{name}", count=count, seconds=seconds, failures=int(code != 0))
    return code != 0


def _run(command: list[str]) -> tuple[tuple[str, int], float]:
    """What a program says at last and its exit code; its processor time, without that of others beside it."""
    # The fuzzer leaves without cleaning up; its folder is in memory where there is such a place.
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        tempfile.TemporaryDirectory(prefix="blocksync-fuzz-", dir=place) as scratch,
    ):
        environment = {**os.environ, "TMPDIR": scratch}
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return (said.read(), child.returncode), usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
