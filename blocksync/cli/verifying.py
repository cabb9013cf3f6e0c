"""``blocksync verify``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.codes import asker, given_code
from blocksync.cli.display import showing
from blocksync.cli.parameters import common
from blocksync.cli.quantities import show_seconds, show_size
from blocksync.cli.sending import patterns, receiver_options, used_options
from blocksync.cli.session import Session
from blocksync.errors import IntegrityError
from blocksync.options import VerifyOptions

if TYPE_CHECKING:
    from blocksync.results import VerifyResult


@click.command()
@click.argument("source")
@receiver_options
@used_options
@common()
def verify(
    session: Session,
    source: str,
    to: str,
    slot: str,
    code: str | None,
    code_file: Path | None,
    state_dir: Path | None,
    all_blocks: bool,
    exclude: tuple[str, ...],
    exclude_from: tuple[Path, ...],
) -> int:
    """Read SOURCE and its copy and compare; exit 0 where they are identical, 9 where they differ.

    What no file uses, as clean filesystems say, is left out unless --all-blocks asks for it: a pass leaves it out too.

    The ranges that differ are named by offset and length in bytes.
    """
    from blocksync import api

    given = given_code(session, to, code, code_file)
    with session.cancellable() as cancel, showing(session.output) as display:
        options = VerifyOptions(
            to=to,
            slot=slot,
            code=given,
            ask_code=asker(session, display),
            state_dir=state_dir,
            all_blocks=all_blocks,
            exclude=patterns(exclude, exclude_from),
            progress=display,
        )
        result = api.verify(source, options, cancel=cancel)
    session.output.result({"command": "verify", **dataclasses.asdict(result)}, *_summary(result, source, to))
    return 0 if result.identical else IntegrityError.exit_code


def _summary(result: VerifyResult, source: str, to: str) -> list[str]:
    took = f"{show_size(result.size - result.unused)} compared in {show_seconds(result.seconds)}"
    notes = [f"note: {note}" for note in result.notes]
    if result.identical:
        where = ", in all that is used" if result.unused else ""
        return [f"identical{where}: {source} and slot {result.slot}, {took}", *notes]
    ranges = f"{'more than ' if _cut(result) else ''}{len(result.differing)} ranges"
    lines = [
        f"DIFFERENT: {source} and slot {result.slot}, {show_size(result.differing_bytes)} in {ranges}; {took}",
    ]
    lines.extend(f"  offset {offset} length {length}" for offset, length in result.differing)
    if _cut(result):
        lines.append("  and more")
    lines.extend(f"  {note}" for note in notes)
    lines.append(f"  next: blocksync send {source} --to {to} sends what differs; then verify again")
    return lines


def _cut(result: VerifyResult) -> bool:
    return sum(length for _, length in result.differing) < result.differing_bytes
