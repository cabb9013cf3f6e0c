"""Linux: what a loop device stands on, asked of the device itself (linux/loop.h), else of sysfs.

The path that sysfs shows is that of the file's name when it was attached, as it is seen from here: a name that was
removed while a hard link stays, that is hidden below a mount, or that belongs to another mount namespace leads nowhere
or to another file. The device knows the file.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_LOOP_GET_STATUS64 = 0x4C05
# struct loop_info64: lo_device, lo_inode, lo_rdevice; what follows is not asked for.
_INFO_BYTES = 232
_NUMBERS = struct.Struct("=QQQ")


@dataclass(frozen=True, slots=True)
class Backing:
    """The file or device below a loop device, in the words of ``os.stat``."""

    st_dev: int
    st_ino: int
    st_rdev: int


def backing_of(sys_path: Path, device: str) -> Backing | None:
    """What stands below a loop device; None where nothing does, or nobody tells.

    Args:
        sys_path: the device's folder in sysfs.
        device: its node, which may be missing or closed to us.
    """
    try:
        told = (sys_path / "loop" / "backing_file").read_text(errors="surrogateescape").strip("\n")
    except OSError:
        return None
    return _asked(device, sys_path) or _looked_up(told)


def _asked(device: str, sys_path: Path) -> Backing | None:
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        number = os.fstat(descriptor).st_rdev
        if f"{os.major(number)}:{os.minor(number)}" != (sys_path / "dev").read_text().strip():
            return None  # in this /dev the name is another device's
        answer = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_INFO_BYTES))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return Backing(*_NUMBERS.unpack_from(answer))


def _looked_up(path: str) -> Backing | None:
    try:
        status = os.stat(path)
    except OSError:
        try:
            status = os.stat(path.removesuffix(" (deleted)"))
        except OSError:
            return None
    return Backing(status.st_dev, status.st_ino, status.st_rdev)
