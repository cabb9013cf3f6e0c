"""What a platform tells about a block device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A block device.

    Args:
        size: bytes.
        sector_bytes: logical sector.
        identity: of the disk (serial, WWN, partition UUID, loop backing file), or of the device number
            where it tells none.
        read_only: whether writes are refused.
        mark: changes when somebody writes to it; empty where the system tells nothing.
    """

    size: int
    sector_bytes: int
    identity: str
    read_only: bool
    mark: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IoCounts:
    """What a disk has done since it is there: requests, 512-byte sectors read, milliseconds that requests took."""

    reads: int
    read_sectors: int
    read_ms: int
    writes: int
    write_ms: int
