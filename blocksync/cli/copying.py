"""``blocksync copy``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from blocksync.cli.cutover import end_of, facts_of, summary, told_removals
from blocksync.cli.display import showing
from blocksync.cli.parameters import block_size, common
from blocksync.cli.sending import patterns, rescue_option, used_options
from blocksync.cli.session import Session
from blocksync.errors import TargetError, UsageError
from blocksync.options import CopyOptions, Digest


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--create", is_flag=True, help="Make TARGET, a new image file of the source's size.")
@click.option("--overwrite", metavar="PATH", help="Consent to TARGET not being empty, by its name.")
@click.option(
    "--digest",
    type=click.Choice([kind.value for kind in Digest]),
    default=Digest.XXH3.value,
    show_default=True,
    help="Identity of blocks, for a first copy.",
)
@click.option(
    "--block-size", type=block_size, default="64K", show_default=True, metavar="SIZE", help="For a first copy."
)
@click.option("--replace", is_flag=True, help="Let this disk replace the copy of another one in TARGET.")
@rescue_option
@click.option("--remove-excluded", is_flag=True, help="Then remove the names of excluded files on TARGET.")
@used_options
@common()
def copy(
    session: Session,
    source: str,
    target: str,
    create: bool,
    overwrite: str | None,
    digest: str,
    block_size: int,
    replace: bool,
    rescue: bool,
    all_blocks: bool,
    exclude: tuple[str, ...],
    exclude_from: tuple[Path, ...],
    remove_excluded: bool,
    state_dir: Path | None,
) -> int:
    """Make one pass from SOURCE to TARGET on this machine.

    With the same manifest, resume, incremental passes and refusals as between two machines.
    """
    from blocksync import api

    if overwrite is not None and os.path.realpath(overwrite) != os.path.realpath(target):
        raise UsageError(f"--overwrite {overwrite} is not the target {target}", remedy=f"--overwrite {target}")
    rules = patterns(exclude, exclude_from)
    if remove_excluded and not rules:
        raise UsageError("--remove-excluded goes with --exclude or --exclude-from")
    with session.cancellable() as cancel, showing(session.output) as display:
        options = CopyOptions(
            create=create,
            overwrite=overwrite is not None,
            state_dir=state_dir,
            digest=Digest(digest),
            block_bytes=block_size,
            replace=replace,
            rescue=rescue,
            all_blocks=all_blocks,
            exclude=rules,
            remove_excluded=remove_excluded,
            progress=display,
        )
        try:
            result = api.copy(source, target, options, cancel=cancel)
        except TargetError as error:
            # The size of a local copy is known: here the option takes none.
            error.remedy = error.remedy.replace("--create SIZE", "--create")
            raise
    removal = told_removals([result], [result.removal] if result.removal is not None else [])
    session.output.result({"command": "copy", **facts_of(result)}, *summary(result, target), *removal)
    return end_of(result)
