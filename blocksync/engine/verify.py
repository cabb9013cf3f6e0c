"""Proof that both sides hold the same bytes: both read everything again and compare keyed BLAKE3.

Nothing of the manifests is used. The key is fresh for each verify, so no digest computed earlier can be played back.
The first walk compares large pieces; those that differ are walked again in pages to name what differs.
"""

from __future__ import annotations

import mmap
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from blocksync.engine.allocation import allocated
from blocksync.engine.cancel import Cancel
from blocksync.engine.windows import Marks, Window, windows
from blocksync.errors import BlocksyncError, ProtocolError, SourceError
from blocksync.extents import Extent, ExtentKind, align, cover
from blocksync.geometry import PAGE_BYTES
from blocksync.options import ProgressCallback
from blocksync.protocol.messages import CONTROL_VERSION, ControlPort, VerifyRequest
from blocksync.results import Progress, VerifyResult
from blocksync.sources.base import Source

if TYPE_CHECKING:
    # The receiver's part of the engine: a sender need not load it.
    from blocksync.control.service import Peer
    from blocksync.engine.slot import Slot

PIECE_BYTES = 4 << 20
DIGEST_BYTES = 32
MAX_DIFFERING_RANGES = 1000
# Reads of one call, so that a 4 MiB piece is hashed while it is in cache.
_READ_BYTES = 1 << 20


class _Readable(Protocol):
    size: int

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]: ...

    def read_into(self, offset: int, buffer: memoryview) -> None: ...


def piece_digests(
    disk: _Readable, offset: int, length: int, piece: int, key: bytes, skip: bytes = b""
) -> Generator[bytes]:
    """Yield the 32-byte digest of each piece of a range, in order, the last one of what is left.

    Holes are hashed once, whatever their number. Bytes beyond ``offset + length`` are not looked at.

    Args:
        skip: marks of pages from ``offset`` on that are not read, and hashed as zeros.

    Raises:
        ProtocolError: there are more marks than pages.
    """
    marks = Marks(skip, length)
    buffer = memoryview(mmap.mmap(-1, _READ_BYTES))
    zero_digests: dict[int, bytes] = {}
    # Counted from the range's start; what a map calls unused is read all the same, unless it is marked.
    within = (
        Extent(extent.offset - offset, extent.length, extent.kind)
        for extent in disk.extents_within(offset, offset + length)
        if extent.kind is not ExtentKind.UNUSED
    )
    for extent in align(cover(within, length), piece, length):
        for at in range(extent.offset, extent.end, piece):
            here = min(piece, length - at)
            if extent.reads_as_zeros or marks.all(at, here):
                if here not in zero_digests:
                    zero_digests[here] = _zeros(here, key)
                yield zero_digests[here]
            else:
                yield _digest(disk, offset, range(at, at + here), key, buffer, marks)


def _digest(disk: _Readable, base: int, span: range, key: bytes, buffer: memoryview, marks: Marks) -> bytes:
    hasher = blake3(key=key)
    for at in range(span.start, span.stop, len(buffer)):
        view = buffer[: min(len(buffer), span.stop - at)]
        filled = 0
        for start, end in marks.wanted(at, len(view)):
            view[filled:start] = bytes(start - filled)
            disk.read_into(base + at + start, view[start:end])
            filled = end
        view[filled:] = bytes(len(view) - filled)
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
        all_blocks: compare also what no file uses.
        exclude: patterns of files that the passes left out.
    """

    def __init__(
        self,
        source: Source,
        control: ControlPort,
        slot: str,
        progress: ProgressCallback | None,
        cancel: Cancel,
        *,
        all_blocks: bool = False,
        exclude: Sequence[str] = (),
    ) -> None:
        view = allocated(source, all_blocks=all_blocks, exclude=exclude)
        self._source, self._notes = view.source, view.notes
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
        unused = 0
        for window in windows(self._source.extents(), size):
            unused += window.skipped
            for offset, length in self._differing(window):
                differing_bytes += length
                if different and sum(different[-1]) == offset:
                    different[-1] = (different[-1][0], different[-1][1] + length)
                elif len(different) < MAX_DIFFERING_RANGES:
                    different.append((offset, length))
        self._source.check()
        return VerifyResult(
            slot=self._slot,
            identical=differing_bytes == 0,
            size=size,
            seconds=time.monotonic() - self._began,
            differing=tuple(different),
            differing_bytes=differing_bytes,
            unused=unused,
            notes=self._notes,
        )

    def _differing(self, window: Window) -> Iterator[tuple[int, int]]:
        """Ranges of pages that differ."""
        if window.skipped >= window.length:
            self._tell(window.offset + window.length)
            return
        for offset, length in self._compare(window, PIECE_BYTES, report=True):
            yield from self._compare(window.part(offset, length), PAGE_BYTES, report=False)

    def _compare(self, window: Window, piece: int, *, report: bool) -> list[tuple[int, int]]:
        offset, length = window.offset, window.length
        answer, theirs = self._control.verify(
            VerifyRequest(
                version=CONTROL_VERSION,
                slot=self._slot,
                size=self._source.size,
                offset=offset,
                length=length,
                piece_bytes=piece,
                key=self._key,
                skip=window.skip,
            )
        )
        self._slot = answer.slot
        reader = _exactly(theirs)
        at = offset
        different: list[tuple[int, int]] = []
        for ours in piece_digests(self._source, offset, length, piece, self._key, window.skip):
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


class Verification(Iterator[bytes]):
    """The digests of a verify; the slot counts as being verified until the last of them, or until it is closed.

    A generator would not do: one that was never begun does not run its ``finally`` when it is closed.
    """

    def __init__(self, parts: Generator[bytes], slot: Slot, peer: Peer) -> None:
        self._parts = parts
        self._slot: Slot | None = slot
        self._peer = peer

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._parts.close()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.end_verify(self._peer)
