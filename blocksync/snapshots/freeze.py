"""Filesystems on plain disks, held still while the last pass reads them: fsfreeze with a watchdog.

Not for volumes that a snapshot is taken of: device-mapper freezes those itself, and refuses what is frozen already.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence

from blocksync.errors import SnapshotError
from blocksync.platforms import mounts_of
from blocksync.snapshots.records import Records
from blocksync.snapshots.watchdog import holding

# What the system itself needs to go on; writes to it would wait for the thaw, ours among them.
SYSTEM_PATHS = ("/", "/etc", "/usr", "/run", "/var", "/tmp", "/dev")  # noqa: S108 - compared with, not written to


@contextlib.contextmanager
def frozen(
    mount_points: Sequence[str],
    *,
    seconds: float,
    keep_writable: Sequence[str] = (),
    records: Records | None = None,
) -> Iterator[None]:
    """Freeze filesystems for a block of code, all or none.

    Args:
        mount_points: of filesystems.
        seconds: after which they are thawed whatever happens, the block's work then counts as not frozen.
        keep_writable: paths that this process writes to meanwhile (its state folder).
        records: where it is noted.

    Raises:
        SnapshotError: one cannot be frozen, or must not be; or they had to be thawed before the block ended.
    """
    for point in mount_points:
        _refuse_own(point, (*SYSTEM_PATHS, *keep_writable))
    with holding(f"freeze-{secrets.token_hex(4)}", records or Records(), seconds=seconds) as still:
        for point in mount_points:
            still.freeze(point)
        yield
        still.check()


def mounted_on(path: str) -> list[str]:
    """Mount points of a device, its partitions and what is stacked on them; none for a file."""
    try:
        number = os.stat(path).st_rdev
    except OSError:
        return []
    return mounts_of(number) if number else []


def _refuse_own(point: str, paths: Sequence[str]) -> None:
    try:
        device = os.stat(point).st_dev
        held = [path for path in paths if os.path.exists(path) and os.stat(path).st_dev == device]
    except OSError as error:
        raise SnapshotError(f"cannot look at {point}: {error.strerror}") from error
    if held:
        raise SnapshotError(
            f"the filesystem at {point} holds {', '.join(held)}, which must stay writable",
            remedy="take a snapshot of it instead, or stop what writes and send with --live",
        )
