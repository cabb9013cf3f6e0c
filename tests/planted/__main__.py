"""``python -m tests.planted``: plant each bug of the catalogue in a throw-away copy of the tree; its gate must fail.

A bug is *caught* when its gate, which passes on the tree as it is, fails with a failed test or a broken promise (or
hangs past its time). Anything else, a gate that passes or that cannot run, is a bug that was *missed*; the exit code
says so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.ledger import LEDGER, ROOT, record
from tests.planted.bug import Bug
from tests.planted.catalogue import BUGS

GATE_SECONDS = 240
RUNS = "6000"
STATES = "40000"
FLIPS = "1000"
COPIED = (
    "blocksync",
    "tests",
    "fuzz",
    "docs",
    "pyproject.toml",
    "packaging",
    "scripts",
    "README.md",
    "setup.py",
    "setup.cfg",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="only bugs whose name or room contains this")
    parser.add_argument("--list", action="store_true", help="list them and stop")
    parser.add_argument("--check", action="store_true", help="only see that each patch still fits its file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="gates at once")
    parser.add_argument("--ledger", type=Path, nargs="?", const=LEDGER, default=None, help="append to the ledger")
    wanted = parser.parse_args()
    bugs = [bug for bug in BUGS if wanted.only in bug.name or wanted.only == bug.room]
    for bug in bugs:
        fits(ROOT, bug)
    if wanted.list or wanted.check:
        for bug in bugs if wanted.list else ():
            say(f"{bug.room:12} {bug.name}  [{bug.gate}]")
        say(f"{len(bugs)} planted bugs, each fits")
        return 0
    missed, seconds = plant(bugs, wanted.jobs)
    caught = len(bugs) - len(missed)
    rooms = Counter(bug.room for bug in bugs)
    say(
        f"{caught} of {len(bugs)} caught ({100 * caught / max(1, len(bugs)):.0f} %), {seconds:.0f} processor seconds"
    )
    for bug in missed:
        say(f"MISSED {bug.name}  [{bug.gate}]")
    if wanted.ledger is not None:
        record(
            gate="planted bugs",
            count=len(bugs),
            seconds=seconds,
            faults=rooms,
            failures=len(missed),
            ledger=wanted.ledger,
        )
    return 1 if missed else 0


def fits(tree: Path, bug: Bug) -> str:
    """The patched text.

    Raises:
        SystemExit: the code has moved on.
    """
    text = (tree / "blocksync" / bug.file).read_text()
    found = text.count(bug.old)
    if found != 1:
        raise SystemExit(
            f"planted bug {bug.name!r}: its text stands {found} times in {bug.file}; mend the catalogue"
        )
    return text.replace(bug.old, bug.new)


def plant(bugs: list[Bug], jobs: int) -> tuple[list[Bug], float]:
    """Plant all, each alone; the missed ones and the processor time of the gates."""
    began = os.times()
    missed: list[Bug] = []
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(copy_tree(Path(folder) / str(number)))

        def one(bug: Bug) -> None:
            tree = trees.get()
            started = time.monotonic()
            try:
                said, why = outcome(tree, bug)
            finally:
                trees.put(tree)
            if said != "caught":
                missed.append(bug)
            say(f"{said:7} {time.monotonic() - started:6.1f} s  {bug.room}: {bug.name}{why}")

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, bugs))
    ended = os.times()
    return missed, ended.children_user + ended.children_system - began.children_user - began.children_system


def copy_tree(into: Path) -> Path:
    into.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "ledger.jsonl")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, into / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, into / name)
    return into


def _ended(words: list[str], tree: Path, more: dict[str, str]) -> tuple[int, str]:
    """The exit code of a gate and what it said; nothing that it began outlives it, also where it hangs."""
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **more}
        gate = subprocess.Popen(
            words, cwd=tree, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = gate.wait(GATE_SECONDS)
        finally:
            # What does not stop, as a worker with a bug that spins, would take a processor for good.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(gate.pid, signal.SIGKILL)
            gate.wait()
        said.seek(0)
        return code, said.read()


def outcome(tree: Path, bug: Bug) -> tuple[str, str]:
    """Plant, run the gate, take the bug out again."""
    path = tree / "blocksync" / bug.file
    sound = path.read_text()
    path.write_text(fits(tree, bug))
    try:
        code, said = _ended(command(bug), tree, {"BLOCKSYNC_KERNELS": bug.kernels} if bug.kernels else {})
    except subprocess.TimeoutExpired:
        return "caught", "  (its gate hangs)"
    finally:
        path.write_text(sound)
    if code == 1:
        return "caught", ""
    if code == 0:
        return "MISSED", ""
    return "BROKEN", f"\n{said[-1500:]}"


def command(bug: Bug) -> list[str]:
    kind, _, name = bug.gate.partition(" ")
    if kind == "runs":
        return [sys.executable, "-m", "tests.simulation", "--runs", RUNS, "--jobs", "1", "--stop"]
    if kind == "flips":
        return [sys.executable, "-m", "tests.flips", "--flips", FLIPS, "--jobs", "1"]
    if kind == "scopes":
        return [sys.executable, "-m", "tests.simulation", "--scopes", "--scope", name, "--states", STATES]
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
    return [*pytest, *(f"tests/{node}" for node in bug.gate.split(" tests/")[0].split())]


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program's output


if __name__ == "__main__":
    sys.exit(main())
