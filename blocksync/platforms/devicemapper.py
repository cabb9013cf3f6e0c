"""Linux: suspending and resuming device-mapper devices, thawing filesystems, by ioctl.

Nothing is started for it: while a device is suspended, loading a program may need that very device. Structures:
``struct dm_ioctl`` of linux/dm-ioctl.h, native byte order; FITHAW of linux/fs.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

CONTROL = "/dev/mapper/control"
# version[3], data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid, data
_DM = struct.Struct("=3I5IIIQ128s129s7s")
assert _DM.size == 312
_DM_DEV_SUSPEND = 0xC138FD06
_DM_DEV_STATUS = 0xC138FD07
_SUSPEND_FLAG = 1 << 1
_FITHAW = 0xC0045878
_MCL_CURRENT_AND_FUTURE = 3


def suspend(name: str) -> None:
    """Hold back all IO to a device, after its filesystem was frozen and what was under way is done.

    Args:
        name: device-mapper's.

    Raises:
        OSError: as the kernel says.
    """
    _command(_DM_DEV_SUSPEND, name, _SUSPEND_FLAG)


def resume(name: str) -> None:
    """Undo :func:`suspend`; does nothing to a device that runs.

    Raises:
        OSError: as the kernel says.
    """
    _command(_DM_DEV_SUSPEND, name, 0)


def is_suspended(name: str) -> bool:
    """Whether a device is suspended; False where there is none.

    Raises:
        OSError: as the kernel says.
    """
    try:
        return bool(_command(_DM_DEV_STATUS, name, 0) & _SUSPEND_FLAG)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise


def _command(number: int, name: str, flags: int) -> int:
    import fcntl

    encoded = name.encode()
    if not encoded or len(encoded) > 127:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    given = _DM.pack(4, 0, 0, _DM.size, 0, 0, 0, flags, 0, 0, 0, encoded, b"", b"")
    descriptor = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, number, given)
    finally:
        os.close(descriptor)
    return int(_DM.unpack(answer)[7])


def thaw(mount_point: str) -> None:
    """Let a frozen filesystem be written to again; does nothing to one that is not frozen.

    Raises:
        OSError: as the kernel says.
    """
    import fcntl

    descriptor = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _FITHAW, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def lock_memory() -> bool:
    """Keep this process in memory, now and later; False where the limits forbid it."""
    return bool(ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT_AND_FUTURE) == 0)


def device_holding(path: str) -> int:
    """Device number of the filesystem that a path lies on, by the kernel's table of mounts; 0 where it has no device.

    The table, since some filesystems (btrfs) give files a device number that no device has.
    """
    wanted = os.path.realpath(path)
    longest, found = -1, 0
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split()
        point = fields[4].encode().decode("unicode_escape")
        if len(point) < longest or not (wanted == point or wanted.startswith(point.rstrip("/") + "/")):
            continue
        major, _, minor = fields[2].partition(":")
        number = os.makedev(int(major), int(minor))
        if not int(major):
            try:
                number = os.stat(fields[fields.index("-") + 2]).st_rdev
            except OSError:
                number = 0
        longest, found = len(point), number
    return found
