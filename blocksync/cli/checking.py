"""``blocksync check``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from blocksync.cli.parameters import common
from blocksync.cli.session import Session
from blocksync.errors import UsageError


@click.command()
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option("--to", default="", metavar="HOST[:PORT]", help="The receiver that would be sent to.")
@click.option("--slot", default="", metavar="SLOT", help="The receiver's name for the target.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="PATH",
    help="A target that would be offered here; may be repeated.",
)
@click.option(
    "--clean", is_flag=True, help="Undo what transfers that were killed have left here: snapshots and holds."
)
@click.option("--kept", is_flag=True, help="With --clean: remove also the snapshots that are kept for next passes.")
@common()
def check(
    session: Session,
    sources: tuple[str, ...],
    to: str,
    slot: str,
    targets: tuple[str, ...],
    clean: bool,
    kept: bool,
    state_dir: Path | None,
) -> int:
    """Look for what would stop or spoil a transfer, before it; without --clean nothing is changed.

    On the source: blocksync check /dev/sda --to HOST. On the target: blocksync check --target /dev/sdb. Each finding
    has a code that docs/ERRORS.md explains. Exit 0 without errors, else what the transfer would end with.
    """
    from blocksync import api

    if kept and not clean:
        raise UsageError("--kept says what --clean removes", remedy="write --clean --kept")
    if clean:
        return _clean(session, kept=kept, state_dir=state_dir)
    options = api.CheckOptions(
        sources=sources,
        to=to,
        slot=slot,
        targets=targets,
        state_dir=state_dir,
        progress=session.output.note,
    )
    result = api.check(options)
    lines = []
    for severity in ("error", "warning", "note"):
        for finding in result.of(severity):
            lines.append(f"{severity:7}  {finding.code}  {finding.what}")
            if finding.remedy:
                lines.append(f"{'':17}  next: {finding.remedy}")
    errors, warnings = len(result.of("error")), len(result.of("warning"))
    counted = ((errors, "error"), (warnings, "warning"), (len(result.of("note")), "note"))
    lines.append(", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counted))
    facts = {"command": "check", "findings": [dataclasses.asdict(finding) for finding in result.findings]}
    session.output.result(facts, *lines)
    return result.exit_code


def _clean(session: Session, *, kept: bool, state_dir: Path | None) -> int:
    from blocksync import api

    done = api.clean_snapshots(kept=kept, state_dir=state_dir)
    left = api.kept_snapshots()
    lines = [*done, *(f"kept for the next pass: {name}" for name in left)]
    session.output.result(
        {"command": "check", "cleaned": done, "kept": left}, *(lines or ["nothing was left here"])
    )
    return 0
