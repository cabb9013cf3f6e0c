"""What every filesystem reader of this room gives: what it is, and which bytes it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """What lies in a partition, a logical volume or on a whole disk.

    Args:
        kind: ``ext2``, ``ext3``, ``ext4``, ``xfs``, ``btrfs``, ``ntfs``, ``fat12``, ``fat16``, ``fat32``, ``exfat``,
            ``swap``; also what is no filesystem, but is recognised: ``luks``, ``md`` (a member of a software RAID),
            ``swsuspend`` (a swap area that holds a hibernated system), ``iso9660``, ``squashfs``, ``jbd`` (an
            external journal).
        uuid: as ``blkid`` shows it, empty where the kind has none.
        label: text, empty where there is none.
        size: bytes by its own account; None where it does not say. It may be smaller than what it lies in.
        used: bytes in use by its own account, metadata included; None where it does not say.
        block_bytes: its unit of allocation; 0 where that is not known.
        clean: whether it says that it was cleanly unmounted (or frozen); None where it does not say.
        others: kinds whose signatures were found too: leftovers of an earlier use, or not. What such a place
            really holds is uncertain, so no allocation map is taken from it.
    """

    kind: str
    uuid: str = ""
    label: str = ""
    size: int | None = None
    used: int | None = None
    block_bytes: int = 0
    clean: bool | None = None
    others: tuple[str, ...] = ()


class AllocationMap(Protocol):
    """Which bytes of a filesystem are in use.

    Obligations: :meth:`used` may be called for any range, from one thread at a time, and costs memory only for one of
    the filesystem's own divisions (a group, a leaf), whatever the range; all that has to be read to use the
    filesystem is in the answer, so it may say too much, never too little.
    """

    @property
    def size(self) -> int:
        """Bytes that the map speaks of, from 0; what lies behind is none of the filesystem's."""
        ...

    def mark(self) -> bytes:
        """Bytes that change when the filesystem is mounted, and when something is written to it while it is."""
        ...

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Byte ranges ``(start, end)`` within ``[first, stop)``, in order, without overlap.

        Raises:
            LayoutDamagedError: a checksum or a bound does not hold.
        """
        ...


def clipped(ranges: Iterable[tuple[int, int]], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of sorted ranges that lie within ``[first, stop)``, neighbours joined."""
    held: tuple[int, int] | None = None
    for start, end in ranges:
        low, high = max(start, first), min(end, stop)
        if low >= high:
            continue
        if held is not None and low <= held[1]:
            held = (held[0], max(held[1], high))
            continue
        if held is not None:
            yield held
        held = (low, high)
    if held is not None:
        yield held


def complement(ranges: Iterable[tuple[int, int]], first: int, stop: int) -> Iterator[tuple[int, int]]:
    """What sorted ranges leave of ``[first, stop)``."""
    at = first
    for start, end in ranges:
        if start > at:
            yield at, min(start, stop)
        at = max(at, end)
        if at >= stop:
            return
    if at < stop:
        yield at, stop


def text_of(raw: bytes, encoding: str = "utf-8") -> str:
    """A label: up to its first NUL, without the blanks that fill it up."""
    return raw.decode(encoding, "replace").split("\0", 1)[0].strip()
