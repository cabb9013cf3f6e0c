"""``blocksync manifest``: what a receiver's slots durably hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blocksync.cli.display import showing
from blocksync.cli.grid import draw
from blocksync.cli.parameters import common
from blocksync.cli.quantities import show_size
from blocksync.cli.session import Session
from blocksync.errors import StateError

if TYPE_CHECKING:
    from blocksync.api import ManifestInfo


class _ListByDefault(click.Group):
    """``blocksync manifest`` alone is ``blocksync manifest list``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListByDefault)
def manifest() -> None:
    """Look at a receiver's durable state, or make it anew from the target."""


@manifest.command("list")
@common()
def list_all(session: Session, state_dir: Path | None) -> int:
    """List all slots."""
    from blocksync import api

    found = api.manifests(state_dir)
    output = session.output
    if output.json_lines:
        output.result({"command": "manifest list", "slots": [dataclasses.asdict(info) for info in found]})
    elif not found:
        output.result({}, "no slot holds anything yet")
    else:
        columns = ("slot", "size", "known", "generation", "pass", "block", "digest", "state on disk")
        rows = [
            (
                info.slot,
                show_size(info.size),
                show_size(info.known_bytes),
                str(info.generation),
                "open, resumable" if info.pass_open else "committed",
                show_size(info.block_bytes),
                info.digest,
                show_size(info.manifest_bytes),
            )
            for info in found
        ]
        output.table(draw("", columns, rows, numbers=("size", "known", "generation", "block", "state on disk")))
    return 0


@manifest.command("show")
@click.argument("slot")
@common()
def show(session: Session, slot: str, state_dir: Path | None) -> int:
    """Show all facts of SLOT."""
    from blocksync import api

    found = [info for info in api.manifests(state_dir) if info.slot == slot]
    if not found:
        raise StateError(
            f"there is no slot {slot} with a manifest", remedy="blocksync manifest list shows the slots"
        )
    session.output.result({"command": "manifest show", **dataclasses.asdict(found[0])}, *_facts(found[0]))
    return 0


@manifest.command("rebuild")
@click.argument("slot")
@click.option("--target", required=True, metavar="PATH", help="The slot's target, which is read whole.")
@common()
def rebuild(session: Session, slot: str, target: str, state_dir: Path | None) -> int:
    """Make the manifest of SLOT anew by reading its target, when it was damaged or lost.

    The next pass then sends only what differs from the source.
    """
    from blocksync import api

    with session.cancellable() as cancel, showing(session.output) as display:
        info = api.rebuild(slot, target, state_dir, progress=display, cancel=cancel)
    session.output.result({"command": "manifest rebuild", **dataclasses.asdict(info)}, "rebuilt", *_facts(info))
    return 0


def _facts(info: ManifestInfo) -> list[str]:
    return [
        f"slot           {info.slot}",
        f"size           {info.size} ({show_size(info.size)})",
        f"known          {info.known_bytes} ({show_size(info.known_bytes)})",
        f"generation     {info.generation}",
        f"pass           {'open, resumable' if info.pass_open else 'committed'}",
        f"epoch          {info.epoch}",
        f"block          {show_size(info.block_bytes)}",
        f"digest         {info.digest}",
        f"source         {info.source_identity or 'not known'}",
        f"root           {info.root}",
        f"state on disk  {show_size(info.manifest_bytes)}",
    ]
