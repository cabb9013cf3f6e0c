"""A filesystem grown to the size of its partition, by its own tool, where that works without the system."""

from __future__ import annotations

import os

from blocksync.errors import FlattenError, GuestMountError
from blocksync.flatten.mounts import mounted, run_tool, wait_for_loop
from blocksync.flatten.system import TargetDisk

_SECONDS = 3600.0


def grow_filesystem(disk: TargetDisk, number: int) -> str:
    """Grow what lies in a partition.

    Returns:
        a line for people: done, or why not. A filesystem that stays small is whole all the same.
    """
    part = next(part for part in disk.parts if part.number == number)
    try:
        if part.kind in ("ext2", "ext3", "ext4"):
            if os.geteuid() != 0:
                return f"partition {number}: growing takes root rights; later: resize2fs on the running system"
            device = run_tool(
                ["losetup", "--find", "--show", "-o", str(part.offset), "--sizelimit", str(part.size), disk.path],
                GuestMountError,
            ).strip()
            try:
                # 1: it corrected something; of a running system at least the count of free blocks lags behind.
                run_tool(["e2fsck", "-f", "-p", device], GuestMountError, seconds=_SECONDS, good=(0, 1))
                run_tool(["resize2fs", device], GuestMountError, seconds=_SECONDS)
            finally:
                run_tool(["losetup", "--detach", device], GuestMountError)
                wait_for_loop(part.place(disk.path))
        elif part.kind == "xfs":
            with mounted(part.place(disk.path), read_only=False) as (_, folder):
                run_tool(["xfs_growfs", folder], GuestMountError, seconds=_SECONDS)
        elif part.kind == "btrfs":
            with mounted(part.place(disk.path), read_only=False) as (_, folder):
                run_tool(["btrfs", "filesystem", "resize", "max", folder], GuestMountError, seconds=_SECONDS)
        else:
            return f"partition {number}: {part.kind or 'its content'} is not grown; the rest of it stays free"
    except FlattenError as error:
        return f"partition {number}: its {part.kind} was not grown: {error.message}"
    return f"partition {number}: its {part.kind} was grown to {part.size} bytes"
