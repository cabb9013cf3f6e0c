"""``blocksync flatten``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blocksync.cli.display import showing
from blocksync.cli.forecasts import beside_the_truth
from blocksync.cli.parameters import block_size, common
from blocksync.cli.quantities import parse_size, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import FlattenError, UsageError
from blocksync.flatten.rules import ARCHIVED, REMOVED, RULES
from blocksync.options import Digest, FlattenOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocksync.flatten.leftovers import Leftover
    from blocksync.flatten.outlook import Outlook
    from blocksync.flatten.repair import RepairReport
    from blocksync.results import DiskOutcome, FlattenResult


def plan_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a plan can be asked for; the same wherever one is made."""
    for option in (
        click.option(
            "--encrypted",
            multiple=True,
            metavar="VG/LV",
            help="This volume holds LUKS and moves as it is. Repeatable.",
        ),
        click.option(
            "--grow", multiple=True, metavar="LV=SIZE", help="Make this volume's partition larger. Repeatable."
        ),
        click.option(
            "--place",
            multiple=True,
            metavar="LV=NUMBER",
            help="Of several targets this volume goes to that one, from 1. Repeatable. "
            "[default: where most of it lies: each disk goes to the target in its place]",
        ),
        click.option(
            "--table", type=click.Choice(["gpt", "mbr"]), default=None, help="[default: as the first disk has it]"
        ),
    ):
        function = option(function)
    return function


def growth(grow: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """What ``--grow`` says.

    Raises:
        UsageError: it is not ``LV=SIZE``, or names a volume twice.
    """
    found: dict[str, int] = {}
    for text in grow:
        name, equals, size = text.rpartition("=")
        try:
            bytes_wanted = parse_size(size)
        except ValueError as error:
            raise UsageError(f"--grow {text}: {size!r} {error}", remedy="write --grow root=20G") from error
        if not equals or not name:
            raise UsageError(f"--grow {text} names no volume", remedy="write --grow root=20G")
        if name in found:
            raise UsageError(f"--grow names {name} twice", remedy="give each volume's size once")
        found[name] = bytes_wanted
    return tuple(found.items())


def places(place: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """What ``--place`` says.

    Raises:
        UsageError: it is not ``LV=NUMBER``, or says two things of one volume.
    """
    found: dict[str, int] = {}
    for text in place:
        name, _, number = text.rpartition("=")
        if not name or not (number.isascii() and number.isdigit() and len(number) < 4):
            raise UsageError(f"--place {text} names no volume and target", remedy="write --place home=2")
        if found.setdefault(name, int(number)) != int(number):
            raise UsageError(f"--place names {name} twice")
    return tuple(found.items())


@click.command()
@click.argument("disks", nargs=-1, required=True, metavar="SOURCE… TARGET")
@click.option("--onto", multiple=True, metavar="PATH", help="A further target, after TARGET. Repeatable.")
@click.option("--create", is_flag=True, help="Make targets, new image files of the sizes that are needed.")
@click.option(
    "--overwrite", multiple=True, metavar="PATH", help="Consent to this target not being empty. Repeatable."
)
@click.option("--check", is_flag=True, help="Only look for names on all TARGETs that are gone; no SOURCE.")
@click.option("--repair", is_flag=True, help="Only repair TARGETs that were flattened before; no SOURCE.")
@click.option("--dry-run", is_flag=True, help="With --repair: show what would change, and change nothing.")
@click.option("--replace", is_flag=True, help="Divide TARGET anew: what it was flattened from before may go.")
@plan_options
@click.option("--no-repair", is_flag=True, help="Copy, and leave the system as it is.")
@click.option("--rebuild-initramfs", is_flag=True, help="By the system's own tools, in a chroot: runs its code.")
@click.option("--skip", multiple=True, metavar="STEP", help="Leave this step of the repair out. Repeatable.")
@click.option(
    "--digest",
    type=click.Choice([kind.value for kind in Digest]),
    default=Digest.XXH3.value,
    show_default=True,
    help="Identity of blocks, for a first pass.",
)
@click.option(
    "--block-size", type=block_size, default="64K", show_default=True, metavar="SIZE", help="For a first pass."
)
@common()
def flatten(
    session: Session,
    disks: tuple[str, ...],
    onto: tuple[str, ...],
    create: bool,
    overwrite: tuple[str, ...],
    check: bool,
    repair: bool,
    dry_run: bool,
    replace: bool,
    table: str | None,
    grow: tuple[str, ...],
    place: tuple[str, ...],
    encrypted: tuple[str, ...],
    no_repair: bool,
    rebuild_initramfs: bool,
    skip: tuple[str, ...],
    digest: str,
    block_size: int,
    state_dir: Path | None,
) -> int:
    """Copy disks with LVM to one with standard partitions, and make the system there boot from it.

    Name all disks of the volume groups, the one that boots first, and the target last. With --onto there are several:
    what is on the first disk goes to TARGET, what is on the second to the first --onto, and so on. Run again, it sends
    what changed and repairs anew.
    """
    from blocksync import api

    if check or repair:
        if check and repair:
            raise UsageError("--check and --repair: one of both")
        first, *beside = (*disks, *onto)
        if check:
            return _check(session, first, beside)
        report = api.repair_flattened(
            first,
            beside=beside,
            dry_run=dry_run,
            rebuild_initramfs=rebuild_initramfs,
            skip=skip,
            state_dir=state_dir,
        )
        lines = repair_lines(report, dry_run=dry_run)
        session.output.result({"command": "flatten", "dry_run": dry_run, **dataclasses.asdict(report)}, *lines)
        return 0
    if dry_run:
        raise UsageError("--dry-run goes with --repair", remedy="blocksync inspect SOURCE --flatten shows the plan")
    if len(disks) < 2:
        raise UsageError("flatten takes at least one SOURCE and a TARGET")
    *sources, target = disks
    targets = (target, *onto)
    consented = {os.path.realpath(path) for path in overwrite}
    strange = [path for path in overwrite if os.path.realpath(path) not in map(os.path.realpath, targets)]
    if strange:
        raise UsageError(
            f"--overwrite {strange[0]} is not the target {' or '.join(targets)}", remedy=f"--overwrite {target}"
        )
    with session.cancellable() as cancel, showing(session.output) as display:
        options = FlattenOptions(
            create=create,
            overwrite=os.path.realpath(target) in consented,
            overwrite_onto=tuple(path for path in onto if os.path.realpath(path) in consented),
            onto=onto,
            place=places(place),
            state_dir=state_dir,
            digest=Digest(digest),
            block_bytes=block_size,
            replace=replace,
            table=table or "",
            grow=growth(grow),
            encrypted=encrypted,
            repair=not no_repair,
            rebuild_initramfs=rebuild_initramfs,
            skip=skip,
            progress=display,
        )
        result = api.flatten(sources, target, options, cancel=cancel)
    session.output.result({"command": "flatten", **dataclasses.asdict(result)}, *told(result, *targets))
    return 0


def _check(session: Session, target: str, beside: list[str]) -> int:
    from blocksync import api

    found = api.check_flattened(target, beside=beside)
    facts = {"command": "flatten", "check": target, "leftovers": [dataclasses.asdict(each) for each in found]}
    session.output.result({**facts, "beside": beside}, *check_lines(found, " ".join((target, *beside))))
    return FlattenError.exit_code if any(each.fatal for each in found) else 0


def check_lines(found: list[Leftover], target: str) -> list[str]:
    """What was left undone, in words."""
    if not found:
        return [f"nothing on {target} names a volume that is gone"]
    lines = []
    for each in sorted(found, key=lambda one: not one.fatal):
        names = f": {', '.join(each.names)}" if each.names else ""
        lines.append(f"{each.code} {'error' if each.fatal else 'warning'}: {each.where}{names}")
        lines.append(f"  then: {each.symptom}")
    return [*lines, f"next: blocksync flatten --repair {target}"]


def repair_lines(report: RepairReport, *, dry_run: bool) -> list[str]:
    """A repair in words; a dry run as a diff."""
    if dry_run:
        return [*report.diff.splitlines(), *(f"note: {note}" for note in report.notes)]
    lines = repaired(report.root, report.root_target, report.changed)
    return [*lines, *report.loaders, *(f"note: {note}" for note in report.notes)]


def repaired(root: int, target: int, changed: tuple[tuple[str, str], ...]) -> list[str]:
    """Which system was repaired, and which files of it."""
    where = f"partition {root}" + (f" of target {target}" if target > 1 else "")
    lines = [f"the system on {where} is repaired: {len(changed)} files"]
    return [*lines, *(f"  {rule}: {path}" for rule, path in changed)]


def plan_lines(plan: Outlook) -> list[str]:
    """A plan in words."""
    lines = []
    for index, target in enumerate(plan.targets):
        which = f"target {index + 1}" if plan.beside else "target"
        boots = f", boots by {plan.firmware.upper()}" if not index else ""
        lines.append(f"{which}: {target.table.upper()}, at least {show_size(target.size)}{boots}")
        goes = {copy.to: copy for copy in target.copies}
        for part in sorted(target.slices, key=lambda each: each.offset):
            copy = goes.get(part.number)
            what = (
                f"{copy.name}  {copy.filesystem or 'unknown content'}"
                if copy
                else "for GRUB's core (nothing is copied)"
            )
            lines.append(f"  #{part.number}  at {show_size(part.offset)}  {show_size(part.size)}  {what}")
    lines.append("names and what replaces them:")
    for alias in plan.alias_map().aliases:
        lines += [f"  {name} -> {alias.tag}" for name in (*alias.names, *alias.grub_names)]
    if plan.edits:
        lines.append("files that will be edited or moved away:")
        lines += [f"  {rule}: {path}" for rule, path in plan.edits]
    lines.append("files that are looked at:")
    lines += [f"  {rule.name}: {', '.join(rule.patterns)}" for rule in RULES]
    lines += [f"  removed: {', '.join(REMOVED)}", f"  archived: {', '.join(ARCHIVED)}"]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def told(result: FlattenResult, *targets: str) -> list[str]:
    """Flattened targets in words."""
    lines = []
    for index, where in enumerate(targets):
        table = result.tables[index].upper()
        lines.append(f"{where} has {result.targets.count(index + 1)} partitions ({table})")
        for (number, name), home, outcome in zip(
            result.partitions, result.targets, result.group.disks, strict=True
        ):
            if home == index + 1:
                lines.append(f"  partition {number}: {name}: {_pass(outcome)}")
    lines.append(f"all in {show_seconds(result.group.seconds)}")
    if result.root:
        lines += repaired(result.root, result.root_target, result.changed)
    lines += list(result.loaders)
    lines += beside_the_truth(result.forecasts)
    lines += [f"note: {note}" for note in result.notes]
    if result.boot is not None:
        verdict = (
            "boots: a login prompt came"
            if result.boot.get("good")
            else f"does NOT boot: {result.boot.get('verdict')}"
        )
        lines.append(f"a throw-away overlay of it {verdict} ({result.boot.get('seen') or 'nothing seen'})")
        lines += [f"  {result.boot['remedy']}"] if result.boot.get("remedy") else []
    return lines


def _pass(outcome: DiskOutcome) -> str:
    done = outcome.result
    return f"{done.kind} pass, generation {done.generation}, {show_size(done.size)}" if done else outcome.error
