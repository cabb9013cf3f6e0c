"""``blocksync peers`` and ``blocksync revoke``."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path

import click

from blocksync.cli.grid import draw
from blocksync.cli.parameters import common
from blocksync.cli.session import Session


@click.command()
@common()
def peers(session: Session, state_dir: Path | None) -> int:
    """List the senders that may use this receiver's slots."""
    from blocksync import api

    found = api.peers(state_dir)
    output = session.output
    if output.json_lines:
        output.result({"command": "peers", "peers": [dataclasses.asdict(peer) for peer in found]})
    elif not found:
        output.result({}, "no sender is paired; blocksync recv prints a pairing code")
    else:
        rows = [
            (
                peer.name,
                ", ".join(peer.slots),
                datetime.fromtimestamp(peer.since, timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
                peer.fingerprint[:16],
            )
            for peer in found
        ]
        output.table(draw("", ("sender", "slots", "since", "fingerprint"), rows))
    return 0


@click.command()
@click.argument("peer")
@common()
def revoke(session: Session, peer: str, state_dir: Path | None) -> int:
    """Withdraw the grants of PEER, a name or the beginning of a fingerprint, also from a running receiver."""
    from blocksync import api

    gone = api.revoke(peer, state_dir)
    session.output.result(
        {"command": "revoke", "peers": [dataclasses.asdict(each) for each in gone]},
        *(
            f"revoked: {each.name} ({each.fingerprint[:16]}) may no longer use {', '.join(each.slots)}"
            for each in gone
        ),
    )
    return 0
