"""``blocksync send`` beyond a single pass: its options, what is told on the way, and the end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from blocksync.cli.forecasts import beside_the_truth
from blocksync.cli.parameters import PATH, duration, schedule, sized
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import SourceError, UsageError
from blocksync.limits import Limits, Schedule
from blocksync.options import SendOptions, TransferOptions
from blocksync.results import DiskOutcome, Removal, SendResult, TransferEvent

if TYPE_CHECKING:
    from blocksync.transfers.figures import TransferResult

MAX_RANGES_SHOWN = 20
MOST_NAMES_SHOWN = 5000
CONSISTENCY = {
    "live": "read live: consistent only if nobody wrote to it meanwhile",
    "crash": "a snapshot of this disk at one instant, as after a power cut",
    "crash-group": "a snapshot of all disks at the same instant, as after a power cut",
    "application": "a snapshot in which the applications took part",
}

F = TypeVar("F", bound=Callable[..., Any])

removal_option = click.option(
    "--remove-excluded/--keep-excluded",
    default=None,
    help="Remove the names of excluded files on the target, at the end. [default: with --final]",
)
_CUTOVER = (
    click.option("--follow", type=duration(1.0), metavar="TIME", help="Pass again and again, so far apart (15m)."),
    click.option(
        "--until-converged",
        type=duration(0.1),
        metavar="TIME",
        help="Pass until the next pass is predicted to be this short (30s).",
    ),
    click.option("--final", is_flag=True, help="End with a pass while the source stands still."),
    click.option(
        "--pre-final", default="", metavar="CMD", help="Makes it stand still; else its mounts are frozen."
    ),
    click.option("--post-final", default="", metavar="CMD", help="Always run after it, also when this is killed."),
    click.option(
        "--freeze-limit",
        type=duration(1.0),
        default="10m",
        show_default=True,
        metavar="TIME",
        help="Let the source go after this long, whatever is still going on.",
    ),
    click.option("--verify", is_flag=True, help="Then read both sides whole and compare."),
    removal_option,
    click.option(
        "--validity",
        type=click.IntRange(7, 90),
        default=30,
        show_default=True,
        metavar="DAYS",
        help="When the transfer expires if nobody touches it.",
    ),
    click.option("--receipt", type=PATH, metavar="FILE", help="Write the signed receipt there too."),
)


def limit_options(function: F) -> F:
    """``--bwlimit``, ``--read-limit``, ``--max-latency`` and ``--nice``."""
    for option in (
        click.option(
            "--nice", type=click.IntRange(0, 19), metavar="N", help="CPU and IO priority, to 19 (lowest)."
        ),
        click.option(
            "--max-latency",
            type=duration(),
            metavar="TIME",
            help="Back off while the source's other IO waits longer (20ms).",
        ),
        click.option("--read-limit", type=sized(0), metavar="RATE", help="Bytes a second read from the source."),
        click.option(
            "--bwlimit",
            type=schedule,
            metavar="RATE",
            help="Bytes a second on the wire, as 10M; by time of day as 08:00-18:00=20M,else=0.",
        ),
    ):
        function = option(function)
    return function


def cutover_options(function: F) -> F:
    """Following, convergence and the final pass."""
    for option in reversed(_CUTOVER):
        function = option(function)
    return function


def transfer_options(
    session: Session,
    send: SendOptions,
    *,
    follow: float | None,
    until_converged: float | None,
    final: bool,
    pre_final: str,
    post_final: str,
    freeze_limit: float,
    verify: bool,
    validity: int,
    remove_excluded: bool | None,
    receipt: Path | None,
    bwlimit: Schedule | None,
    read_limit: int | None,
    max_latency: float | None,
    nice: int | None,
) -> TransferOptions:
    """What the options mean together.

    Raises:
        UsageError: they contradict each other, or one of them would do nothing; told before anything is begun.
    """
    passing = follow is not None or until_converged is not None
    if (pre_final or post_final) and not (final or follow is not None):
        raise UsageError(
            "--pre-final and --post-final belong to a final pass, and none is asked for",
            remedy="add --final, or --follow and later blocksync stop --final",
        )
    if verify and passing and not final:
        raise UsageError(
            "verifying compares with what is read then, and a source in use has changed by then",
            remedy="verify together with --final, or after a single pass",
        )
    if remove_excluded and not send.exclude:
        raise UsageError("--remove-excluded goes with --exclude or --exclude-from")
    return TransferOptions(
        send=send,
        follow=follow,
        until_converged=until_converged,
        final=final,
        pre_final=pre_final,
        post_final=post_final,
        freeze_seconds=freeze_limit,
        verify=verify,
        remove_excluded=remove_excluded,
        validity_days=validity,
        limits=Limits(
            bandwidth=bwlimit or Schedule(), read=read_limit or 0, max_latency=max_latency or 0.0, nice=nice
        ),
        receipt=receipt,
        keep_quiet=(session.output.log.path.absolute().parent,) if session.output.log is not None else (),
        # Of a single pass the result tells the same, and more.
        on_event=lambda event: tell_event(session, event, alone=not (passing or final or verify)),
    )


def tell_event(session: Session, event: TransferEvent, *, alone: bool) -> None:
    """Something that happened to the transfer.

    Args:
        alone: its only pass is told as the result.
    """
    facts: dict[str, Any] = dict(event.facts)
    if session.output.log is not None:
        session.output.log.transfer = event.transfer
    lines: list[str] = []
    if event.kind == "pass":
        session.output.passes.append(facts["seconds"])
        predicted = facts["predicted_next"]
        then = f"; the next one would take {show_seconds(predicted)}" if predicted is not None else ""
        told = next((each for each in facts["predicted"] if each["by"] == "passes"), None)
        was = f" ({show_seconds(told['likely'])} were predicted)" if told is not None else ""
        changed = show_size(facts["changed"])
        what = "sent" if any(each["kind"] == "full" for each in facts["disks"]) else "changed"
        if not alone:
            lines.append(f"pass {facts['number']}: {changed} {what}, {show_seconds(facts['seconds'])}{was}{then}")
    elif event.kind == "state" and facts["until"]:
        when = time.strftime("%H:%M:%S", time.localtime(facts["until"]))
        session.output.note(f"waiting until {when} for the next pass")
    session.output.event(event.kind, {"transfer": event.transfer, **facts}, *lines)


def facts_of(result: SendResult | DiskOutcome | TransferResult) -> dict[str, Any]:
    """A result as JSON has it; names of excluded files no more than a line should hold, the others counted."""
    facts = dataclasses.asdict(result)
    disks = [disk.get("result") for disk in facts.get("disks", ())]
    for each in (facts, facts.get("result"), *disks):
        if each and len(each.get("excluded_names", ())) > MOST_NAMES_SHOWN:
            each["unnamed"] += len(each["excluded_names"]) - MOST_NAMES_SHOWN
            each["excluded_names"] = each["excluded_names"][:MOST_NAMES_SHOWN]
    return facts


def tell_disks(session: Session, outcomes: Sequence[object]) -> None:
    """What became of each disk of a transfer of several."""
    for outcome in outcomes:
        assert isinstance(outcome, DiskOutcome)
        facts = facts_of(outcome)
        if outcome.result is None:
            session.output.event("disk", facts, f"{outcome.source}: NOT committed: {outcome.error}")
            continue
        lines = summary(outcome.result, f"slot {outcome.slot}")
        session.output.event("disk", facts, f"{outcome.source}: {lines[0]}", *(f"  {line}" for line in lines[1:]))


def conclude(session: Session, result: TransferResult, to: str, *, following: bool) -> None:
    """The end of a transfer's run.

    Args:
        following: passes were asked for until they are short, or by the clock: the final one is to come.
    """
    facts = facts_of(result)
    last = _last_words(result, to, following=following)
    if len(result.disks) > 1:
        tell_disks(session, result.disks)
        words = f"{len(result.disks)} disks committed in {show_seconds(result.seconds)}"
        session.output.result({"command": "send", **facts}, words, *last)
        return
    sent = result.disks[0].result
    assert sent is not None
    del facts["disks"]
    own = facts_of(sent)
    session.output.result(
        {"command": "send", **facts, **own, "consistency": result.consistency},
        *summary(sent, f"slot {sent.slot}", final=result.state == "finished"),
        *last,
    )


def _last_words(result: TransferResult, to: str, *, following: bool) -> list[str]:
    lines = []
    if result.state == "finished":
        how = (
            ", unless somebody wrote to it meanwhile"
            if result.consistency == "live"
            else f" ({result.consistency} consistent)"
        )
        lines.append(f"final pass done: the target is as the source was{how}")
    if result.passes > 1 or result.state == "finished":
        lines.extend(beside_the_truth([dataclasses.asdict(each) for each in result.forecasts]))
    lines.extend(told_removals([each.result for each in result.disks if each.result], result.removals))
    if result.pause is not None:
        with_verify = ", verifying included" if result.verified else ""
        stood = "was taken as quiet" if result.consistency == "live" else "stood still"
        lines.append(f"the source {stood} for {show_seconds(result.pause)}{with_verify}")
    for slot, identical in result.verified.items():
        lines.append(f"{'identical' if identical else 'DIFFERENT'}: slot {slot}")
    if not result.verified:
        lines.extend(_unproven(result, to, following=following))
    if result.receipt:
        lines.append(f"receipt: {result.receipt}")
    return lines


def _unproven(result: TransferResult, to: str, *, following: bool) -> list[str]:
    names = [outcome.source for outcome in result.disks]
    if following and result.state != "finished":
        # A verify now would find what was written since.
        return [
            f"next: blocksync send {' '.join(names)} --to {to} --final --verify ends the transfer and proves it"
        ]
    what = f"{names[0]} --to {to}" if len(names) == 1 else f"SOURCE --to {to} --slot SLOT"
    sent = [outcome.result for outcome in result.disks if outcome.result is not None]
    worst = next((each for each in sent if each.unreadable), sent[0])
    return less_than_identical(worst, f"blocksync verify {what}")


def less_than_identical(result: SendResult, verify: str) -> list[str]:
    """What a committed pass does not say, and the command that does."""
    if result.unreadable:
        return ["the copy is not identical: of what could not be read it holds zeros"]
    return [f"not proven identical yet: {verify} reads both sides and compares"]


def end_of(*results: SendResult | None) -> int:
    """The exit code of committed passes: that of a source error where something was given up."""
    return SourceError.exit_code if any(result and result.unreadable for result in results) else 0


def summary(result: SendResult, where: str, *, final: bool = False) -> list[str]:
    """A committed pass in words.

    Args:
        result: of it.
        where: it went.
        final: the source stood still; what that makes of it is told by the transfer.
    """
    rate = f" ({show_rate(result.size / result.seconds)})" if result.seconds else ""
    sent = f"sent {show_size(result.changed)} of data and {show_size(result.zero)} as zeros"
    lines = [
        f"{'final' if final else result.kind} pass to {where} committed as generation {result.generation}",
        f"{show_size(result.size)} in {show_seconds(result.seconds)}{rate}",
        f"read {show_size(result.read)}, {sent}, {show_size(result.wire)} on the wire",
    ]
    if result.unused:
        lines.append(f"left out {show_size(result.unused)} that no file uses")
    lines.extend(_excluded(result))
    lines.extend(f"note: {note}" for note in result.notes)
    if not final:
        lines.append(CONSISTENCY[result.consistency])
    if result.tracker:
        lines.append(f"only what {result.tracker} says has changed was read")
    if result.predicted is not None:
        likely, low, high = result.predicted
        off = 100 * (result.seconds / likely - 1) if likely else 0.0
        said = f"{show_seconds(likely)} ({show_seconds(low)} to {show_seconds(high)})"
        within = "within" if low <= result.seconds <= high else "outside"
        lines.append(f"the estimate said {said}: off by {off:+.0f} %, {within} the interval")
    if result.resumed:
        lines.append(f"resumed: {show_size(result.resumed)} were durable already")
    if result.retries:
        times = "once" if result.retries == 1 else f"{result.retries} times"
        lines.append(f"begun again on the way, {times}: connections broke, or the receiver was not ready")
    if result.resent:
        lines.append(f"sent again as whole blocks: {show_size(result.resent)}")
    lines.extend(_unreadable(result))
    return lines


def _excluded(result: SendResult) -> list[str]:
    if not result.excluded_files:
        return []
    shown = [f"  {show_size(size)}  {name}" for name, size in result.excluded[:MAX_RANGES_SHOWN]]
    return [
        f"left out {show_size(result.excluded_bytes)} of content of {result.excluded_files} files",
        *shown,
        *(["  and more"] if result.excluded_files > len(shown) else []),
    ]


def told_removals(results: Sequence[SendResult], removals: Sequence[Removal]) -> list[str]:
    """What became of excluded files on the target."""
    lines = []
    for removal in removals:
        lines.append(f"removed {removal.removed} names of excluded files on the target")
        if removal.remaining:
            lines.append("other names remain there, as files of zeros:")
            lines.extend(f"  {reason}" for reason in removal.remaining)
    if not removals and any(result.excluded_names for result in results):
        lines.append(
            "excluded files remain on the target, as files of zeros: --remove-excluded removes their names"
        )
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
