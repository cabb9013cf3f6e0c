"""RAID superblocks of a volume's legs."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.volumes.raid_state import readable_legs
from blocksync.volumes.reader import BytesReader
from fuzz.surfaces import Surface

LEG = 112


def run(data: bytes) -> None:
    if not data:
        return
    count = 1 + data[0] % 6
    legs = [
        BytesReader(data[1 + LEG * index : 1 + LEG * (index + 1)].ljust(LEG + 16, b"\0")) for index in range(count)
    ]
    missing = data[0] >> 5
    readers = [None if missing == index + 1 else leg for index, leg in enumerate(legs)]
    readable = readable_legs(list(readers), 65536 if data[0] & 8 else None)
    assert len(readable) == count


def seeds() -> Iterator[bytes]:
    for count in (1, 2, 3):
        legs = [
            struct.pack("<IIIIQQQQiii", 0x64526D44, 1, count, at, 7, 0, (1 << 64) - 1, (1 << 64) - 1, 1, 0, 128)
            for at in range(count)
        ]
        yield bytes([count - 1]) + b"".join(leg.ljust(LEG, b"\0") for leg in legs)


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.volumes.raid_state",), most_bytes=1 + 6 * LEG)
