"""What every ``send`` looks at: only what costs no time that anybody would notice.

Imports are late and few here for the same reason.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from blocksync.engine.cancel import Cancel
from blocksync.errors import BlocksyncError
from blocksync.platforms import mounts_of
from blocksync.preflight.findings import Finding
from blocksync.preflight.network import greet, hello_findings
from blocksync.preflight.state import state_findings


def quick_findings(
    names: list[str], size: int, address: tuple[str, int], state: Path, cancel: Cancel
) -> Iterator[Finding]:
    """State folder, versions and clocks, a disk sent to itself, and fstab where the system's own disk is sent.

    Args:
        names: of the sources.
        size: of all of them, bytes.
        address: of the receiver's control port.
        state: the state folder.
        cancel: ends the question to the receiver.
    """
    yield from state_findings(state, size)
    # That the receiver cannot be reached is the transfer's own to say, and to retry.
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        yield from hello_findings(greet(*address, names, cancel), f"{address[0]}:{address[1]}")
    if any("/" in (mounted_at(name) or ()) for name in names):
        yield from _own_fstab()


def mounted_at(name: str) -> list[str] | None:
    """Where a device, its partitions and what stands on them are mounted; None for what is no device."""
    try:
        status = os.stat(name)
    except OSError:
        return None
    return mounts_of(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def _own_fstab() -> Iterator[Finding]:
    from blocksync.flatten.tree import FolderTree, Guest
    from blocksync.preflight.system import fstab

    descriptor = os.open("/", os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    with contextlib.closing(FolderTree(descriptor, "this system")) as tree, contextlib.suppress(BlocksyncError):
        yield from fstab(Guest(tree))
