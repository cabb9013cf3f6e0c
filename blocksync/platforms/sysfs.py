"""Linux: what block devices stand on and who uses them, as sysfs and /proc tell it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from blocksync.platforms.facts import IoCounts
from blocksync.platforms.loops import Backing, backing_of

_SYS_BLOCK = Path("/sys/dev/block")


def sys_path(number: int) -> Path:
    return _SYS_BLOCK / f"{os.major(number)}:{os.minor(number)}"


def text_of(path: Path) -> str:
    try:
        # Names are of any bytes: one that were changed here would not be found again.
        return path.read_text(errors="surrogateescape").strip()
    except OSError:
        return ""


def number_of(sys_path: Path) -> int:
    major, _, minor = text_of(sys_path / "dev").partition(":")
    return os.makedev(int(major), int(minor)) if minor else 0


def _family(number: int) -> set[int]:
    """The device, its partitions, and what is stacked on any of them."""
    found: set[int] = set()
    waiting = [number]
    while waiting:
        each = waiting.pop()
        if each in found or not each:
            continue
        found.add(each)
        at = sys_path(each).resolve()
        if not at.is_dir():
            continue
        waiting.extend(number_of(entry) for entry in at.iterdir() if (entry / "partition").exists())
        holders = at / "holders"
        if holders.is_dir():
            waiting.extend(number_of(holder.resolve()) for holder in holders.iterdir())
    return found


def _unescaped(path: str) -> str:
    """A path as the kernel lists it: spaces, tabs, newlines and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def mounts_of(number: int) -> list[str]:
    """Mount points of a device, of its partitions and of what is stacked on them."""
    family = {f"{os.major(each)}:{os.minor(each)}" for each in _family(number)}
    found = []
    for line in text_of(Path("/proc/self/mountinfo")).splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[2] in family:
            found.append(_unescaped(fields[4]))
    return found


def swaps() -> Iterator[os.stat_result]:
    """The devices and files that are swapped to."""
    for line in text_of(Path("/proc/swaps")).splitlines()[1:]:
        try:
            yield os.stat(_unescaped(line.split()[0]))
        except OSError:
            continue


def users_of_device(number: int) -> list[str]:
    """What the kernel stacks on a device or its partitions: LVM, MD, device-mapper, bcache."""
    found: list[str] = []
    for each in sorted(_family(number)):
        holders = sys_path(each).resolve() / "holders"
        if holders.is_dir():
            found.extend(entry.name for entry in holders.iterdir())
    return found


def loops_over(status: os.stat_result) -> list[tuple[str, int]]:
    """``(name, device number)`` of the loop devices that have this file or device as their backing file."""
    found = []
    for entry in Path("/sys/block").glob("loop*"):
        other = backing_of(entry, f"/dev/{entry.name}")
        if other is None:
            continue
        same_file = (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
        if same_file or (status.st_rdev and other.st_rdev == status.st_rdev):
            found.append((f"/dev/{entry.name}", number_of(entry)))
    return found


def _directly_below(number: int) -> list[int]:
    """The device numbers of a partition's disk, and of what a mapping is made of."""
    at = sys_path(number).resolve()
    found = [number_of(at.parent)] if (at / "partition").exists() else []
    slaves = at / "slaves"
    if slaves.is_dir():
        found.extend(number_of(slave.resolve()) for slave in slaves.iterdir())
    return found


def _backing(number: int) -> Backing | None:
    """The file or device below a loop device."""
    at = sys_path(number)
    return backing_of(at, f"/dev/{at.resolve().name}")


def below(number: int) -> set[int]:
    """The device numbers that a device stands on: its whole disk, its slaves, the filesystem of its backing file."""
    found: set[int] = set()
    waiting = [number]
    while waiting:
        each = waiting.pop()
        if each in found or not each:
            continue
        found.add(each)
        waiting.extend(_directly_below(each))
        backing = _backing(each)
        if backing is not None:
            waiting.extend((backing.st_dev, backing.st_rdev))
    return found


def disk_of(path: str) -> int | None:
    """The number of the whole disk that a device is, or that a file lies on; None where the system tells none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    number = status.st_rdev or status.st_dev
    at = sys_path(number).resolve()
    if (at / "partition").exists():
        number = number_of(at.parent)
    return number if sys_path(number).exists() else None


def io_counts(number: int) -> IoCounts | None:
    """A disk's counters (Documentation/block/stat.rst); None where there are none."""
    fields = text_of(sys_path(number) / "stat").split()
    if len(fields) < 8:
        return None
    reads, _, read_sectors, read_ms, writes, _, _, write_ms = (int(field) for field in fields[:8])
    return IoCounts(reads=reads, read_sectors=read_sectors, read_ms=read_ms, writes=writes, write_ms=write_ms)


def same_storage(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether one of two files or devices is the other, or stands on it: as a partition, a mapping, a loop device.

    Two partitions of one disk are two; so are a disk and a file on a filesystem of that disk.
    """
    return bool(_itself(one) & _layers(other) or _itself(other) & _layers(one))


def storage(status: os.stat_result) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Numbers of a file or device itself, and of all that it stands on, itself among them."""
    return _itself(status), _layers(status)


def boot_key() -> bytes:
    """What only processes on this kernel know until it boots again; empty where it does not tell."""
    return text_of(Path("/proc/sys/kernel/random/boot_id")).encode()[:64]


def _itself(status: os.stat_result | Backing) -> set[tuple[int, int]]:
    """A device by its number, a file by its filesystem and inode; of a loop device its backing file too."""
    if not status.st_rdev:
        return {(status.st_dev, status.st_ino)}
    backing = _backing(status.st_rdev)
    return {(0, status.st_rdev)} | (set() if backing is None else _itself(backing))


def _layers(status: os.stat_result) -> set[tuple[int, int]]:
    """A file or device and all that it stands on, short of the filesystem that a file lies on."""
    found: set[tuple[int, int]] = set()
    waiting = _itself(status)
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        found.add(each)
        filesystem, number = each
        if filesystem or not number:
            continue
        waiting |= {(0, lower) for lower in _directly_below(number)}
        backing = _backing(number)
        if backing is not None:
            waiting |= _itself(backing)
    return found
