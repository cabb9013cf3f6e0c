"""Whether an XFS log has to be replayed before the filesystem is what its blocks say.

After ``fs/xfs/xfs_log_recover.c``; records are big-endian, items in the byte order of the machine that wrote them. Each
sector of 512 bytes begins with the number of the log's round, so the head is where that number drops. A log that ends
with an unmount record is clean. One that was frozen, as a snapshot freezes it, ends with a few transactions
that write the superblock alone: replaying those allocates nothing, so the trees on disk are right already. Anything
else, and anything that is not understood, counts as dirty.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.errors import LayoutDamagedError
from blocksync.volumes.filesystems.xfs import Groups
from blocksync.volumes.reader import read_bounded

_SECTOR = 512
_MAGIC = 0xFEEDBABE
_CYCLE_WORDS = 64
_HEADER_COVERS = _CYCLE_WORDS * _SECTOR
_VERSION_2 = 2
_MOST_RECORD_SECTORS = (256 << 10) // _SECTOR + 8
_MOST_FROZEN_SECTORS = 256  # quiescing writes a handful of sectors
_START, _COMMIT, _CONTINUES, _CONTINUED, _UNMOUNT = 0x01, 0x02, 0x04, 0x08, 0x20
_TRANSACTION = 0x5452414E
_BUFFER_ITEM = 0x123C

_DIRTY = "its log waits to be replayed"


def log_state(groups: Groups) -> str:
    """Empty for a clean or frozen log, else why it is not."""
    said = groups.super
    if not said.log_start:
        return "its log lies on another device"
    return "" if _open(groups).settled() else _DIRTY


def log_end(groups: Groups) -> bytes:
    """Where the log ends, and its last record: every transaction changes that."""
    return _open(groups).end()


def _open(groups: Groups) -> _Log:
    said = groups.super
    length = said.log_blocks * said.block_bytes // _SECTOR
    start = groups.linear(said.log_start) * said.block_bytes
    if length < 2 * _MOST_RECORD_SECTORS or said.log_blocks > said.group_blocks:
        raise LayoutDamagedError(f"XFS: a log of {said.log_blocks} blocks")
    return _Log(groups, start, length)


class _Log:
    def __init__(self, groups: Groups, start: int, length: int) -> None:
        self._reader = groups.reader
        self._start = start
        self._length = length

    def _sectors(self, first: int, count: int) -> bytes:
        """Sectors from ``first`` on, around the end of the log where need be."""
        first %= self._length
        straight = min(count, self._length - first)
        raw = read_bounded(self._reader, self._start + first * _SECTOR, straight * _SECTOR, "XFS log")
        return raw if straight == count else raw + self._sectors(0, count - straight)

    def _cycle(self, sector: int) -> int:
        word, following = struct.unpack_from(">II", self._sectors(sector, 1))
        return int(following if word == _MAGIC else word)

    def _head(self) -> int | None:
        """The first sector of the earlier round; None where the rounds are not as a settled log has them."""
        first, last = self._cycle(0), self._cycle(self._length - 1)
        if not first or last not in (first, first - 1):
            return None
        if last == first:
            return 0
        low, high = 0, self._length - 1  # low is of this round, high of the one before
        while high - low > 1:
            middle = (low + high) // 2
            cycle = self._cycle(middle)
            if cycle == first:
                low = middle
            elif cycle == last:
                high = middle
            else:
                return None
        return high

    def end(self) -> bytes:
        head = self._head()
        return b"" if head is None else struct.pack(">Q", head) + self._sectors(head - 1, 1)

    def settled(self) -> bool:
        head = self._head()
        if head is None:
            return False
        at = next((sector for sector in range(1, _MOST_RECORD_SECTORS) if self._is_record(head - sector)), None)
        if at is None:
            return False
        record = self._sectors(head - at, 1)
        headers, sectors = _extent(record)
        if headers + sectors != at:
            return False
        (operations,) = struct.unpack_from(">I", record, 40)
        if operations == 1 and self._sectors(head - at + headers, 1)[9] & _UNMOUNT:
            return True
        return self._frozen(struct.unpack_from(">Q", record, 24)[0] & 0xFFFFFFFF, head)

    def _is_record(self, sector: int) -> bool:
        return self._sectors(sector, 1)[:4] == struct.pack(">I", _MAGIC)

    def _frozen(self, tail: int, head: int) -> bool:
        """Whether everything from the tail on writes the superblock and nothing else."""
        left = (head - tail) % self._length
        if left > _MOST_FROZEN_SECTORS:
            return False
        while left > 0:
            record = self._sectors(tail, 1)
            if struct.unpack_from(">I", record)[0] != _MAGIC:
                return False
            headers, sectors = _extent(record)
            if headers + sectors > left or not self._harmless(tail, headers, sectors):
                return False
            tail += headers + sectors
            left -= headers + sectors
        return left == 0

    def _harmless(self, at: int, headers: int, sectors: int) -> bool:
        words = b""
        for index in range(headers):
            begin = 44 if index == 0 else 4
            words += self._sectors(at + index, 1)[begin : begin + 4 * _CYCLE_WORDS]
        (length,) = struct.unpack_from(">I", self._sectors(at, 1), 12)
        (operations,) = struct.unpack_from(">I", self._sectors(at, 1), 40)
        data = bytearray(self._sectors(at + headers, sectors))
        for index in range(sectors):
            data[index * _SECTOR : index * _SECTOR + 4] = words[4 * index : 4 * index + 4]
        regions = 0  # of the present item that are still to come
        for flags, payload in _operations(bytes(data[:length]), operations):
            if flags is None or flags & (_CONTINUES | _CONTINUED):
                return False
            if not payload or flags & (_START | _COMMIT):
                regions = 0
            elif regions:
                regions -= 1
            elif len(payload) == 16 and struct.unpack_from("<I", payload)[0] in (_TRANSACTION, 0x4E415254):
                continue
            else:
                if len(payload) < 16:
                    return False
                order = "<" if struct.unpack_from("<H", payload)[0] == _BUFFER_ITEM else ">"
                kind, count, _, _, block = struct.unpack_from(f"{order}HHHHq", payload)
                if kind != _BUFFER_ITEM or block != 0 or not count:
                    return False
                regions = count - 1
        return True


def _operations(data: bytes, count: int) -> Iterator[tuple[int | None, bytes]]:
    """``(flags, payload)`` of each operation; no flags where they do not hold together. What follows is padding."""
    at = 0
    for _ in range(count):
        if at + 12 > len(data):
            yield None, b""
            return
        _, length, _, flags = struct.unpack_from(">IIBB", data, at)
        if at + 12 + length > len(data):
            yield None, b""
            return
        yield flags, data[at + 12 : at + 12 + length]
        at += 12 + length


def _extent(record: bytes) -> tuple[int, int]:
    """Sectors of a record's headers, and of its data."""
    version, length = struct.unpack_from(">II", record, 8)
    (size,) = struct.unpack_from(">I", record, 320)
    headers = max(1, -(-min(size, 1 << 20) // _HEADER_COVERS)) if version & _VERSION_2 else 1
    return headers, -(-min(length, 1 << 20) // _SECTOR)
