"""``blocksync bench``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.grid import draw
from blocksync.cli.parameters import PATH, common, sized
from blocksync.cli.quantities import show_rate
from blocksync.cli.session import Session

if TYPE_CHECKING:
    from blocksync.estimate.results import BenchResult

_LIMITS = {
    "read": "reading the source",
    "processor": "the processors here",
    "link": "the link",
    "target": "the receiver's disk or processors, if they are like these",
}


@click.command()
@click.argument("source", required=False)
@click.option(
    "--folder", type=PATH, metavar="DIR", help="Measure writing there. [default: the system's for such files]"
)
@click.option(
    "--link", type=sized(0), default="0", metavar="RATE", help="Bytes a second of the link that passes have."
)
@common(state=False)
def bench(session: Session, source: str | None, folder: Path | None, link: int) -> int:
    """Measure each stage of a pass on this machine: reading, digesting, packing, TLS, writing.

    Takes some ten seconds. Of SOURCE samples are read, nothing is written to it; without one a sample is made.
    """
    from blocksync import api

    with session.cancellable() as cancel:
        result = api.bench(source, api.BenchOptions(folder=folder, link=link), cancel=cancel)
    facts = dataclasses.asdict(result) | {"best": dataclasses.asdict(result.best)}
    if session.output.json_lines:
        session.output.result({"command": "bench", **facts})
        return 0
    session.output.table(stages_of(result))
    session.output.result({"command": "bench", **facts}, *summary(result))
    return 0


def stages_of(result: BenchResult) -> str:
    """The stages as a table."""
    rows = [
        [
            stage.name,
            show_rate(stage.rate),
            f"{stage.processor * (1 << 30):.2f} s",
            f"{100 * stage.ratio:.0f} %" if stage.name.startswith("pack") else "",
            stage.note,
        ]
        for stage in result.stages
    ]
    columns = ["stage, one thread", "rate", "processor a GiB", "leaves", ""]
    return draw("", columns, rows, numbers=columns[1:4])


def summary(result: BenchResult) -> list[str]:
    """What the figures come to, in words."""
    best = result.best
    level = "no compression" if best.level is None else f"level {best.level}"
    of = result.source or "a made-up sample"
    between = f"a first pass between two such machines: {show_rate(best.rate)} of data with {level}"
    lines = [
        f"{result.cores} processors; {100 * result.zero_share:.0f} % of {of} is zeros, which cost next to nothing",
        f"{between}, limited by {_LIMITS[best.bottleneck]}",
    ]
    if best.bottleneck != "link":
        lines.append(f"a link that carries {show_rate(best.rate * best.ratio)} would not be the bottleneck")
    return lines
