"""The one place of this room where the platform shows: locking a file, and syncing a folder.

Locks are advisory, belong to the open file and vanish with the process, so a kill leaves nothing to clean up. The
lock file itself is never removed: removing it would let two processes lock two different files of one name.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from blocksync.platforms.privileges import keep_owner

if sys.platform == "win32":
    import msvcrt

    PERMISSION_BITS_COUNT = False
    """Whether st_mode says who may read a file; on Windows the folder's access list does."""

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # gives up after ten seconds; nobody holds it that long

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

    def sync_folder(path: Path) -> None:
        """Do nothing: Windows has no such call, NTFS journals its names."""

else:
    import fcntl

    PERMISSION_BITS_COUNT = True
    """Whether st_mode says who may read a file; on Windows the folder's access list does."""

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    def sync_folder(path: Path) -> None:
        """Make names created, renamed or removed in a folder durable.

        Raises:
            OSError: the folder cannot be opened or synced.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file, made when missing; waits for other threads and processes.

    Raises:
        OSError: the lock file cannot be opened, or its filesystem has no locks.
    """
    # Close-on-exec is Python's default; without O_NOFOLLOW a planted link would choose the file to be made.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        keep_owner(descriptor, path.parent)
        _lock(descriptor)
        try:
            yield
        finally:
            # Closing the file gives the lock back too: what the block did must not fail for this.
            with contextlib.suppress(OSError):
                _unlock(descriptor)
    finally:
        os.close(descriptor)
