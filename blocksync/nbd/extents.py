"""What ``base:allocation`` says, as extents."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.errors import BlocksyncError
from blocksync.extents import Extent, ExtentKind, merge
from blocksync.nbd.export import Export
from blocksync.nbd.wire import ALLOCATION, STATE_HOLE, STATE_ZERO


def knows_extents(export: Export) -> bool:
    """Whether the server tells what is allocated."""
    return ALLOCATION in export.agreed.contexts


def allocation(export: Export, size: int) -> Iterator[Extent]:
    """Cover ``[0, size)``; asked for piece by piece, as the walk gets there.

    Only what the server calls zero is: a hole without that may hold anything. Where it fails to answer, the rest
    is data.

    Args:
        export: of at most ``size`` bytes.
        size: of the disk, to which the export's last partial sector is filled up.
    """
    return merge(_allocation(export, size))


def _allocation(export: Export, size: int) -> Iterator[Extent]:
    at = 0
    if knows_extents(export):
        try:
            for offset, length, flags in export.status(ALLOCATION, 0, export.agreed.size):
                kind = ExtentKind.DATA
                if flags & STATE_ZERO:
                    kind = ExtentKind.HOLE if flags & STATE_HOLE else ExtentKind.ZERO
                yield Extent(offset, length, kind)
                at = offset + length
        except BlocksyncError as error:
            if error.retryable:
                raise
    if at < size:
        yield Extent(at, size - at)
