"""The state of a RAID volume: dm-raid's superblock at the start of each leg's metadata volume.

Format: ``struct dm_raid_superblock`` in ``drivers/md/dm-raid.c``, little-endian. A leg may be read where its superblock
is as new as the newest, no superblock counts it as failed, and its recovery is complete. An array that was never
activated has no superblocks at all: its data are what its legs hold.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blocksync.errors import LayoutDamagedError, VolumeUnsettledError
from blocksync.volumes.reader import Reader, read_bounded

_MAGIC = 0x64526D44
# magic, compatible features, legs, this leg, events, failed legs, recovery, resync, level, layout, stripe
_HEAD = struct.Struct("<IIIIQQQQiii")
assert _HEAD.size == 60
# flags, reshape position, new level, new layout, new stripe, change in legs, array size, data offset, new data offset
_RESHAPE = struct.Struct("<IQiiiiQQQ")
assert _RESHAPE.size == 52
_DONE = (1 << 64) - 1
_RESHAPING = 1
_KNOWS_RESHAPE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leg:
    position: int
    legs: int
    events: int
    failed: int
    recovered: int
    stripe_sectors: int


def readable_legs(metadata: list[Reader | None], stripe_bytes: int | None) -> list[bool]:
    """Which legs hold the array's present data.

    Args:
        metadata: the metadata volume of each leg; None where there is none (RAID 0, or the leg is missing).
        stripe_bytes: to be compared with the superblock's; None for RAID 1.

    Raises:
        VolumeUnsettledError: a reshape is under way, or its traces are left.
        LayoutDamagedError: a superblock contradicts the volume group.
    """
    if not any(metadata):
        return [True] * len(metadata)
    legs = [None if reader is None else _read(reader) for reader in metadata]
    found = [leg for leg in legs if leg is not None]
    if not found:
        return [reader is not None for reader in metadata]
    newest = max(found, key=lambda leg: leg.events)
    readable = []
    for position, leg in enumerate(legs):
        if leg is not None and (leg.position != position or leg.legs != len(legs)):
            raise LayoutDamagedError(f"a RAID superblock says leg {leg.position} of {leg.legs} in place {position}")
        if leg is not None and stripe_bytes is not None and leg.stripe_sectors * 512 != stripe_bytes:
            raise LayoutDamagedError(f"a RAID superblock has stripes of {leg.stripe_sectors} sectors")
        fresh = leg is not None and leg.events == newest.events and leg.recovered == _DONE
        readable.append(fresh and not newest.failed >> position & 1)
    return readable


def _read(reader: Reader) -> _Leg | None:
    raw = read_bounded(reader, 0, _HEAD.size + _RESHAPE.size, "RAID superblock")
    magic, features, legs, position, events, failed, recovered, _, _, _, stripe = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        return None
    if features & _KNOWS_RESHAPE:
        flags, _, _, _, _, change, _, offset, new_offset = _RESHAPE.unpack_from(raw, _HEAD.size)
        if flags & _RESHAPING or change or offset or new_offset:
            raise VolumeUnsettledError("a reshape of the RAID volume is under way, or has left its offsets behind")
    return _Leg(
        position=position,
        legs=legs,
        events=events,
        failed=failed,
        recovered=recovered,
        stripe_sectors=max(stripe, 0),
    )
