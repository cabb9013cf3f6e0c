"""Rule 9: what must not be written to, found out from the open descriptor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from blocksync.errors import TargetRefusedError
from blocksync.platforms import below, loops_over, mounts_of, same_storage, swaps, users_of_device
from blocksync.platforms.likeness import recognised, storages
from blocksync.targets.base import Target

# Where partition tables, boot sectors, superblocks and their backups lie; and samples over the rest.
EDGE_BYTES = 1 << 20
SAMPLES = 64
SAMPLE_BYTES = 64 << 10


def refuse_state_on_target(path: str, status: os.stat_result, state_dir: Path | None) -> None:
    """Rule 6: state that lies on the target would be overwritten with it."""
    if state_dir is None:
        return
    under = below(os.stat(state_dir).st_dev)
    on_device = bool(status.st_rdev) and status.st_rdev in under
    on_file = any(number in under for _, number in loops_over(status))
    if on_device or on_file:
        raise TargetRefusedError(
            f"the state folder {state_dir} lies on the target {path}",
            remedy="name a state folder on another disk with --state-dir",
        )


def refuse_itself(path: str, sources: Iterable[str]) -> None:
    """A source that is the target too, by another name or through a layer: what it held would be written over.

    Args:
        path: of the target.
        sources: what the sources are called: ``PATH``, or ``PATH[,PATH…]#PLACE``.
    """
    for source in sources:
        same = source == path
        with contextlib.suppress(OSError, ValueError):
            target = os.stat(path)
            same = same or any(same_storage(status, target) for status in storages([source]))
        if same:
            raise TargetRefusedError(
                f"the target {path} lies on the source {source}, or holds it",
                remedy="choose a target apart from the source",
                safe="nothing was written to it",
            )


def is_marked(target: Target, marks: str) -> bool:
    """Whether a sender's marks are of this target: it runs on this machine, and reads what would be written to."""
    if not marks:
        return False
    descriptor = target.descriptor()
    with contextlib.suppress(OSError, ValueError):
        return recognised(marks, os.stat(target.name) if descriptor is None else os.fstat(descriptor))
    return False


def refuse_busy(path: str, status: os.stat_result) -> None:
    """Mounted, swapped to, held by LVM, MD or device-mapper, or below a loop device that is."""
    device = status.st_rdev
    if device:
        mounted = mounts_of(device)
        if mounted:
            raise TargetRefusedError(
                f"the target {path} is mounted at {', '.join(mounted)}", remedy=f"unmount it: umount {mounted[0]}"
            )
        holders = users_of_device(device)
        if holders:
            raise TargetRefusedError(
                f"the target {path} is held by {', '.join(holders)} (LVM, MD or device-mapper)",
                remedy="deactivate what stands on it (vgchange -an, mdadm --stop), or choose another target",
            )
    for swap in swaps():
        same_file = (swap.st_dev, swap.st_ino) == (status.st_dev, status.st_ino)
        if same_file or (device and swap.st_rdev == device):
            raise TargetRefusedError(f"the target {path} is used as swap", remedy=f"swapoff {path}")
    for name, number in loops_over(status):
        mounted = mounts_of(number)
        where = f", mounted at {mounted[0]}" if mounted else ""
        raise TargetRefusedError(
            f"the target {path} is in use by the loop device {name}{where}", remedy=f"detach it: losetup -d {name}"
        )


def refuse_content(path: str, size: int, read: Callable[[int, memoryview], None], has_data: bool | None) -> None:
    """A target that is not empty needs consent by name.

    Args:
        path: for the message.
        size: bytes.
        read: fills a buffer from an offset.
        has_data: whether there is any data where the filesystem knows; None to look at samples.
    """
    if has_data is None:
        has_data = any(_nonzero(read, offset, length) for offset, length in _places(size))
    if has_data:
        raise TargetRefusedError(
            f"the target {path} is not empty",
            remedy=f"if what it holds may be lost, say so by name: --overwrite {path}",
            safe="nothing was written to it",
        )


def _places(size: int) -> list[tuple[int, int]]:
    edge = min(EDGE_BYTES, size)
    places = [(0, edge), (size - edge, edge)]
    step = size // (SAMPLES + 1) // 4096 * 4096
    if step > SAMPLE_BYTES:
        places.extend((step * at, SAMPLE_BYTES) for at in range(1, SAMPLES + 1))
    return places


def _nonzero(read: Callable[[int, memoryview], None], offset: int, length: int) -> bool:
    buffer = bytearray(length)
    read(offset, memoryview(buffer))
    return any(buffer)
