"""``blocksync flatten``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blocksync.cli.display import showing
from blocksync.cli.parameters import block_size, common
from blocksync.cli.quantities import parse_size, show_seconds, show_size
from blocksync.cli.session import Session
from blocksync.errors import UsageError
from blocksync.options import Digest, FlattenOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from blocksync.options import FlattenResult


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
    lines += [f"note: {note}" for note in result.notes]
    return lines
