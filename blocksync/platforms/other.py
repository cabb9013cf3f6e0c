"""Everywhere but Linux: image files work; block devices are refused by name until their calls are written."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from blocksync.platforms.facts import DeviceFacts, IoCounts

DIRECT = 0
SHADOW_COPIES = os.name == "nt"


SEES_MOUNTS = False
"""Whether :func:`mounts_of` tells."""


def hold_file(descriptor: int) -> bool:
    """Lock a file for this process where the system has such locks."""
    if os.name != "posix":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable where the system has a call for that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def punch(_descriptor: int, _offset: int, _length: int) -> bool:
    return False


def write_zeros(_descriptor: int, _offset: int, _length: int) -> bool:
    return False


def drop_cached(_descriptor: int, _offset: int, _length: int) -> None:
    """The cache stays: what is read may come from it."""


def allocated_from(_descriptor: int, _offset: int) -> tuple[int, int] | None:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def device_facts(_descriptor: int) -> DeviceFacts:
    raise OSError(errno.ENOTSUP, "block devices are supported on Linux only")


def held(_path: str) -> bool:
    """Devices are not held here."""
    return False


def mounts_of(_number: int) -> list[str]:
    return []


def swaps() -> Iterator[os.stat_result]:
    return iter(())


def users_of_device(_number: int) -> list[str]:
    return []


def locked(_descriptor: int) -> bool:
    """Nothing is known of other processes' locks here."""
    return False


def loops_over(_status: os.stat_result) -> list[tuple[str, int]]:
    return []


def below(number: int) -> set[int]:
    return {number}


def same_storage(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two names are of one file; of devices nothing is told."""
    return os.path.samestat(one, other)


def storage(status: os.stat_result) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """A file's numbers; of devices nothing is told."""
    numbers = {(status.st_dev, status.st_ino)}
    return numbers, numbers


def boot_key() -> bytes:
    """Not told here."""
    return b""


def lower_io_priority() -> None:
    """These systems have no such call for a thread."""


def processor_seconds() -> tuple[float, float]:
    """Not told here."""
    return 0.0, 0.0


def detached_mount(_device: str, _kind: str, _options: Iterable[str]) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def path_mtu(_sock: socket.socket) -> int | None:
    return None


def disk_of(_path: str) -> int | None:
    return None


def io_counts(_number: int) -> IoCounts | None:
    return None


def machine_memory_bytes() -> int:
    """Memory of this machine. Not told here: taken for a small one's."""
    return 2 << 30


def memory_bytes() -> int:
    """Not told here."""
    return 0


def set_priority(nice: int) -> None:
    """CPU priority where the system has it."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def tune_socket(sock: socket.socket) -> None:
    """Send without delay, notice dead peers by the system's own times."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
