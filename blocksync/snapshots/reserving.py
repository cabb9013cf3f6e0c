"""The metadata snapshot of a thin pool, which ``thin_delta`` reads while the pool goes on working.

A pool has one at most, it outlives this process and a reboot, and while it stands nobody can take another. So it
is noted beforehand as a tag of the pool, and taken under a lock that the kernel frees when this process dies: whoever
holds that lock and finds the tag knows that it was left behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from blocksync.errors import ChangesUnknownError, SnapshotError, from_os_error
from blocksync.platforms.tools import run_tool
from blocksync.snapshots.records import Records
from blocksync.snapshots.volumes import TAG_PREFIX, Volume, device_name, list_volumes

METADATA_TAG = f"{TAG_PREFIX}metadata"
# As long as another pass may ask the same pool what changed.
_WAIT_SECONDS = 1800.0
_LOOK_SECONDS = 0.1
_NONE = "-"
_TAGGING = ("lvchange", "-q", "-A", "n")


@contextlib.contextmanager
def reserved(group: str, pool: str, records: Records) -> Iterator[None]:
    """A pool's metadata snapshot stands for the block; several that want it take turns.

    Raises:
        ChangesUnknownError: it cannot be had.
    """
    doing = f"cannot ask the thin pool {group}/{pool} what changed"
    try:
        with _alone(group, pool, records, _WAIT_SECONDS) as alone:
            if not alone:
                raise ChangesUnknownError(f"{doing}: another pass has been asking it for a long time")
            _release_left(group, pool)
            if held(group, pool):
                raise ChangesUnknownError(f"{doing}: somebody else holds its metadata snapshot")
            run_tool([*_TAGGING, "--addtag", METADATA_TAG, f"{group}/{pool}"], SnapshotError, doing)
            try:
                _message(group, pool, "reserve_metadata_snap", doing)
                yield
            finally:
                with contextlib.suppress(SnapshotError):  # the tag stays then, and the next to come tries again
                    release(group, pool)
    except SnapshotError as error:
        raise ChangesUnknownError(error.message) from error


def release_left(volume: Volume, records: Records) -> bool:
    """Release the metadata snapshot that a process which is gone has left in a pool.

    Returns:
        whether there was one, or its note.

    Raises:
        SnapshotError: it still stands.
    """
    if METADATA_TAG not in volume.tags:
        return False
    with _alone(volume.group, volume.name, records, 0.0) as alone:
        return alone and _release_left(volume.group, volume.name)


def held(group: str, pool: str) -> bool:
    """Whether a pool has a metadata snapshot, whoever made it.

    Raises:
        SnapshotError: the pool is not active, or fails.
    """
    doing = f"cannot look at the thin pool {group}/{pool}"
    said = run_tool(["dmsetup", "status", _device(group, pool)], SnapshotError, doing)
    # START LENGTH thin-pool TRANSACTION METADATA DATA HELD-ROOT …; a failed pool says Fail and no more.
    fields = said.output.split()
    if len(fields) < 7:
        raise SnapshotError(f"{doing}: {' '.join(fields)}")
    return fields[6] != _NONE


def release(group: str, pool: str) -> None:
    """Release what was reserved, and the tag that says so.

    Raises:
        SnapshotError: it still stands; the tag stays too.
    """
    doing = f"cannot release the metadata snapshot of the thin pool {group}/{pool}"
    if held(group, pool):
        _message(group, pool, "release_metadata_snap", doing)
    run_tool([*_TAGGING, "--deltag", METADATA_TAG, f"{group}/{pool}"], SnapshotError, doing)


def _release_left(group: str, pool: str) -> bool:
    """To be called by the holder of the lock alone."""
    left = any(METADATA_TAG in volume.tags for volume in list_volumes(f"{group}/{pool}"))
    if left:
        release(group, pool)
    return left


def _message(group: str, pool: str, text: str, doing: str) -> None:
    run_tool(["dmsetup", "message", _device(group, pool), "0", text], SnapshotError, doing)


def _device(group: str, pool: str) -> str:
    return f"{device_name(group, pool)}-tpool"


@contextlib.contextmanager
def _alone(group: str, pool: str, records: Records, seconds: float) -> Iterator[bool]:
    """Whether this is the only one, by a lock that goes with the process."""
    path = records.folder / f"{device_name(group, pool)}.lock"
    try:
        records.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_os_error(error, SnapshotError, f"cannot write {path}") from error
    try:
        yield _locked(descriptor, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, deadline: float) -> bool:
    import fcntl

    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        else:
            return True
