"""A receiver as whoever watches it sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from blocksync import __version__
from blocksync.control.watching import is_loopback
from blocksync.engine.slot import Slot
from blocksync.errors import UsageError


def receiver_view(
    slots: Sequence[Slot], committed: Sequence[tuple[str, int, float]], *, started: float, memory: int
) -> dict[str, Any]:
    """The receiver and some of its slots as JSON has it; docs/EVENTS.md lists the fields.

    Args:
        committed: ``(slot, generation, when)`` since the start.
        started: seconds since 1970.
        memory: resident bytes; 0 where that is not to be told.
    """
    return {
        "version": __version__,
        "started": started,
        "now": time.time(),
        "memory": memory,
        "slots": [_slot_view(slot, [when for name, _, when in committed if name == slot.name]) for slot in slots],
    }


def _slot_view(slot: Slot, commits: Sequence[float]) -> dict[str, Any]:
    # Without the slot's lock: a look must not wait for a disk. Each figure is right, perhaps of different moments.
    store, session = slot.store, slot.session
    known = store.map.counts().known_blocks * store.geometry.block_bytes if store is not None else 0
    size = slot.target.size
    return {
        "slot": slot.name,
        "size": size,
        "known": min(known, size),
        "generation": store.generation if store is not None else 0,
        "pass_open": bool(store is not None and not store.complete),
        "busy": session is not None,
        "peer": session.peer.name if session is not None else "",
        "source": session.source_name if session is not None else "",
        "connections": len(session.links) if session is not None else 0,
        "verifying": bool(slot.verifying.total()),
        "failed": slot.failed,
        "durable_total": slot.durable_total,
        "passes": len(commits),
        "last_commit": max(commits, default=0.0),
    }


def parse_status_address(text: str) -> tuple[str, int] | None:
    """``ADDRESS:PORT`` of a loopback address; None for an empty text.

    Raises:
        UsageError: it is none: without TLS nobody else may look.
    """
    if not text:
        return None
    host, _, port = text.rpartition(":")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    address = "127.0.0.1" if address == "localhost" else address
    sound = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
    if not sound or not is_loopback(address):
        raise UsageError(
            f"--status-listen {text} is no loopback address and port",
            remedy="write 127.0.0.1:9090; paired peers see the same on the control port, over TLS",
        )
    return address, int(port)
