"""``blocksync check``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from blocksync.cli.parameters import common
from blocksync.cli.session import Session


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
@common()
def check(
    session: Session,
    sources: tuple[str, ...],
    to: str,
    slot: str,
    targets: tuple[str, ...],
    state_dir: Path | None,
) -> int:
    """Look for what would stop or spoil a transfer, before it; nothing is changed.

    On the source: blocksync check /dev/sda --to HOST. On the target: blocksync check --target /dev/sdb. Each finding
    has a code that docs/ERRORS.md explains. Exit 0 without errors, else what the transfer would end with.
    """
    from blocksync import api

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
    lines.append(f"{errors} errors, {warnings} warnings, {len(result.of('note'))} notes")
    facts = {"command": "check", "findings": [dataclasses.asdict(finding) for finding in result.findings]}
    session.output.result(facts, *lines)
    return result.exit_code
