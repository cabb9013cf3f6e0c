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
    from blocksync.results import FlattenResult


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
            "--table", type=click.Choice(["gpt", "mbr"]), default=None, help="[default: as the first disk has it]"
        ),
    ):
        function = option(function)
    return function


def growth(grow: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    """What ``--grow`` says.

    Raises:
        UsageError: it is not ``LV=SIZE``.
    """
    found = []
    for text in grow:
        name, equals, size = text.rpartition("=")
        try:
            found.append((name, parse_size(size)))
        except ValueError as error:
            raise UsageError(f"--grow {text}: {size!r} {error}", remedy="write --grow root=20G") from error
        if not equals or not name:
            raise UsageError(f"--grow {text} names no volume", remedy="write --grow root=20G")
    return tuple(found)


@click.command()
@click.argument("disks", nargs=-1, required=True, metavar="SOURCE… TARGET")
@click.option("--create", is_flag=True, help="Make TARGET, a new image file of the size that is needed.")
@click.option("--overwrite", metavar="PATH", help="Consent to TARGET not being empty, by its name.")
@click.option("--check", is_flag=True, help="Only look for names on TARGET that are gone; no SOURCE.")
@click.option("--repair", is_flag=True, help="Only repair TARGET, which was flattened before; no SOURCE.")
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
    create: bool,
    overwrite: str | None,
    check: bool,
    repair: bool,
    dry_run: bool,
    replace: bool,
    table: str | None,
    grow: tuple[str, ...],
    encrypted: tuple[str, ...],
    no_repair: bool,
    rebuild_initramfs: bool,
    skip: tuple[str, ...],
    digest: str,
    block_size: int,
    state_dir: Path | None,
) -> int:
    """Copy disks with LVM to one with standard partitions, and make the system there boot from it.

    Name all disks of the volume groups, the one that boots first, and the target last. Run again, it sends what
    changed and repairs anew.
    """
    from blocksync import api

    if check or repair:
        if len(disks) != 1 or (check and repair):
            raise UsageError("--check and --repair take one TARGET and nothing else")
        if check:
            return _check(session, disks[0])
        report = api.repair_flattened(
            disks[0], dry_run=dry_run, rebuild_initramfs=rebuild_initramfs, skip=skip, state_dir=state_dir
        )
        lines = repair_lines(report, dry_run=dry_run)
        session.output.result({"command": "flatten", "dry_run": dry_run, **dataclasses.asdict(report)}, *lines)
        return 0
    if dry_run:
        raise UsageError("--dry-run goes with --repair", remedy="blocksync inspect SOURCE --flatten shows the plan")
    if len(disks) < 2:
        raise UsageError("flatten takes at least one SOURCE and a TARGET")
    *sources, target = disks
    if overwrite is not None and os.path.realpath(overwrite) != os.path.realpath(target):
        raise UsageError(f"--overwrite {overwrite} is not the target {target}", remedy=f"--overwrite {target}")
    with session.cancellable() as cancel, showing(session.output) as display:
        options = FlattenOptions(
            create=create,
            overwrite=overwrite is not None,
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
    session.output.result({"command": "flatten", **dataclasses.asdict(result)}, *told(result, target))
    return 0


def _check(session: Session, target: str) -> int:
    from blocksync import api

    found = api.check_flattened(target)
    facts = {"command": "flatten", "check": target, "leftovers": [dataclasses.asdict(each) for each in found]}
    session.output.result(facts, *check_lines(found, target))
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
    lines = [f"the system on partition {report.root} is repaired: {len(report.changed)} files"]
    lines += [f"  {rule}: {path}" for rule, path in report.changed]
    return [*lines, *report.loaders, *(f"note: {note}" for note in report.notes)]


def plan_lines(plan: Outlook) -> list[str]:
    """A plan in words."""
    lines = [f"target: {plan.table.upper()}, at least {show_size(plan.size)}, boots by {plan.firmware.upper()}"]
    goes = {copy.to: copy for copy in plan.copies}
    for part in sorted(plan.slices, key=lambda each: each.offset):
        copy = goes.get(part.number)
        what = (
            f"{copy.name}  {copy.filesystem or 'unknown content'}"
            if copy
            else "for GRUB's core (nothing is copied)"
        )
        lines.append(f"  #{part.number}  at {show_size(part.offset)}  {show_size(part.size)}  {what}")
    lines.append("names and what replaces them:")
    for alias in plan.aliases:
        lines += [f"  {name} -> {alias.tag}" for name in (*alias.names, *alias.grub_names)]
    if plan.edits:
        lines.append("files that will be edited or moved away:")
        lines += [f"  {rule}: {path}" for rule, path in plan.edits]
    lines.append("files that are looked at:")
    lines += [f"  {rule.name}: {', '.join(rule.patterns)}" for rule in RULES]
    lines += [f"  removed: {', '.join(REMOVED)}", f"  archived: {', '.join(ARCHIVED)}"]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def told(result: FlattenResult, target: str) -> list[str]:
    """A flattened target in words."""
    lines = [f"{target} has {len(result.partitions)} partitions ({result.table.upper()})"]
    for (number, name), outcome in zip(result.partitions, result.group.disks, strict=True):
        done = outcome.result
        what = f"{done.kind} pass, generation {done.generation}, {show_size(done.size)}" if done else outcome.error
        lines.append(f"  partition {number}: {name}: {what}")
    lines.append(f"all in {show_seconds(result.group.seconds)}")
    if result.root:
        lines.append(f"the system on partition {result.root} is repaired: {len(result.changed)} files")
        lines += [f"  {rule}: {path}" for rule, path in result.changed]
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
