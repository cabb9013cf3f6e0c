"""``blocksync status``, ``stop``, ``limit`` and ``delete``: a sender's transfers."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blocksync.cli.cutover import limit_options
from blocksync.cli.forecasts import beside_the_truth
from blocksync.cli.grid import draw
from blocksync.cli.parameters import common
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import TransferUnknownError, UsageError
from blocksync.limits import Limits, Schedule

if TYPE_CHECKING:
    from blocksync.transfers.figures import TransferStatus


@click.command()
@click.argument("transfer", required=False)
@common()
def status(session: Session, transfer: str | None, state_dir: Path | None) -> int:
    """List this sender's transfers, or show one.

    LAG is the age of the target's content. PAUSE is how long a final pass would take now.
    """
    from blocksync import api

    found = api.transfers(state_dir)
    if transfer is not None:
        found = [each for each in found if each.id.startswith(transfer) or transfer in _sources(each)]
        if not found:
            raise TransferUnknownError(f"no transfer is meant by {transfer!r}")
    output = session.output
    if output.json_lines:
        output.result({"command": "status", "transfers": [dataclasses.asdict(each) for each in found]})
    elif not found:
        output.result({}, "no transfer")
    elif transfer is not None:
        for each in found:
            output.result({}, *_facts(each))
    else:
        columns = ("transfer", "source", "to", "state", "passes", "lag", "changes", "pause")
        output.table(
            draw("", columns, [_row(each) for each in found], numbers=("passes", "lag", "changes", "pause"))
        )
    return 0


@click.command()
@click.argument("transfer")
@click.option("--final", is_flag=True, help="Let a following sender make its final pass now, then end.")
@common()
def stop(session: Session, transfer: str, final: bool, state_dir: Path | None) -> int:
    """Stop TRANSFER, named by its id or its source; sending again resumes it."""
    from blocksync import api

    told = api.stop_transfer(transfer, state_dir, final=final)
    words = "makes its final pass" if final else "is stopping" if told.running else f"is {told.state}"
    session.output.result({"command": "stop", **dataclasses.asdict(told)}, f"transfer {told.id} {words}")
    return 0


@click.command()
@click.argument("transfer")
@common()
def delete(session: Session, transfer: str, state_dir: Path | None) -> int:
    """Forget TRANSFER: its record, its receipt and the copies of its manifests. The receiver's slot stays."""
    from blocksync import api

    gone = api.delete_transfer(transfer, state_dir)
    session.output.result({"command": "delete", **dataclasses.asdict(gone)}, f"transfer {gone.id} is forgotten")
    return 0


@click.command()
@click.argument("transfer", default="")
@limit_options
@common()
def limit(
    session: Session,
    transfer: str,
    bwlimit: Schedule | None,
    read_limit: int | None,
    max_latency: float | None,
    nice: int | None,
    state_dir: Path | None,
) -> int:
    """Change the limits of a running TRANSFER; what is not named stays. Without TRANSFER: the one that runs."""
    from blocksync import api

    given: dict[str, Any] = {
        "bandwidth": dataclasses.asdict(bwlimit) if bwlimit is not None else None,
        "read": read_limit,
        "max_latency": max_latency,
        "nice": nice,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise UsageError("no limit is given", remedy="give --bwlimit, --read-limit, --max-latency or --nice")
    limits = api.limit_transfer(transfer, changes, state_dir)
    session.output.result({"command": "limit", **dataclasses.asdict(limits)}, *_limits(limits))
    return 0


def _limits(limits: Limits) -> list[str]:
    windows = [
        f"{window.begin // 60:02d}:{window.begin % 60:02d}-{window.end // 60:02d}:{window.end % 60:02d} "
        f"{_rate(window.rate)}"
        for window in limits.bandwidth.windows
    ]
    latency = f"{limits.max_latency * 1000:.0f} ms" if limits.max_latency else "none"
    return [
        f"bandwidth    {', '.join([*windows, ('else ' if windows else '') + _rate(limits.bandwidth.otherwise)])}",
        f"reading      {_rate(limits.read)}",
        f"max latency  {latency}",
        f"nice         {'as started' if limits.nice is None else limits.nice}",
    ]


def _rate(rate: int) -> str:
    return show_rate(rate) if rate else "unlimited"


def _sources(status: TransferStatus) -> list[str]:
    return [str(disk["source"]) for disk in status.disks]


def _row(status: TransferStatus) -> tuple[str, ...]:
    over = status.state == "finished"  # the target goes its own way now
    return (
        status.id,
        ", ".join(_sources(status)),
        status.to,
        status.state + (" (not running)" if status.state == "waiting" and not status.running else ""),
        str(status.pass_count),
        "" if status.lag is None or over else show_seconds(status.lag),
        "" if status.change_rate is None or over else show_rate(status.change_rate),
        "" if status.predicted_pause is None else show_seconds(status.predicted_pause),
    )


def _facts(status: TransferStatus) -> list[str]:
    lines = [
        f"transfer       {status.id}",
        f"state          {status.state}{' (running)' if status.running else ''}",
        f"to             {status.to}",
        *(f"disk           {disk['source']} to {disk['slot']}, {show_size(disk['size'])}" for disk in status.disks),
        f"asked for      {status.mode or 'nothing yet'}",
        f"passes         {status.pass_count}",
    ]
    if status.lag is not None and status.state != "finished":
        lines.append(f"lag            {show_seconds(status.lag)}")
    if status.change_rate is not None and status.state != "finished":
        lines.append(f"changes        {show_rate(status.change_rate)}")
    if status.predicted_pause is not None and status.pause is None:
        lines.append(f"cutover pause  {show_seconds(status.predicted_pause)}, as predicted by the passes so far")
    if status.pause is not None:
        lines.append(f"stood still    {show_seconds(status.pause)}, at the end")
    if status.forecasts:
        lines += ["predictions", *(f"  {line}" for line in beside_the_truth(status.forecasts))]
    if status.until:
        lines.append(f"next pass      {_moment(status.until)}")
    if status.fault:
        lines.append(f"failed         {status.fault['code']}: {status.fault['message']}")
        lines.append(f"  next         {status.fault['remedy']}")
    if status.receipt:
        lines.append(f"receipt        {status.receipt}")
    lines.append(f"expires        {_moment(status.expires)}, if nobody touches it")
    return lines


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
