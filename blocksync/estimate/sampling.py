"""Samples of a source: what it holds, how well that shrinks, and how fast it is read.

Stratified: the bytes that must be read are divided into equal parts, and one piece is taken at a random place of
each. So the shares are those of the disk, their error can be told from how neighbours differ, and when time runs
out before all are read, those that were read are still spread evenly, since they are taken in a scattered order.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from blocksync.codec import Packer
from blocksync.engine.cancel import Cancel
from blocksync.engine.verify import PIECE_BYTES as VERIFIED_BYTES
from blocksync.errors import BlocksyncError
from blocksync.extents import Extent, ExtentKind, align, cover
from blocksync.geometry import PAGE_BYTES
from blocksync.kernels import is_zero
from blocksync.platforms import lower_io_priority
from blocksync.sources.base import Source

LEAST_PIECES = 200
# Many short pieces tell the shares far better than few long ones: content comes in runs.
MOST_PIECES = 2000
MOST_SHARE = 0.02
# Half of what may be read goes to pieces, half to whole chunks: these shrink better than pieces, as in a pass.
PIECES_SHARE = 0.01
MOST_CHUNKS = 32
MOST_SECONDS = 60.0
PIECE_BYTES = 64 << 10
CHUNK_BYTES = 1 << 20
# Zeros are found by the block; a piece is made of whole ones where it is large enough.
BLOCK_BYTES = 64 << 10
# Kept in memory for the rehearsal and for measuring levels.
KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One sampled extent.

    Args:
        zero: bytes of it in blocks that are zero.
        incompressible: bytes of it that are not worth packing.
        content: where it was kept.
    """

    offset: int
    length: int
    zero: int
    incompressible: int
    content: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The source's bytes by what is known of them without reading.

    Args:
        data: that a pass reads: whole blocks, of which some may be stored in part only.
        stored: of these, what is really there.
        compared: that a verify digests at both ends: whole pieces, as it walks them.
    """

    size: int
    data: int
    holes: int
    unused: int
    stored: int
    compared: int


@dataclass(slots=True)
class Sample:
    """What was read, in the order of the disk; ``chunks`` are whole ones around some pieces that shrink.

    ``read_rate`` is that of as many threads as a pass has, ``alone_rate`` that of one, which reads whole chunks.
    """

    picture: Picture
    pieces: list[Piece] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    read_rate: float = 0.0
    alone_rate: float = 0.0
    seconds: float = 0.0

    @property
    def sampled(self) -> int:
        return sum(piece.length for piece in self.pieces)

    def share(self, of: Callable[[Piece], int]) -> float:
        """Of the bytes that must be read."""
        return sum(map(of, self.pieces)) / self.sampled if self.pieces else 0.0


def picture_of(source: Source) -> Picture:
    """Add up the source's extents, as a pass and a verify see them."""
    stored = 0

    def counted() -> Iterator[Extent]:
        nonlocal stored
        for extent in cover(source.extents(), source.size):
            stored += extent.length if extent.kind is ExtentKind.DATA else 0
            yield extent

    totals = dict.fromkeys(ExtentKind, 0)
    compared = walked = 0
    for extent in align(counted(), BLOCK_BYTES, source.size):
        totals[extent.kind] += extent.length
        if extent.kind is ExtentKind.DATA:
            first = max(walked, extent.offset // VERIFIED_BYTES * VERIFIED_BYTES)
            walked = min(-(-extent.end // VERIFIED_BYTES) * VERIFIED_BYTES, source.size)
            compared += walked - first
    data, unused = totals[ExtentKind.DATA], totals[ExtentKind.UNUSED]
    return Picture(
        size=source.size,
        data=data,
        holes=source.size - data - unused,
        unused=unused,
        stored=stored,
        compared=compared,
    )


def blocks_of(source: Source) -> Iterator[Extent]:
    """The source's extents in whole blocks, as a pass reads them."""
    return align(cover(source.extents(), source.size), BLOCK_BYTES, source.size)


def piece_length(data: int) -> tuple[int, int]:
    """``(pieces, bytes of each)``: at least 200, at most 1 % of what must be read, none longer than a block.

    Pages where the disk is small: a share is known by the number of places, not by the bytes that are read there.
    """
    share = int(data * PIECES_SHARE)
    pieces = min(max(LEAST_PIECES, share // PAGE_BYTES), MOST_PIECES)
    length = max(min(share // pieces, PIECE_BYTES) // PAGE_BYTES * PAGE_BYTES, PAGE_BYTES)
    return max(1, min(pieces, data // length)), length


def places(extents: Iterator[Extent], data: int, chance: random.Random) -> list[tuple[int, int]]:
    """``(offset, length)`` of the pieces, one in each equal part of the data, in the order of the disk.

    Args:
        extents: covering the disk.
        data: bytes of the data extents in it.
        chance: chooses within each part.
    """
    pieces, length = piece_length(data)
    unit = BLOCK_BYTES if length == BLOCK_BYTES else PAGE_BYTES
    stratum = data / pieces
    chosen = [int(stratum * index + chance.random() * max(stratum - length, 0)) for index in range(pieces)]
    found: list[tuple[int, int]] = []
    before = 0
    at = 0
    for extent in extents:
        if extent.kind is not ExtentKind.DATA:
            continue
        while at < pieces and chosen[at] < before + extent.length:
            start = (extent.offset + chosen[at] - before) // unit * unit
            # At an extent's end a piece reaches back rather than into a hole.
            start = max(min(start, extent.end - length), extent.offset)
            here = min(length, extent.end - start)
            if not found or start >= sum(found[-1]):
                found.append((start, here))
            at += 1
        before += extent.length
    return found


class Sampler:
    """Reads the pieces with as many threads as a pass has.

    Args:
        source: open.
        threads: that read.
        cancel: stops it.
        chance: chooses the places.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        threads: int,
        cancel: Cancel,
        chance: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._threads = threads
        self._cancel = cancel
        self._chance = chance
        self._clock = clock
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._read_seconds = 0.0
        self._kept = 0
        self._error: BlocksyncError | None = None

    def run(self) -> Sample:
        """Take the samples.

        Raises:
            SourceError: a read failed.
            InterruptedTransferError: cancelled.
        """
        picture = picture_of(self._source)
        sample = Sample(picture)
        if not picture.data:
            return sample
        began = self._clock()
        waiting = places(blocks_of(self._source), picture.data, self._chance)
        self._chance.shuffle(waiting)
        keep_every = max(1, -(-sum(length for _, length in waiting) // KEPT_BYTES))
        deadline = began + MOST_SECONDS
        work = enumerate(waiting)
        threads = [
            threading.Thread(target=self._work, args=(work, keep_every, deadline), name="sample", daemon=True)
            for _ in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._cancel.check()
        if self._error is not None:
            raise self._error
        sample.pieces = sorted(self._pieces, key=lambda piece: piece.offset)
        sample.seconds = self._clock() - began
        sample.read_rate = sample.sampled / max(self._read_seconds / self._threads, 1e-6)
        # A pass reads whole chunks: where there are some, the faster rate is the truer one.
        sample.chunks, rate = self._chunks(sample)
        sample.alone_rate = rate or sample.read_rate / self._threads
        sample.read_rate = max(sample.read_rate, rate)
        return sample

    def _chunks(self, sample: Sample) -> tuple[list[bytes], float]:
        """Whole chunks around pieces that shrink, from what is left of the 2 %; and the rate of reading them."""
        room = int(sample.picture.data * MOST_SHARE) - sample.sampled
        packed = [piece for piece in sample.pieces if piece.zero + piece.incompressible < piece.length]
        packed = packed or sample.pieces
        if self._source.size < CHUNK_BYTES:
            return [], 0.0
        count = min(room // CHUNK_BYTES, len(packed), MOST_CHUNKS)
        starts = {
            min(piece.offset // CHUNK_BYTES * CHUNK_BYTES, self._source.size - CHUNK_BYTES)
            for piece in self._chance.sample(packed, max(count, 0))
        }
        chunks = []
        seconds = 0.0
        for start in sorted(starts):
            self._cancel.check()
            view = aligned(CHUNK_BYTES)
            before = time.perf_counter()
            self._source.read_into(start, view)
            seconds += time.perf_counter() - before
            chunks.append(bytes(view))
        return chunks, len(chunks) * CHUNK_BYTES / max(seconds, 1e-6)

    def _work(self, work: Iterator[tuple[int, tuple[int, int]]], keep_every: int, deadline: float) -> None:
        # Only this thread, which ends with the sampling, goes behind everybody else at the disk.
        lower_io_priority()
        packer = Packer()
        try:
            while not self._cancel.is_set() and self._error is None:
                with self._lock:
                    taken = next(work, None)
                if taken is None or self._clock() > deadline:
                    return
                index, (offset, length) = taken
                buffer = bytearray(length) if self._source.capabilities.alignment == 1 else aligned(length)
                view = memoryview(buffer)
                before = time.perf_counter()
                self._source.read_into(offset, view)
                took = time.perf_counter() - before
                piece = look_at(offset, view, packer, keep=index % keep_every == 0)
                with self._lock:
                    self._pieces.append(piece)
                    self._read_seconds += took
        except BlocksyncError as error:
            with self._lock:
                self._error = self._error or error


def look_at(offset: int, content: memoryview, packer: Packer, *, keep: bool) -> Piece:
    """Sort a piece's bytes into zero, incompressible and the rest."""
    zero = incompressible = 0
    for start in range(0, len(content), BLOCK_BYTES):
        block = content[start : start + BLOCK_BYTES]
        if is_zero(block):
            zero += len(block)
        elif packer.pack(block, 1) is None:
            incompressible += len(block)
    return Piece(
        offset=offset,
        length=len(content),
        zero=zero,
        incompressible=incompressible,
        content=bytes(content) if keep else b"",
    )


def aligned(length: int) -> memoryview:
    """Memory that starts at a page, as direct reads want it."""
    import mmap

    return memoryview(mmap.mmap(-1, max(length, PAGE_BYTES)))[:length]


def relative_error(values: list[float]) -> float:
    """Standard error of the mean over the mean, from how neighbours of a stratified sample differ."""
    count = len(values)
    mean = sum(values) / count if count else 0.0
    if count < 2 or not mean:
        return 0.0
    squares = sum((one - other) ** 2 for one, other in itertools.pairwise(values))
    variance = squares / (2 * (count - 1)) / count
    return float(variance**0.5 / mean)
