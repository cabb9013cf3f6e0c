"""``blocksync send``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blocksync.cli.codes import asker, given_code
from blocksync.cli.cutover import conclude, cutover_options, end_of, limit_options, tell_disks, transfer_options
from blocksync.cli.display import showing
from blocksync.cli.flattening import growth, places, plan_options, told
from blocksync.cli.parameters import PATH, block_size, common, levels, log_option, sized
from blocksync.cli.session import Session
from blocksync.errors import BootFailedError, GroupIncompleteError, IntegrityError, UsageError, from_os_error
from blocksync.options import (
    DEFAULT_CONNECTIONS,
    DEFAULT_RETRY_SECONDS,
    Digest,
    DiskSpec,
    FlattenOptions,
    SendOptions,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocksync.results import FlattenResult

MAX_CONNECTIONS = 64
# Of one file; a device or an endless pipe must not fill memory.
MOST_PATTERN_BYTES = 16 << 20


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


def used_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--all-blocks``, ``--exclude`` and ``--exclude-from``: what of a disk is looked at."""
    for option in (
        click.option(
            "--exclude-from", multiple=True, type=PATH, metavar="FILE", help="Patterns from a file, one a line."
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Leave out the content of files, as /var/log/*.gz: rsync's syntax, from the filesystem's root.",
        ),
        click.option("--all-blocks", is_flag=True, help="Also what no file uses. [default: used blocks only]"),
    ):
        function = option(function)
    return function


def patterns(exclude: tuple[str, ...], exclude_from: tuple[Path, ...]) -> tuple[str, ...]:
    """The rules that were typed, then those of the files.

    Raises:
        UsageError: a file cannot be read, or has no end.
    """
    found = list(exclude)
    for path in exclude_from:
        try:
            with path.open("rb") as file:
                content = file.read(MOST_PATTERN_BYTES + 1)
        except OSError as error:
            raise from_os_error(error, UsageError, f"cannot read the patterns of {path}") from error
        if len(content) > MOST_PATTERN_BYTES:
            raise UsageError(
                f"{path} has more than {MOST_PATTERN_BYTES >> 20} MiB of patterns",
                remedy="name a file with one on each line",
            )
        found += os.fsdecode(content).splitlines()
    return tuple(found)


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
    "--level",
    type=levels,
    default="auto",
    show_default=True,
    metavar="LEVEL",
    help="auto, 0 (off) to 19, or two of these to choose between, as 1-9.",
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
@click.option(
    "--flatten", is_flag=True, help="Each logical volume of SOURCE becomes a partition, and the system boots there."
)
@click.option(
    "--onto", multiple=True, metavar="SLOT", help="With --flatten: a further target, after --slot. Repeatable."
)
@plan_options
@click.option("--no-repair", is_flag=True, help="With --flatten: leave the system on the target as it is.")
@rescue_option
@used_options
@cutover_options
@log_option
@limit_options
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
    level: int | tuple[int, int] | None,
    retry: float,
    replace: bool,
    rescue: bool,
    all_blocks: bool,
    snapshot: str,
    live: bool,
    snapshot_size: int | None,
    track: bool,
    flatten: bool,
    onto: tuple[str, ...],
    table: str | None,
    grow: tuple[str, ...],
    place: tuple[str, ...],
    encrypted: tuple[str, ...],
    no_repair: bool,
    exclude: tuple[str, ...],
    exclude_from: tuple[Path, ...],
    log_file: Path | None,
    **more: Any,
) -> int:
    """Make one pass from SOURCE to a receiver, or follow it; several disks of one machine go as one transfer.

    Several are matched with the receiver's slots by order, or as SOURCE=SLOT. The first pass sends the disk, later
    ones what changed; one that was interrupted is resumed. The pairing code is needed the first time only: from
    --code-file, the variable BLOCKSYNC_CODE or, on a terminal, a prompt. With --flatten all SOURCEs together become
    one target, or with --onto several; --place, --table, --grow and --encrypted are for that.
    """
    from blocksync import api

    if live and snapshot not in ("auto", "none"):
        raise UsageError(f"--live and --snapshot {snapshot} contradict each other", remedy="leave one of them out")
    asked = FlattenOptions(
        table=table or "",
        grow=growth(grow),
        encrypted=encrypted,
        repair=not no_repair,
        onto=onto,
        place=places(place),
    )
    if not flatten and asked != FlattenOptions():
        raise UsageError("--onto, --place, --table, --grow, --encrypted and --no-repair go with --flatten")

    disks = [DiskSpec(source=source, slot=slot) for source in sources] if flatten else disk_specs(sources, slot)
    session.log_to(log_file)
    given = given_code(session, to, code, code_file)
    with session.cancellable() as cancel, showing(session.output) as display:
        options = SendOptions(
            to=to,
            code=given,
            ask_code=asker(session, display),
            state_dir=state_dir,
            connections=connections,
            digest=Digest(digest),
            block_bytes=block_size,
            level=level,
            retry_seconds=retry,
            replace=replace,
            rescue=rescue,
            all_blocks=all_blocks,
            snapshot="none" if live else snapshot,
            snapshot_bytes=snapshot_size,
            track=track,
            exclude=patterns(exclude, exclude_from),
            progress=display,
        )
        wanted = transfer_options(session, options, **more)
        flattened: FlattenResult | None = None
        try:
            if flatten:
                wanted = dataclasses.replace(wanted, send=dataclasses.replace(options, slot=disks[0].slot))
                names = [disk.source for disk in disks]
                result, flattened = api.transfer_flattened(names, wanted, asked, cancel=cancel)
            else:
                result = api.transfer(disks, wanted, cancel=cancel)
        except GroupIncompleteError as error:
            tell_disks(session, error.outcomes)
            raise
    if flattened is not None:
        facts = {key: value for key, value in dataclasses.asdict(flattened).items() if key != "group"}
        session.output.event(
            "flattened",
            facts,
            *told(flattened, *(f"slot {each}" for each in (disks[0].slot or "of the receiver", *onto))),
        )
    following = wanted.follow is not None or wanted.until_converged is not None
    conclude(session, result, to, following=following)
    if not all(result.verified.values()):
        return IntegrityError.exit_code
    if flattened is not None and flattened.boot is not None and not flattened.boot.get("good"):
        return BootFailedError.exit_code
    return end_of(*(outcome.result for outcome in result.disks))


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
