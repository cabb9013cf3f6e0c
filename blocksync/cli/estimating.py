"""``blocksync estimate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.codes import asker, given_code
from blocksync.cli.display import showing
from blocksync.cli.parameters import PATH, common, duration, level, sized
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import StateError, from_os_error
from blocksync.options import DEFAULT_CONNECTIONS

if TYPE_CHECKING:
    from blocksync.estimate.results import ChangeFigures, EstimateResult, Range, SourceFigures

MAX_CONNECTIONS = 16
_LIMITS = {
    "read": "reading the source",
    "processor": "the processors",
    "link": "the link",
    "target": "the receiver's disk or processor",
}


@click.command()
@click.argument("source")
@click.option(
    "--to", default="", metavar="HOST[:PORT]", help="The receiver; without it the source is sampled only."
)
@click.option("--slot", default="", metavar="SLOT", help="The receiver's name for the target.")
@click.option("--code", metavar="CODE", help="The pairing code; others see it in the list of processes.")
@click.option("--code-file", type=PATH, metavar="FILE", help="Read the pairing code from here.")
@click.option(
    "--connections",
    type=click.IntRange(1, MAX_CONNECTIONS),
    default=DEFAULT_CONNECTIONS,
    show_default=True,
    help="Data connections that the pass would have.",
)
@click.option(
    "--level", type=level, default="auto", show_default=True, metavar="LEVEL", help="auto, or 0 (off) to 19."
)
@click.option(
    "--bwlimit", type=sized(0), default="0", metavar="RATE", help="Bytes a second, as 10M. [default: none]"
)
@click.option(
    "--watch",
    type=duration(),
    default="0",
    metavar="TIME",
    help="Watch the source change for so long, as 10m, to predict the following passes. [default: not]",
)
@click.option(
    "--pause",
    type=duration(),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long the source may stand still for the last pass.",
)
@click.option(
    "--flatten",
    is_flag=True,
    help="Also predict dividing the target and repairing the system, as send --flatten does.",
)
@click.option("--html", type=PATH, metavar="FILE", help="Also write a report with plots, one self-contained page.")
@common()
def estimate(
    session: Session,
    source: str,
    to: str,
    slot: str,
    code: str | None,
    code_file: Path | None,
    state_dir: Path | None,
    connections: int,
    level: int | None,
    bwlimit: int,
    watch: float,
    pause: float,
    flatten: bool,
    html: Path | None,
) -> int:
    """Predict what moving SOURCE to a receiver takes, in about twenty seconds.

    Reads at most 2 % of the source, and rehearses a pass on the real link, to a scratch file beside the target or to
    nowhere: the target is not touched.
    """
    from blocksync import api

    given = given_code(session, to, code, code_file) if to else None
    with session.cancellable() as cancel, showing(session.output) as display:
        options = api.EstimateOptions(
            to=to,
            slot=slot,
            code=given,
            ask_code=asker(session, display),
            state_dir=state_dir,
            connections=connections,
            level=level,
            bwlimit=bwlimit,
            watch=watch,
            pause=pause,
            flatten=flatten,
            progress=display,
        )
        result = api.estimate(source, options, cancel=cancel)
    if html is not None:
        _write_report(html, result)
    session.output.result({"command": "estimate", **dataclasses.asdict(result)}, *summary(result))
    return 0


def _write_report(path: Path, result: EstimateResult) -> None:
    from blocksync.estimate.report import page

    try:
        path.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, StateError, f"cannot write the report to {path}") from error


def summary(result: EstimateResult) -> list[str]:
    """An estimate in words."""
    from blocksync.estimate.words import milliseconds

    lines: list[str] = []
    if result.seconds is not None and result.transfer is not None and result.wire is not None:
        lines.append(
            f"first pass of {result.source} to slot {result.slot}: {show_range(result.seconds)}, "
            f"limited by {_LIMITS[result.bottleneck]}"
        )
        preparation = f"  preparation {show_seconds(result.preparation)}"
        if result.divide is not None:
            preparation += f"; dividing the target before it {show_range(result.divide)}"
        lines.append(preparation)
        lines.append(f"  transfer    {show_range(result.transfer)} at {show_rate(result.rate)} of the disk")
        completion = f"  completion  commit {show_seconds(result.commit)}"
        if result.verify is not None:
            completion += f"; blocksync verify after it {show_range(result.verify)}"
        if result.repair is not None:
            completion += f"; repairing the system at the end {show_range(result.repair)}"
        lines.append(completion)
        wire = f"{show_size(result.wire.low)} to {show_size(result.wire.high)}"
        lines.append(f"on the wire: {show_size(result.wire.likely)} ({wire})")
    lines.extend(_source_lines(result.figures))
    if result.link is not None:
        rates = ", ".join(f"{show_rate(rate)} on {count}" for count, rate in result.link.rates)
        lines.append(f"link: {rates} connections; round trip {milliseconds(result.link.round_trip)}")
    if result.changes is not None:
        lines.extend(_change_lines(result.changes))
    if result.target == "nowhere":
        lines.append("the target's writing was not measured: it is no file, or there is no room beside it")
    if result.generation:
        lines.append(
            f"the slot holds generation {result.generation} already: the next pass sends only what changed since"
        )
    return lines


def _change_lines(found: ChangeFigures) -> list[str]:
    told = f"told by the source's dirty map ({found.tracker})" if found.tracker else "by reading samples again"
    if not found.rate:
        lines = [f"changes: none in {show_seconds(found.watched)}, {told}"]
    elif found.steady:
        said = (
            f"changes: {show_rate(found.rate)}, no less at the end of {show_seconds(found.watched)} than at first"
        )
        lines = [said, f"  {told}"]
    else:
        lines = [
            f"changes: {show_rate(found.rate)} at first, up to {show_size(found.hot)} that is written again and again",
            f"  {told}",
        ]
    for number, following in enumerate(found.passes, 2):
        sends = f"{show_size(following.changed)} changed, {show_size(following.wire)} on the wire"
        lines.append(f"  pass {number}: {show_seconds(following.seconds)}, {sends}")
    if found.pause is None:
        return lines
    lines.append(f"  last pass, with the source quiet: {show_range(found.pause)}")
    if not found.converges:
        if found.needed is None:
            lines.append("  that is as short as it gets: reading and committing alone take so long")
        else:
            lines.append(f"  it gets no shorter on this link; one that carries {show_rate(found.needed)} would do")
    return lines


def _source_lines(figures: SourceFigures) -> list[str]:
    known = f"{show_size(figures.data)} to read, {show_size(figures.holes)} of holes"
    if figures.unused:
        known += f", {show_size(figures.unused)} that no filesystem uses"
    lines = [f"source: {show_size(figures.size)}: {known}"]
    if figures.samples:
        packing = max(figures.levels, key=lambda figure: figure.ratio, default=None)
        shrinks = f"; the rest shrinks up to {packing.ratio:.1f}-fold" if packing and packing.ratio > 1.05 else ""
        lines.append(
            f"sampled {figures.samples} extents, {show_size(figures.sampled)}: {100 * figures.zero_share:.0f} % zeros, "
            f"{100 * figures.incompressible_share:.0f} % that does not shrink{shrinks}; "
            f"read at {show_rate(figures.read_rate)}"
        )
    return lines


def show_range(found: Range) -> str:
    """``2:10 (1:50 to 2:31)``."""
    return f"{show_seconds(found.likely)} ({show_seconds(found.low)} to {show_seconds(found.high)})"
