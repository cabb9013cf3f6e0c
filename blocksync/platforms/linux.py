"""Linux: ioctls of block devices (linux/fs.h), fallocate, sysfs, /proc. All by number and path, nothing is started."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from blocksync.platforms.facts import DeviceFacts
from blocksync.platforms.sysfs import number_of, sys_path, text_of

DIRECT = os.O_DIRECT
SHADOW_COPIES = False
SEES_MOUNTS = True
"""Whether :func:`mounts_of` tells."""
_BLKROGET = 0x125E
_BLKGETSIZE64 = 0x80081272
_BLKSSZGET = 0x1268
_BLKZEROOUT = 0x127F
_F_OFD_GETLK = 36
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
# More than a folio of the page cache has, whose offset is a multiple of its size.
_FOLIO_BYTES = 4 << 20
# ioprio_set(2): numbers of the call from asm/unistd.h, the values from linux/ioprio.h.
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
# fsopen(2) and its kin have the same numbers everywhere; values from linux/mount.h.
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_MOUNT_ATTR_RDONLY_NOSUID_NODEV_NOEXEC = 1 | 2 | 4 | 8
_IP_MTU, _IPV6_MTU = 14, 24
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_BEST_EFFORT = 2 << 13
_IOPRIO_BEST_EFFORT_LOWEST = _IOPRIO_BEST_EFFORT | 7
# A peer that answers nothing is given up after these.
_USER_TIMEOUT_MILLISECONDS = 20_000
_KEEPALIVE_SECONDS = 5
_KEEPALIVE_PROBES = 3

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def hold_file(descriptor: int) -> bool:
    """Lock a file for this process; False when another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def locked(descriptor: int) -> bool:
    """Whether another process holds a record lock on the file, as QEMU does on the images of a running machine."""
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        (kind,) = struct.unpack_from("h", fcntl.fcntl(descriptor, _F_OFD_GETLK, asked))
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK)


def sync_folder(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def punch(descriptor: int, offset: int, length: int) -> bool:
    """Deallocate a file's range so that it reads as zeros; False where the filesystem cannot."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _libc.fallocate(descriptor, mode, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(number, os.strerror(number))


def write_zeros(descriptor: int, offset: int, length: int) -> bool:
    """BLKZEROOUT: the kernel guarantees zeros, by offload or by writing them; False where it cannot."""
    try:
        fcntl.ioctl(descriptor, _BLKZEROOUT, struct.pack("QQ", offset, length))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def drop_cached(descriptor: int, offset: int, length: int) -> None:
    """Let the next read of the range come from below the page cache; what is dirty or in use stays.

    The kernel keeps what lies in the range only in part, a page or a folio of up to 2 MiB: so more than the range goes.
    """
    first = offset - offset % _FOLIO_BYTES
    end = offset + length
    # What has no cache to drop (a pipe) says so, and that is all there is to say.
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, first, end + -end % _FOLIO_BYTES - first, os.POSIX_FADV_DONTNEED)


def allocated_from(descriptor: int, offset: int) -> tuple[int, int] | None:
    """``(start, end)`` of the first data at or behind ``offset``; None where only holes follow.

    Raises:
        OSError: EINVAL where the filesystem knows no holes.
    """
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    return start, os.lseek(descriptor, start, os.SEEK_HOLE)


def device_facts(descriptor: int) -> DeviceFacts:
    """Facts of an open block device."""
    number = os.fstat(descriptor).st_rdev
    size = struct.unpack("Q", fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8)))[0]
    sector = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))[0]
    read_only = struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, bytes(4)))[0]
    return DeviceFacts(
        size=size,
        sector_bytes=4096 if sector == 4096 else 512,
        identity=_identity(number),
        read_only=bool(read_only),
        mark=_mark(number),
    )


def _identity(number: int) -> str:
    at = sys_path(number)
    for name in ("loop/backing_file", "dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"):
        text = text_of(at / name)
        if text:
            return f"device:{text}"
    if (at / "partition").exists():
        whole = _identity(number_of(at.resolve().parent))
        return f"{whole}:partition{text_of(at / 'partition')}"
    return f"device:{text_of(at / 'uevent').partition('DEVNAME=')[2].splitlines()[0:1]}"


def _mark(number: int) -> str:
    at = sys_path(number)
    fields = text_of(at / "stat").split()
    if len(fields) < 7:
        return ""
    boot = text_of(Path("/proc/sys/kernel/random/boot_id"))
    # Fields 7 and 14 count the sectors that were written and discarded (Documentation/block/stat.rst; older kernels
    # have no 14). Not the requests: a flush, as a verify begins with, is one of no sectors.
    # diskseq changes when another medium takes the device's name.
    return f"{boot}:{text_of(at / 'diskseq')}:{fields[6]}:{':'.join(fields[13:14])}"


def held(path: str) -> bool:
    """Whether the kernel lets nobody have this device alone: a mount in whichever namespace, swap, LVM, MD hold it.

    ``mounts_of`` sees less: not the mounts of other namespaces, and of btrfs not even this one's, since it
    mounts by device numbers of its own.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def lower_io_priority() -> None:
    """Put the calling thread's reads behind those of others, where the disk's scheduler looks at that."""
    number = _SYS_IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        # Not the idle class: on a busy disk that would never be served.
        _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_BEST_EFFORT_LOWEST)


def processor_seconds() -> tuple[float, float]:
    """``(busy, all)`` seconds of all processors since the machine started."""
    fields = [int(field) for field in text_of(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
    if len(fields) < 5:
        return 0.0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - fields[3] - fields[4]) / ticks, sum(fields) / ticks


def detached_mount(device: str, kind: str, options: Iterable[str]) -> int:
    """Mount a filesystem read-only, nosuid, nodev, noexec, at no place; the descriptor of its root is the mount.

    Args:
        device: a block device.
        kind: as ``ext4``.
        options: flags of the filesystem's.

    Raises:
        OSError: the kernel refuses (EPERM where this is not root, ENOSYS before Linux 5.2).
    """
    context = _called(_SYS_FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        for flag in ("ro", *options):
            _called(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, flag.encode(), None, 0)
        _called(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, b"source", device.encode(), 0)
        _called(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _called(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, _MOUNT_ATTR_RDONLY_NOSUID_NODEV_NOEXEC)
    finally:
        os.close(context)


def _called(number: int, *arguments: int | bytes | None) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def path_mtu(sock: socket.socket) -> int | None:
    """The MTU that the kernel knows of a connected socket's path, bytes."""
    family, option = (
        (socket.IPPROTO_IPV6, _IPV6_MTU) if sock.family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_MTU)
    )
    try:
        return sock.getsockopt(family, option)
    except OSError:
        return None


def machine_memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    fields = text_of(Path("/proc/self/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0


def set_priority(nice: int) -> None:
    """Give all threads of this process a CPU priority, and the IO priority that the kernel derives from it.

    Threads inherit it from the one that starts them. A priority that may not be raised again is left as it is.
    """
    call = _SYS_IOPRIO_SET.get(os.uname().machine)
    for task in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(task), nice)
        except OSError:
            continue  # it has ended, or may only get nicer
        if call is not None:
            _libc.syscall(call, _IOPRIO_WHO_PROCESS, int(task), _IOPRIO_BEST_EFFORT | (nice + 20) // 5)


def tune_socket(sock: socket.socket) -> None:
    """Notice dead peers, send without delay."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MILLISECONDS)
