"""Plans the migration of many servers to one site over a shared link: waves, how long they take, and the pauses.

    python -m benchmarks.fleet [--servers 1000] [--seed 1] [--link 10G] [--slots 32] [--disks MB] [--at-once 64]
    python -m benchmarks.fleet --estimates FOLDER …

Servers come from the JSON of ``blocksync estimate --watch --json`` (a file each), or from a spread that a seed draws.
A wave is as many servers as fit at once. In it every server makes its first pass, then follows with incremental passes
until all of the wave have made theirs; then all cut over at once, and the pause is the last pass while all share
the link. Rates are shared evenly, up to each server's own rate (max-min fairness). No protocol is simulated, following
passes take nothing from first passes of their wave, and nothing fails: the plan is no better than the estimates.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB, GIB = 1 << 20, 1 << 30
# Opening, planning and committing of a pass, whatever it sends.
PASS_SECONDS = 3.0
# A pass is the last one when the next would not be shorter than this much of it.
CONVERGED_SHARE = 0.9
MOST_PASSES = 50


@dataclass(frozen=True, slots=True)
class Server:
    """One server as its estimate tells it.

    Args:
        name: of it.
        wire: bytes on the wire in the first pass.
        rate: bytes a second on the wire that the server can send at most.
        changes: bytes a second on the wire that following passes must send for what was written meanwhile.
    """

    name: str
    wire: float
    rate: float
    changes: float


@dataclass(frozen=True, slots=True)
class Site:
    """What all share: bytes a second of the link and of the target disks together (as on the wire), and slots."""

    link: float
    disks: float
    slots: int
    at_once: int

    @property
    def concurrent(self) -> int:
        return min(self.slots, self.at_once)

    @property
    def rate(self) -> float:
        return min(self.link, self.disks)


@dataclass(frozen=True, slots=True)
class Wave:
    """A wave's outcome: seconds to its last cutover, the cutover pauses, and the servers that never converge."""

    servers: int
    first_seconds: float
    seconds: float
    pauses: tuple[float, ...]
    endless: tuple[str, ...]
    bound: str


def fair_rates(wanted: Sequence[float], capacity: float) -> list[float]:
    """Max-min fair shares of a capacity: nobody gets more than it wants, and what is left is shared evenly."""
    rates = [0.0] * len(wanted)
    left = capacity
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    for done, at in enumerate(order):
        rates[at] = min(wanted[at], left / (len(order) - done))
        left -= rates[at]
    return rates


def first_passes(servers: Sequence[Server], site: Site) -> tuple[list[float], dict[str, float]]:
    """When each server's first pass ends, all beginning together; and for how long each limit was what bound."""
    todo: dict[int, float] = {at: server.wire for at, server in enumerate(servers)}
    ends = [0.0] * len(servers)
    bound: dict[str, float] = defaultdict(float)
    now = 0.0
    while todo:
        live = sorted(todo)
        rates = fair_rates([servers[at].rate for at in live], site.rate)
        step = min(todo[at] / rate for at, rate in zip(live, rates, strict=True))
        full = sum(servers[at].rate for at in live) >= site.rate
        bound[("link" if site.link <= site.disks else "target disks") if full else "servers"] += step
        now += step
        for at, rate in zip(live, rates, strict=True):
            todo[at] -= rate * step
            if todo[at] <= 1e-6 * servers[at].wire:
                del todo[at]
                ends[at] = now + PASS_SECONDS
    return ends, bound


def following(server: Server, rate: float, waited: float) -> tuple[float, float, bool]:
    """Seconds of the passes after the first one, the last one's, and whether they get short.

    Args:
        rate: bytes a second that the server gets.
        waited: seconds since its first pass began, whose writes are to be sent.
    """
    total, last = 0.0, waited
    for _ in range(MOST_PASSES):
        seconds = PASS_SECONDS + server.changes * last / rate
        total += seconds
        if seconds >= CONVERGED_SHARE * last:
            return total, seconds, server.changes < rate
        last = seconds
    return total, last, True


def wave(servers: Sequence[Server], site: Site) -> Wave:
    """One wave: first passes together; who is done follows until the last one is; then all cut over."""
    ends, bound = first_passes(servers, site)
    first = max(ends)
    rates = fair_rates([server.rate for server in servers], site.rate)
    longest, pauses, endless = 0.0, [], []
    for server, rate, end in zip(servers, rates, ends, strict=True):
        # A follower has sent what was written until its last pass before the wave's end: at most one pass's time.
        steady = PASS_SECONDS / max(1e-9, 1 - server.changes / rate) if server.changes < rate else end
        waited = end if end >= first else max(min(end, steady), PASS_SECONDS)
        seconds, pause, converges = following(server, rate, waited)
        longest = max(longest, seconds)
        if converges:
            pauses.append(pause)
        else:
            endless.append(server.name)
    what = max(bound, key=lambda limit: bound[limit])
    return Wave(len(servers), first, first + longest, tuple(pauses), tuple(endless), what)


def plan(servers: Sequence[Server], site: Site) -> list[Wave]:
    """All waves, the largest servers first, so that a wave's servers are of a size."""
    order = sorted(servers, key=lambda server: -server.wire)
    return [wave(order[at : at + site.concurrent], site) for at in range(0, len(order), site.concurrent)]


def drawn(count: int, seed: int) -> list[Server]:
    """A spread: disks of 20 GiB to 2 TiB (log-normal, 100 GiB in the middle), 0.02 to 2 % of it written an hour."""
    chance = random.Random(seed)
    servers = []
    for number in range(count):
        size = min(max(chance.lognormvariate(0, 0.9) * 100 * GIB, 20 * GIB), 2048 * GIB)
        wire = size * chance.uniform(0.2, 0.6)
        changes = size * 10 ** chance.uniform(-3.7, -1.7) / 3600
        servers.append(Server(f"server{number}", wire, chance.choice((100, 200, 400)) * 1e6, changes))
    return servers


def read_estimates(folder: Path) -> list[Server]:
    """Servers from the last line of each ``*.json`` that ``blocksync estimate --watch --to HOST --json`` wrote.

    What changes is counted as if it did not compress.

    Raises:
        ValueError: an estimate was made without a receiver, or without watching.
    """
    servers = []
    for path in sorted(folder.glob("*.json")):
        said: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
        if not said.get("wire") or not said.get("transfer") or not said.get("changes"):
            raise ValueError(
                f"{path} was not made with --to and --watch: it says nothing of the link, or of changes"
            )
        wire, seconds = said["wire"]["likely"], said["transfer"]["likely"]
        servers.append(Server(path.stem, wire, wire / max(seconds, 1.0), said["changes"]["rate"]))
    return servers


def report(waves: Sequence[Wave], site: Site) -> list[str]:
    """The plan in lines."""
    pauses = sorted(pause for each in waves for pause in each.pauses)
    hours = sum(each.seconds for each in waves) / 3600
    limit = "as many as slots" if site.slots <= site.at_once else "by --at-once"
    count = sum(each.servers for each in waves)
    lines = [
        f"{count} servers in {len(waves)} waves of up to {site.concurrent} ({limit}): {hours:.1f} h",
        "what bound the first passes: "
        + ", ".join(
            f"{what} in {count} waves" for what, count in Counter(each.bound for each in waves).most_common()
        ),
    ]
    if pauses:
        middle, high = pauses[len(pauses) // 2], pauses[int(len(pauses) * 0.95)]
        lines.append(
            f"cutover pause: {middle:.1f} s in the middle, 95 % within {high:.1f} s, longest {pauses[-1]:.1f} s"
        )
    endless = [name for each in waves for name in each.endless]
    if endless:
        lines.append(f"{len(endless)} write faster than they can send: {', '.join(endless[:5])}")
    for number, each in enumerate(waves[:3], 1):
        lines.append(
            f"wave {number}: first passes {each.first_seconds / 3600:.2f} h, all {each.seconds / 3600:.2f} h"
        )
    return lines


def bits(text: str) -> float:
    """``10G`` bits a second as bytes a second."""
    factors = {"M": 1e6, "G": 1e9}
    return float(text[:-1]) * factors[text[-1].upper()] / 8


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--estimates", type=Path, help="folder of estimates, instead of --servers and --seed")
    parser.add_argument("--link", type=bits, default=bits("10G"), help="bits a second, M or G")
    parser.add_argument(
        "--disks", type=float, default=2000.0, help="MB/s that all targets take together, as on the wire"
    )
    parser.add_argument("--slots", type=int, default=32, help="of all receivers together")
    parser.add_argument("--at-once", type=int, default=64, help="servers that may be in a wave")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    try:
        servers = read_estimates(wanted.estimates) if wanted.estimates else drawn(wanted.servers, wanted.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not servers:
        parser.error("there are no servers to plan for")
    site = Site(link=wanted.link, disks=wanted.disks * 1e6, slots=wanted.slots, at_once=wanted.at_once)
    waves = plan(servers, site)
    if wanted.json:
        print(json.dumps([{name: getattr(each, name) for name in Wave.__slots__} for each in waves]))
    else:
        print("\n".join(report(waves, site)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
