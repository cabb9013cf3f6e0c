"""A target in memory with a volatile cache: what was not synced is gone after :meth:`MemoryTarget.crash`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from blocksync.errors import TargetError
from blocksync.extents import Extent, ExtentKind, align
from blocksync.targets.base import Target, TargetCapabilities

PIECE_BYTES = 4096


class MemoryTarget(Target):
    """Sparse; pieces of 4 KiB. Thread-safe.

    Args:
        size: bytes.
        name: also its identity.
    """

    def __init__(self, size: int, name: str = "memory") -> None:
        self.name = name
        self.identity = f"memory:{name}"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = TargetCapabilities(alignment=1, fresh=True, extents=True, durable=False)
        self._lock = threading.Lock()
        self._durable: dict[int, bytes] = {}
        self._cached: dict[int, bytes | None] = {}

    def extents(self) -> Iterator[Extent]:
        with self._lock:
            pieces = sorted({*self._durable, *self._cached})
        written = (Extent(index * PIECE_BYTES, PIECE_BYTES, ExtentKind.DATA) for index in pieces)
        return align(written, PIECE_BYTES, self.size)

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        for extent in self.extents():
            start, end = max(extent.offset, first), min(extent.end, stop)
            if start < end:
                yield Extent(start, end - start, extent.kind)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        at = 0
        with self._lock:
            while at < len(buffer):
                index, start = divmod(offset + at, PIECE_BYTES)
                here = min(PIECE_BYTES - start, len(buffer) - at)
                buffer[at : at + here] = self._piece(index)[start : start + here]
                at += here

    def write(self, offset: int, data: memoryview) -> None:
        self._check(offset, len(data))
        at = 0
        with self._lock:
            while at < len(data):
                index, start = divmod(offset + at, PIECE_BYTES)
                here = min(PIECE_BYTES - start, len(data) - at)
                piece = bytearray(self._piece(index))
                piece[start : start + here] = data[at : at + here]
                self._cached[index] = bytes(piece)
                at += here

    def zero(self, offset: int, length: int) -> None:
        self._check(offset, length)
        end = offset + length
        first, last = -(-offset // PIECE_BYTES), end // PIECE_BYTES
        if last <= first:
            self.write(offset, memoryview(bytes(length)))
            return
        self.write(offset, memoryview(bytes(first * PIECE_BYTES - offset)))
        self.write(last * PIECE_BYTES, memoryview(bytes(end - last * PIECE_BYTES)))
        with self._lock:
            for index in [index for index in (*self._durable, *self._cached) if first <= index < last]:
                self._cached[index] = None

    def sync(self) -> None:
        with self._lock:
            for index, piece in self._cached.items():
                if piece is None:
                    self._durable.pop(index, None)
                else:
                    self._durable[index] = piece
            self._cached.clear()

    def crash(self) -> None:
        """Lose what was not synced."""
        with self._lock:
            self._cached.clear()

    def reopen(self) -> None:
        self.crash()

    def write_mark(self) -> str:
        return ""

    def close(self) -> None:
        pass

    def _piece(self, index: int) -> bytes:
        piece = self._cached[index] if index in self._cached else self._durable.get(index)
        return bytes(PIECE_BYTES) if piece is None else piece

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise TargetError(f"[{offset}, {offset + length}) leaves the target {self.name}")
