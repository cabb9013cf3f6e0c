"""Asking the receiver to remove the names of excluded files, after the last pass."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from blocksync.engine.reach import Reach
from blocksync.errors import BlocksyncError, ProtocolError
from blocksync.protocol.messages import CONTROL_VERSION, ControlPort, RemovalRequest
from blocksync.results import Removal, SendResult

# Of names in one request, well below what a message may have (MAX_MESSAGE_BYTES).
_BATCH_BYTES = 32 << 10
_MOST_REASONS = 20


def remove_names(control: ControlPort, result: SendResult) -> Removal:
    """Have the names removed that a pass left out.

    Args:
        control: of the slot that the pass went to.
        result: of the last pass, committed.

    Raises:
        BlocksyncError: the receiver cannot be asked, or its slot is busy.
    """
    removed = 0
    remaining = [f"{result.unnamed} names more than are kept track of"] if result.unnamed else []
    for names in _batches(result.excluded_names):
        said = control.remove_names(
            RemovalRequest(version=CONTROL_VERSION, slot=result.slot, wanted={"names": names})
        )
        gone, reasons = said.get("removed"), said.get("remaining")
        if not isinstance(gone, int) or not isinstance(reasons, list):
            raise ProtocolError("the receiver's report of what it removed is none")
        removed += gone
        remaining += [str(reason)[:300] for reason in reasons if str(reason)[:300] not in remaining]
    more = len(remaining) - _MOST_REASONS
    if more > 0:
        remaining[_MOST_REASONS:] = [f"and {more} more"]
    return Removal(slot=result.slot, removed=removed, remaining=tuple(remaining))


def remove_from(reach: Reach, result: SendResult) -> Removal:
    """The same over the network, at the end of a transfer: what cannot be had is told, the pass is committed anyway."""
    try:
        with reach.route(result.slot, own=True) as route:
            return remove_names(route.control, result)
    except BlocksyncError as error:
        return Removal(slot=result.slot, removed=0, remaining=(error.message,))


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name in names:
        length = len(json.dumps(name)) + 2
        if batch and size + length > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += length
    if batch:
        yield batch
