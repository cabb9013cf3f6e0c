"""``python -m tests.faults``: campaigns of faults on real processes.

    kills    SIGKILL at chosen operations of both ends; ``--strace`` for some under strace
    errors   each operation of a session fails in turn
    proxy    the way between the ends is cut at each byte of a session in turn; ``--slow`` holds it and lets it dribble
    sweep    the same at every byte of whole sessions, tens of them a second: both ends in one process

A seed runs the same fault again: ``python -m tests.faults kills --first 17 --runs 1``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import ledger
from tests.devices import image, loop_device
from tests.faults import cuts, injector
from tests.faults.bench import SCENES, SIZE, Bench
from tests.faults.children import import_all, processor_seconds
from tests.faults.failing import ENDS, KINDS, Failing
from tests.faults.kills import Kills, Tally
from tests.faults.sweep import ACTIONS, Sweep
from tests.faults.sweep import SCENES as SWEPT

# Where the disk is not what is tried.
MEMORY = "/dev/shm"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills")
    kills.add_argument("--runs", type=int, default=100)
    kills.add_argument("--first", type=int, default=0, help="seed of the first run")
    kills.add_argument("--strace", type=int, default=0, metavar="N", help="each N-th run under strace")
    errors = commands.add_parser("errors")
    errors.add_argument("--scene", choices=SCENES, action="append")
    errors.add_argument("--end", choices=ENDS, action="append")
    errors.add_argument("--kind", choices=[kind.name for kind in KINDS], action="append")
    errors.add_argument("--at", type=int, default=0, help="this operation alone")
    proxy = commands.add_parser("proxy")
    proxy.add_argument("--scene", choices=cuts.SCENES, action="append")
    proxy.add_argument("--slow", action="store_true", help="hold and dribble instead of cutting")
    sweep = commands.add_parser("sweep")
    sweep.add_argument("--scene", choices=SWEPT, action="append")
    sweep.add_argument("--action", choices=ACTIONS, action="append", help="mixed is cut or reset, half of each")
    sweep.add_argument("--at", type=int, default=None, help="at this byte of each connection alone")
    for each in (proxy, sweep):
        each.add_argument("--step", type=int, default=1, metavar="N", help="each N-th byte")
        each.add_argument(
            "--offset", type=int, default=0, metavar="K", help="from the K-th on: steps add up to all bytes"
        )
    for each in (kills, errors):
        each.add_argument("--device", action="store_true", help="the target is a loop device instead of a file")
    for each in (kills, errors, proxy, sweep):
        each.add_argument("--workers", type=int, default=1)
        each.add_argument("--ledger", action="store_true", help="append the outcome to tests/ledger.jsonl")
    wanted = parser.parse_args()
    injector.preload()
    import_all()
    campaign, gate = {
        "kills": (_kills, "kills"),
        "errors": (_errors, "io errors"),
        "proxy": (_proxy, "links"),
        "sweep": (_sweep, "link sweep"),
    }[wanted.command]
    tally, seconds = _spread(
        partial(campaign, wanted),
        wanted.workers,
        device=getattr(wanted, "device", False),
        place=MEMORY if wanted.command == "sweep" else None,
    )
    print(json.dumps({"runs": tally.runs, "faults": dict(sorted(tally.faults.items())), "seconds": seconds}))  # noqa: T201
    if wanted.ledger:
        ledger.record(
            gate=gate,
            count=tally.runs,
            seconds=seconds,
            seeds=(wanted.first, wanted.first + wanted.runs - 1) if wanted.command == "kills" else None,
            faults=tally.faults,
            failures=len(tally.failures),
        )
    return 1 if tally.failures else 0


def _kills(wanted: argparse.Namespace, bench: Bench, tally: Tally, worker: int) -> None:
    campaign = Kills(bench, tally)
    for seed in range(wanted.first + worker, wanted.first + wanted.runs, wanted.workers):
        campaign.run(seed, strace=bool(wanted.strace) and seed % wanted.strace == 0)


def _errors(wanted: argparse.Namespace, bench: Bench, tally: Tally, worker: int) -> None:
    campaign = Failing(bench, tally)
    for scene in wanted.scene or SCENES:
        for end in wanted.end or ENDS:
            for kind in KINDS:
                if wanted.kind and kind.name not in wanted.kind:
                    continue
                places = [wanted.at] if wanted.at else campaign.places(scene, end, kind)
                for at in places:
                    if at % wanted.workers == worker:
                        campaign.run(scene, end, kind, at)


def _proxy(wanted: argparse.Namespace, bench: Bench, tally: Tally, worker: int) -> None:
    campaign = cuts.Cuts(bench, tally)
    try:
        for scene in wanted.scene or cuts.SCENES:
            places = campaign.slow(scene) if wanted.slow else campaign.places(scene)
            for number, rule in enumerate(itertools.islice(places, wanted.offset, None, wanted.step)):
                if number % wanted.workers == worker:
                    campaign.run(scene, rule)
                    tally.faults[f"each {wanted.step} from {wanted.offset}"] += wanted.step > 1
    finally:
        campaign.close()


def _sweep(wanted: argparse.Namespace, bench: Bench, tally: Tally, worker: int) -> None:
    campaign = Sweep(bench.folder, tally)
    try:
        for scene, action in itertools.product(wanted.scene or SWEPT, wanted.action or ("mixed",)):
            for rule in campaign.places(scene, action):
                # By the byte and not by the number: how many bytes a connection has differs a little from time to time.
                number, left = divmod(rule.at - wanted.offset, wanted.step)
                if not left and number % wanted.workers == worker and wanted.at in (None, rule.at):
                    campaign.run(scene, rule)
                    tally.faults[f"each {wanted.step} from {wanted.offset}"] += wanted.step > 1
    finally:
        campaign.close()


def _spread(
    work: Callable[[Bench, Tally, int], None], workers: int, *, device: bool, place: str | None
) -> tuple[Tally, float]:
    """Work in several processes, each with a bench of its own; what they did together, and processor seconds."""
    with tempfile.TemporaryDirectory(prefix="blocksync-faults-", dir=place) as name:
        pids = []
        for worker in range(workers):
            pid = os.fork()
            if not pid:
                _work(work, Path(name), worker, device=device)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
        total, seconds = Tally(), 0.0
        for worker in range(workers):
            said = json.loads((Path(name) / f"{worker}.json").read_text())
            total.runs += said["runs"]
            total.faults.update(said["faults"])
            total.failures.extend(said["failures"])
            seconds += said["seconds"]
    return total, round(seconds, 1)


def _work(work: Callable[[Bench, Tally, int], None], folder: Path, worker: int, *, device: bool) -> None:
    tally = Tally()
    # Told to stop, it puts away what it has set up.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as exits:
            target = None
            if device:
                backing = image(folder / f"{worker}.img", SIZE)
                target = Path(exits.enter_context(loop_device(backing)))
            bench = Bench(folder / str(worker), target=target)
            exits.callback(bench.close)
            work(bench, tally, worker)
    except BaseException:  # noqa: BLE001 - told by the parent
        tally.fail(f"the campaign itself: {traceback.format_exc()}")
    finally:
        said = {
            "runs": tally.runs, "faults": tally.faults, "failures": tally.failures, "seconds": processor_seconds(),
        }  # fmt: skip
        (folder / f"{worker}.json").write_text(json.dumps(said))
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
