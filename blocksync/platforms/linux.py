"""Linux: ioctls of block devices (linux/fs.h), fallocate, sysfs, /proc. All by number and path, nothing is started."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from blocksync.platforms.facts import DeviceFacts, IoCounts

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
_SYS_BLOCK = Path("/sys/dev/block")
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


def _sys(number: int) -> Path:
    return _SYS_BLOCK / f"{os.major(number)}:{os.minor(number)}"


def _text(path: Path) -> str:
    try:
        # Names are of any bytes: one that were changed here would not be found again.
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


def _identity(number: int) -> str:
    at = _sys(number)
    for name in ("loop/backing_file", "dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"):
        text = _text(at / name)
        if text:
            return f"device:{text}"
    if (at / "partition").exists():
        whole = _identity(_number_of(at.resolve().parent))
        return f"{whole}:partition{_text(at / 'partition')}"
    return f"device:{_text(at / 'uevent').partition('DEVNAME=')[2].splitlines()[0:1]}"


def _number_of(sys_path: Path) -> int:
    major, _, minor = _text(sys_path / "dev").partition(":")
    return os.makedev(int(major), int(minor)) if minor else 0


def _mark(number: int) -> str:
    at = _sys(number)
    fields = _text(at / "stat").split()
    if len(fields) < 7:
        return ""
    boot = _text(Path("/proc/sys/kernel/random/boot_id"))
    # Fields 5 to 8 count completed writes; diskseq changes when another medium takes the device's name.
    return f"{boot}:{_text(at / 'diskseq')}:{fields[4]}:{fields[6]}"


def _family(number: int) -> set[int]:
    """The device, its partitions, and what is stacked on any of them."""
    found: set[int] = set()
    waiting = [number]
    while waiting:
        each = waiting.pop()
        if each in found or not each:
            continue
        found.add(each)
        at = _sys(each).resolve()
        if not at.is_dir():
            continue
        waiting.extend(_number_of(entry) for entry in at.iterdir() if (entry / "partition").exists())
        holders = at / "holders"
        if holders.is_dir():
            waiting.extend(_number_of(holder.resolve()) for holder in holders.iterdir())
    return found


def _unescaped(path: str) -> str:
    """A path as the kernel lists it: spaces, tabs, newlines and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def mounts_of(number: int) -> list[str]:
    """Mount points of a device, of its partitions and of what is stacked on them."""
    family = {f"{os.major(each)}:{os.minor(each)}" for each in _family(number)}
    found = []
    for line in _text(Path("/proc/self/mountinfo")).splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] in family:
            found.append(_unescaped(fields[4]))
    return found


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


def swaps() -> Iterator[os.stat_result]:
    """The devices and files that are swapped to."""
    for line in _text(Path("/proc/swaps")).splitlines()[1:]:
        try:
            yield os.stat(_unescaped(line.split()[0]))
        except OSError:
            continue


def users_of_device(number: int) -> list[str]:
    """What the kernel stacks on a device or its partitions: LVM, MD, device-mapper, bcache."""
    found: list[str] = []
    for each in sorted(_family(number)):
        holders = _sys(each).resolve() / "holders"
        if holders.is_dir():
            found.extend(entry.name for entry in holders.iterdir())
    return found


def loops_over(status: os.stat_result) -> list[tuple[str, int]]:
    """``(name, device number)`` of the loop devices that have this file or device as their backing file."""
    found = []
    for entry in Path("/sys/block").glob("loop*"):
        backing = _text(entry / "loop" / "backing_file")
        if not backing:
            continue
        try:
            other = os.stat(backing.removesuffix(" (deleted)"))
        except OSError:
            continue
        same_file = (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
        if same_file or (status.st_rdev and other.st_rdev == status.st_rdev):
            found.append((f"/dev/{entry.name}", _number_of(entry)))
    return found


def below(number: int) -> set[int]:
    """The device numbers that a device stands on: its whole disk, its slaves, the filesystem of its backing file."""
    found: set[int] = set()
    waiting = [number]
    while waiting:
        each = waiting.pop()
        if each in found or not each:
            continue
        found.add(each)
        at = _sys(each).resolve()
        if (at / "partition").exists():
            waiting.append(_number_of(at.parent))
        slaves = at / "slaves"
        if slaves.is_dir():
            waiting.extend(_number_of(slave.resolve()) for slave in slaves.iterdir())
        backing = _text(at / "loop" / "backing_file")
        if backing:
            try:
                status = os.stat(backing)
            except OSError:
                continue
            waiting.extend((status.st_dev, status.st_rdev))
    return found


def lower_io_priority() -> None:
    """Put the calling thread's reads behind those of others, where the disk's scheduler looks at that."""
    number = _SYS_IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        # Not the idle class: on a busy disk that would never be served.
        _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_BEST_EFFORT_LOWEST)


def processor_seconds() -> tuple[float, float]:
    """``(busy, all)`` seconds of all processors since the machine started."""
    fields = [int(field) for field in _text(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
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


def disk_of(path: str) -> int | None:
    """The number of the whole disk that a device is, or that a file lies on; None where the system tells none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    number = status.st_rdev or status.st_dev
    at = _sys(number).resolve()
    if (at / "partition").exists():
        number = _number_of(at.parent)
    return number if _sys(number).exists() else None


def io_counts(number: int) -> IoCounts | None:
    """A disk's counters (Documentation/block/stat.rst); None where there are none."""
    fields = _text(_sys(number) / "stat").split()
    if len(fields) < 8:
        return None
    reads, _, read_sectors, read_ms, writes, _, _, write_ms = (int(field) for field in fields[:8])
    return IoCounts(reads=reads, read_sectors=read_sectors, read_ms=read_ms, writes=writes, write_ms=write_ms)


def machine_memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    fields = _text(Path("/proc/self/statm")).split()
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
