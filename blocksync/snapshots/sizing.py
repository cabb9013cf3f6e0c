"""How large a classic snapshot is made. Pure.

A snapshot that is too small breaks the pass; one that is larger than its origin with its tables wastes space.
What is written while it stands is the measured rate times the time that reading takes, doubled, and never less
than a part of the origin: rates are measured over seconds, and nightly jobs run for minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Reading, with the network behind it, at a gigabit's pace; and nobody is done within less than two minutes.
ASSUMED_BYTES_A_SECOND = 100_000_000
LEAST_SECONDS = 120.0
SAFETY = 2.0
LEAST_SHARE = 0.10
LEAST_BYTES = 64 << 20
# Entries of 16 bytes a chunk of 4 KiB, the header and rounding to extents.
TABLE_SHARE = 1 / 256
TABLE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of a volume.

    Args:
        size: bytes.
        written_a_second: bytes a second, measured.
    """

    size: int
    written_a_second: float


def most_useful(size: int) -> int:
    """Bytes beyond which a snapshot of a volume of this size cannot grow."""
    return size + int(size * TABLE_SHARE) + TABLE_BYTES


def wanted(origin: Origin) -> int:
    """Bytes that a snapshot should have."""
    seconds = max(origin.size / ASSUMED_BYTES_A_SECOND, LEAST_SECONDS)
    changes = int(origin.written_a_second * seconds * SAFETY)
    share = int(origin.size * LEAST_SHARE)
    return min(max(changes, share, LEAST_BYTES), most_useful(origin.size))


def divide(origins: Sequence[Origin], free: int, unit: int) -> list[int] | None:
    """The size of each snapshot of a group, from the free space they share.

    Args:
        origins: of one volume group.
        free: bytes.
        unit: extent size in bytes; sizes are multiples of it.

    Returns:
        None where not even the least useful sizes fit. What is left over beyond the wishes stays free: others may
        need it.
    """
    wishes = [_up(wanted(origin), unit) for origin in origins]
    if sum(wishes) <= free:
        return wishes
    least = [_up(min(LEAST_BYTES, most_useful(origin.size)), unit) for origin in origins]
    rest = free - sum(least)
    if rest < 0:
        return None
    above = [wish - low for wish, low in zip(wishes, least, strict=True)]
    total = sum(above)
    return [low + (rest * more // total) // unit * unit for low, more in zip(least, above, strict=True)]


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
