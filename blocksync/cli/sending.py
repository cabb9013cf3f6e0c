"""``blocksync send``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.codes import asker, given_code
from blocksync.cli.display import showing
from blocksync.cli.parameters import PATH, block_size, common, level, sized
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import GroupIncompleteError, SourceError, UsageError
from blocksync.options import (
    DEFAULT_CONNECTIONS,
    DEFAULT_RETRY_SECONDS,
    Digest,
    DiskOutcome,
    DiskSpec,
    SendOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from blocksync.options import SendResult

MAX_RANGES_SHOWN = 20
MAX_CONNECTIONS = 64
CONSISTENCY = {
    "live": "read live: consistent only if nobody wrote to it meanwhile",
    "crash": "a snapshot of this disk at one instant, as after a power cut",
    "crash-group": "a snapshot of all disks at the same instant, as after a power cut",
    "application": "a snapshot in which the applications took part",
}


def receiver_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--to``, ``--slot``, ``--code`` and ``--code-file``: which receiver, and how it knows us."""
    for option in (
        click.option("--code-file", type=PATH, metavar="FILE", help="Read the pairing code from here."),
        click.option("--code", metavar="CODE", help="The pairing code; others see it in the list of processes."),
        click.option("--slot", default="", metavar="SLOT", help="The receiver's name for the target."),
        click.option("--to", required=True, metavar="HOST[:PORT]", help="The receiver and its control port."),
    ):
        function = option(function)
    return function


rescue_option = click.option(
    "--rescue",
    is_flag=True,
    help="Go on after sectors that cannot be read: they are listed, zeros in the copy, and the exit code is 4.",
)


@click.command()
@click.argument("sources", metavar="SOURCE[=SLOT]...", nargs=-1, required=True)
@receiver_options
@click.option(
    "--connections",
    type=click.IntRange(1, MAX_CONNECTIONS),
    default=DEFAULT_CONNECTIONS,
    show_default=True,
    help="Data connections at most.",
)
@click.option(
    "--digest",
    type=click.Choice([kind.value for kind in Digest]),
    default=Digest.XXH3.value,
    show_default=True,
    help="Identity of blocks of a new slot; blake3 where somebody hostile can write to the source.",
)
@click.option(
    "--block-size", type=block_size, default="64K", show_default=True, metavar="SIZE", help="Of a new slot."
)
@click.option(
    "--level", type=level, default="auto", show_default=True, metavar="LEVEL", help="auto, or 0 (off) to 19."
)
@click.option(
    "--bwlimit", type=sized(0), default="0", metavar="RATE", help="Bytes a second, as 10M. [default: none]"
)
@click.option(
    "--retry",
    type=click.FloatRange(min=0),
    default=DEFAULT_RETRY_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Go on trying for so long without progress.",
)
@click.option(
    "--snapshot",
    type=click.Choice(["auto", "lvm", "vss", "none"]),
    default="auto",
    show_default=True,
    help="Read a snapshot of each SOURCE: where possible, or insist.",
)
@click.option("--live", is_flag=True, help="Read what is there: --snapshot none.")
@click.option(
    "--snapshot-size", type=sized(1 << 20), metavar="SIZE", help="Of a classic LVM snapshot. [default: measured]"
)
@click.option("--track", is_flag=True, help="Keep what tells the next pass what changed, and read only that.")
@click.option("--replace", is_flag=True, help="Let this disk replace the copy of another one in the slot.")
@rescue_option
@common()
def send(
    session: Session,
    sources: tuple[str, ...],
    to: str,
    slot: str,
    code: str | None,
    code_file: Path | None,
    state_dir: Path | None,
    connections: int,
    digest: str,
    block_size: int,
    level: int | None,
    bwlimit: int,
    retry: float,
    replace: bool,
    rescue: bool,
    snapshot: str,
    live: bool,
    snapshot_size: int | None,
    track: bool,
) -> int:
    """Make one pass from SOURCE to a receiver; several disks of one machine go as one transfer.

    Several are matched with the receiver's slots by order, or as SOURCE=SLOT. The first pass sends the disk, later
    ones what changed; one that was interrupted is resumed. The pairing code is needed the first time only: from
    --code-file, the variable BLOCKSYNC_CODE or, on a terminal, a prompt.
    """
    from blocksync import api

    disks = disk_specs(sources, slot)
    if live and snapshot not in ("auto", "none"):
        raise UsageError(f"--live and --snapshot {snapshot} contradict each other", remedy="leave one of them out")
    given = given_code(session, to, code, code_file)
    with session.cancellable() as cancel, showing(session.output) as display:
        options = SendOptions(
            to=to,
            slot=disks[0].slot if len(disks) == 1 else "",
            code=given,
            ask_code=asker(session, display),
            state_dir=state_dir,
            connections=connections,
            digest=Digest(digest),
            block_bytes=block_size,
            level=level,
            bwlimit=bwlimit,
            retry_seconds=retry,
            replace=replace,
            rescue=rescue,
            snapshot="none" if live else snapshot,
            snapshot_bytes=snapshot_size,
            track=track,
            progress=display,
        )
        if len(disks) > 1:
            try:
                group = api.send_disks(disks, options, cancel=cancel)
            except GroupIncompleteError as error:
                _tell_disks(session, error.outcomes)
                raise
            _tell_disks(session, group.disks)
            session.output.result(
                {"command": "send", **dataclasses.asdict(group)},
                f"{len(disks)} disks committed in {show_seconds(group.seconds)}",
                f"transferred is less than identical: blocksync verify SOURCE --to {to} --slot SLOT proves that",
            )
            return end_of(*(outcome.result for outcome in group.disks))
        source = disks[0].source
        result = api.send(source, options, cancel=cancel)
    session.output.result(
        {"command": "send", **dataclasses.asdict(result)},
        *summary(result, f"slot {result.slot}"),
        *less_than_identical(result, f"blocksync verify {source} --to {to}"),
    )
    return end_of(result)


def less_than_identical(result: SendResult, verify: str) -> list[str]:
    """What a committed pass does not say, and the command that does."""
    if result.unreadable:
        return ["the copy is not identical: of what could not be read it holds zeros"]
    return [f"transferred is less than identical: {verify} proves that"]


def end_of(*results: SendResult | None) -> int:
    """The exit code of committed passes: that of a source error where something was given up."""
    return SourceError.exit_code if any(result and result.unreadable for result in results) else 0


def disk_specs(sources: tuple[str, ...], slot: str) -> list[DiskSpec]:
    """What was typed as ``SOURCE`` or ``SOURCE=SLOT``; a path that exists, or an address, is taken as it is.

    Raises:
        UsageError: ``--slot`` names one slot for several sources, or a slot's name is none.
    """
    disks = [_disk_spec(text) for text in sources]
    if not slot:
        return disks
    if len(disks) > 1 or disks[0].slot:
        raise UsageError("--slot names the slot of a single SOURCE", remedy="write each disk as SOURCE=SLOT")
    return [dataclasses.replace(disks[0], slot=slot)]


def _disk_spec(text: str) -> DiskSpec:
    from blocksync.trust.names import check_slot_name

    source, equals, slot = text.rpartition("=")
    if not equals or not source or os.sep in slot or "://" in text or os.path.lexists(text):
        return DiskSpec(source=text)
    return DiskSpec(source=source, slot=check_slot_name(slot))


def _tell_disks(session: Session, outcomes: Sequence[object]) -> None:
    for outcome in outcomes:
        assert isinstance(outcome, DiskOutcome)
        facts = dataclasses.asdict(outcome)
        if outcome.result is None:
            session.output.event("disk", facts, f"{outcome.source}: NOT committed: {outcome.error}")
            continue
        lines = summary(outcome.result, f"slot {outcome.slot}")
        session.output.event("disk", facts, f"{outcome.source}: {lines[0]}", *(f"  {line}" for line in lines[1:]))


def summary(result: SendResult, where: str) -> list[str]:
    """A committed pass in words.

    Args:
        result: of it.
        where: it went.
    """
    rate = f" ({show_rate(result.size / result.seconds)})" if result.seconds else ""
    sent = f"sent {show_size(result.changed)} of data and {show_size(result.zero)} as zeros"
    lines = [
        f"{result.kind} pass to {where} committed as generation {result.generation}",
        f"{show_size(result.size)} in {show_seconds(result.seconds)}{rate}",
        f"read {show_size(result.read)}, {sent}, {show_size(result.wire)} on the wire",
    ]
    lines.append(CONSISTENCY[result.consistency])
    if result.tracker:
        lines.append(f"only what {result.tracker} says has changed was read")
    if result.resumed:
        lines.append(f"resumed: {show_size(result.resumed)} were durable already")
    if result.retries:
        lines.append(f"connections that broke on the way: {result.retries}")
    if result.resent:
        lines.append(f"sent again as whole blocks: {show_size(result.resent)}")
    lines.extend(_unreadable(result))
    return lines


def _unreadable(result: SendResult) -> list[str]:
    if not result.unreadable:
        return []
    lost = sum(length for _, length in result.unreadable)
    lines = [f"{show_size(lost)} in {len(result.unreadable)} ranges could not be read:"]
    lines += [f"  offset {offset}, length {length}" for offset, length in result.unreadable[:MAX_RANGES_SHOWN]]
    if len(result.unreadable) > MAX_RANGES_SHOWN:
        lines.append(f"  and {len(result.unreadable) - MAX_RANGES_SHOWN} more, which --json lists")
    return lines
