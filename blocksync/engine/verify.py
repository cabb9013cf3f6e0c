"""Proof that both sides hold the same bytes: both read everything again and compare keyed BLAKE3.

Nothing of the manifests is used. The key is fresh for each verify, so no digest computed earlier can be played back.
The first walk compares large pieces; those that differ are walked again in pages to name what differs.
"""

from __future__ import annotations

import mmap
import secrets
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from blake3 import blake3

from blocksync.engine.cancel import Cancel
from blocksync.errors import BlocksyncError, ProtocolError, SourceError
from blocksync.extents import Extent, align, cover
from blocksync.geometry import PAGE_BYTES
from blocksync.options import Progress, ProgressCallback, VerifyResult
from blocksync.protocol.messages import CONTROL_VERSION, ControlPort, VerifyRequest
from blocksync.sources.base import Source

PIECE_BYTES = 4 << 20
DIGEST_BYTES = 32
MAX_DIFFERING_RANGES = 1000
# Reads of one call, so that a 4 MiB piece is hashed while it is in cache.
_READ_BYTES = 1 << 20


class _Readable(Protocol):
    size: int

    def extents(self) -> Iterator[Extent]: ...

    def read_into(self, offset: int, buffer: memoryview) -> None: ...


def piece_digests(disk: _Readable, offset: int, length: int, piece: int, key: bytes) -> Generator[bytes]:
    """Yield the 32-byte digest of each piece of a range, in order, the last one of what is left.

    Holes are hashed once, whatever their number. Bytes beyond ``offset + length`` are not looked at.
    """
    end = offset + length
    buffer = memoryview(mmap.mmap(-1, _READ_BYTES))
    zero_digests: dict[int, bytes] = {}
    for extent in align(cover(_clipped(disk.extents(), end), end), piece, end):
        at = max(extent.offset, offset)
        while at < extent.end:
            here = min(piece, end - at)
            if extent.reads_as_zeros:
                if here not in zero_digests:
                    zero_digests[here] = _zeros(here, key)
                yield zero_digests[here]
            else:
                yield _digest(disk, at, here, key, buffer)
            at += here


def _clipped(extents: Iterator[Extent], end: int) -> Iterator[Extent]:
    for extent in extents:
        if extent.offset >= end:
            return
        yield Extent(extent.offset, min(extent.end, end) - extent.offset, extent.kind)


def _digest(disk: _Readable, offset: int, length: int, key: bytes, buffer: memoryview) -> bytes:
    hasher = blake3(key=key)
    for at in range(0, length, len(buffer)):
        view = buffer[: min(len(buffer), length - at)]
        disk.read_into(offset + at, view)
        hasher.update(view)
    return hasher.digest()


def _zeros(length: int, key: bytes) -> bytes:
    hasher = blake3(key=key)
    zeros = bytes(min(length, _READ_BYTES))
    for at in range(0, length, len(zeros)):
        hasher.update(zeros[: min(len(zeros), length - at)])
    return hasher.digest()


class Verifier:
    """Compares a source with a slot.

    Args:
        source: open.
        control: the receiver.
        slot: its name; empty for the only one granted.
        progress: optional.
        cancel: stops it.
    """

    def __init__(
        self, source: Source, control: ControlPort, slot: str, progress: ProgressCallback | None, cancel: Cancel
    ) -> None:
        self._source = source
        self._control = control
        self._slot = slot
        self._progress = progress
        self._cancel = cancel
        self._key = secrets.token_bytes(32)
        self._began = time.monotonic()

    def run(self) -> VerifyResult:
        """Read both sides whole.

        Raises:
            SourceError: the source changed its size meanwhile, or could not be read.
            InterruptedTransferError: cancelled.
            BlocksyncError: of the receiver's.
        """
        try:
            with self._cancel.watching(self._control.abort):
                return self._run()
        except BlocksyncError as error:
            self._cancel.check(error)
            raise

    def _run(self) -> VerifyResult:
        size = self._source.size
        different: list[tuple[int, int]] = []
        differing_bytes = 0
        for offset, length in self._compare(0, size, PIECE_BYTES, report=True):
            for page_offset, page_length in self._compare(offset, length, PAGE_BYTES, report=False):
                differing_bytes += page_length
                if different and sum(different[-1]) == page_offset:
                    different[-1] = (different[-1][0], different[-1][1] + page_length)
                elif len(different) < MAX_DIFFERING_RANGES:
                    different.append((page_offset, page_length))
        self._source.check()
        return VerifyResult(
            slot=self._slot,
            identical=differing_bytes == 0,
            size=size,
            seconds=time.monotonic() - self._began,
            differing=tuple(different),
            differing_bytes=differing_bytes,
        )

    def _compare(self, offset: int, length: int, piece: int, *, report: bool) -> list[tuple[int, int]]:
        answer, theirs = self._control.verify(
            VerifyRequest(
                version=CONTROL_VERSION,
                slot=self._slot,
                size=self._source.size,
                offset=offset,
                length=length,
                piece_bytes=piece,
                key=self._key,
            )
        )
        self._slot = answer.slot
        reader = _exactly(theirs)
        at = offset
        different: list[tuple[int, int]] = []
        for ours in piece_digests(self._source, offset, length, piece, self._key):
            self._cancel.check()
            here = min(piece, offset + length - at)
            if reader(DIGEST_BYTES) != ours:
                if different and sum(different[-1]) == at:
                    different[-1] = (different[-1][0], different[-1][1] + here)
                else:
                    different.append((at, here))
            at += here
            if report:
                self._tell(at)
        if at != offset + length:
            raise SourceError("the source shrank while it was read")
        return different

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(
                Progress(
                    stage="verifying",
                    slot=self._slot,
                    size=self._source.size,
                    done=done,
                    read=done,
                    seconds=time.monotonic() - self._began,
                )
            )


def _exactly(parts: Iterator[bytes]) -> Callable[[int], bytes]:
    held = bytearray()

    def read(count: int) -> bytes:
        while len(held) < count:
            part = next(parts, None)
            if part is None:
                raise ProtocolError("the receiver's digests end early")
            held.extend(part)
        taken = bytes(held[:count])
        del held[:count]
        return taken

    return read
