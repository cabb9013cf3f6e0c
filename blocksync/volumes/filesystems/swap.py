"""Swap areas: the header page alone is ever read again, unless a hibernated system lies behind it.

Format after ``union swap_header`` in ``include/linux/swap.h``: the last ten bytes of the first page are the signature;
version, last page, bad pages, UUID and label from byte 1024 on, in the machine's byte order. The page is the
machine's that made it: 4, 8, 16 or 64 KiB.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.filesystems.base import Filesystem, clipped, text_of
from blocksync.volumes.reader import Reader

_PAGES = (4096, 8192, 16384, 65536)
_SIGNATURE = b"SWAPSPACE2"
_HIBERNATED = (
    b"S1SUSPEND\0",
    b"S2SUSPEND\0",
    b"ULSUSPEND\0",
    b"LINHIB0001",
    b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c\0\0",
)


def probe(reader: Reader) -> Filesystem | None:
    for page in _PAGES:
        if reader.size < page:
            return None
        signature = reader.pread(page - 10, 10)
        if signature in _HIBERNATED:
            return Filesystem(kind="swsuspend", size=reader.size, clean=False)
        if signature != _SIGNATURE:
            continue
        raw = reader.pread(1024, 44)
        for order in "<>":
            version, last = struct.unpack_from(f"{order}II", raw)
            if version == 1:
                return Filesystem(
                    kind="swap",
                    uuid=str(uuid.UUID(bytes=raw[12:28])),
                    label=text_of(raw[28:44]),
                    size=min((last + 1) * page, reader.size),
                    used=page,
                    block_bytes=page,
                    clean=True,
                )
    return None


class SwapMap:
    """The header page; nothing else outlives a swapoff."""

    def __init__(self, reader: Reader) -> None:
        said = probe(reader)
        if said is None or said.kind != "swap" or said.size is None:
            raise LayoutDamagedError("there is no swap header")
        self._reader = reader
        self._page = said.block_bytes
        self.size = said.size

    def mark(self) -> bytes:
        return self._reader.pread(0, self._page)

    def used(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        return clipped([(0, self._page)], first, stop)
