"""What is claimed now: an overlay of changed segments over a manifest file.

Segments that nobody touched stay in the base file and are read when they are asked for. Touched ones live in a few
slots of memory and, when those run out, in a scratch file that means nothing after a crash: the journal, replayed over
the base, says it all again. Memory therefore does not grow with the disk.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blocksync.errors import ProtocolError, StateDamagedError, StateError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold
from blocksync.manifest.base import ManifestFile
from blocksync.manifest.folder import DurableFile, Folder
from blocksync.manifest.format import SegmentState, payload_bytes
from blocksync.manifest.segments import Segment, Templates, decode_segment

# Segments held in memory: the connections work close together, so a few are enough. At most 1.1 MiB each.
CACHED_SEGMENTS = 8
SCRATCH_FILE = "scratch"

_STATES = frozenset(SegmentState)
_CONSTANT_RUNS = re.compile(b"%c+|%c+" % (SegmentState.UNKNOWN, SegmentState.ZERO))

View = tuple[memoryview, memoryview, memoryview]


@dataclass(frozen=True, slots=True)
class Counts:
    """Blocks in all, and of these the claimed ones."""

    blocks: int
    known_blocks: int


class BlockMap:
    """Claims of one disk. Thread-safe. Block numbers and counts; a view must not cross a segment's edge.

    Args:
        geometry, kind, key: of the manifest.
        base: file to start from; None for a disk of which nothing is known. Closed with the map.
        folder: for the scratch file; None keeps touched segments in memory (for small disks and tests).
        cached: segments held in memory; None for ``CACHED_SEGMENTS``.
    """

    def __init__(
        self,
        geometry: Geometry,
        kind: DigestKind,
        key: bytes,
        *,
        base: ManifestFile | None = None,
        folder: Folder | None = None,
        cached: int | None = None,
    ) -> None:
        self.geometry = geometry
        self.kind = kind
        self.key = key
        self._base = base
        self._folder = folder
        self._cached = CACHED_SEGMENTS if cached is None else min(cached, CACHED_SEGMENTS)
        self._scratch: DurableFile | None = None
        self._templates = Templates(geometry, kind, key)
        count = geometry.segment_count
        self._states = bytearray(count) if base is None else bytearray(base.states())
        self._digests: dict[int, bytes] = {}
        self._touched: set[int] = set()
        self._in_scratch: dict[int, int] = {}
        self._cache: OrderedDict[int, Segment] = OrderedDict()
        self._dirty: set[int] = set()
        self._lock = threading.RLock()

    # -- reading ----------------------------------------------------------------------------------------------

    def view(self, first: int, count: int) -> View:
        """``(known, digests, sub-digests)`` of a run within one segment: 1, 16 and 4 a page bytes a block."""
        index, start = divmod(first, self.geometry.segment_blocks)
        with self._lock:
            segment = self._read(index)
        end = start + count
        if count <= 0 or end > len(segment.known):
            raise ValueError(f"blocks [{first}, {first + count}) are not within one segment")
        per_block = self.geometry.pages_per_block * PAGE_DIGEST_BYTES
        return (
            memoryview(segment.known)[start:end],
            memoryview(segment.digests)[start * DIGEST_BYTES : end * DIGEST_BYTES],
            memoryview(segment.pages)[start * per_block : end * per_block],
        )

    def any_claimed(self, first: int, count: int) -> bool:
        with self._lock:
            for index, start, end in self._pieces(first, count):
                state = self._states[index]
                if state == SegmentState.ZERO:
                    return True
                if state == SegmentState.STORED and self._read(index).known.find(1, start, end) >= 0:
                    return True
        return False

    def claimed_runs(self) -> Iterator[tuple[int, int]]:
        """``(first, count)`` of claimed blocks, in order; runs end at segments' edges."""
        return self._runs(1)

    def unknown_runs(self) -> Iterator[tuple[int, int]]:
        """``(first, count)`` of blocks without a claim, in order; runs end at segments' edges."""
        return self._runs(0)

    def _runs(self, wanted: int) -> Iterator[tuple[int, int]]:
        for index in range(self.geometry.segment_count):
            with self._lock:
                known = bytes(self._read(index).known)
            first = index * self.geometry.segment_blocks
            yield from ((first + start, end - start) for start, end in _runs_of(known, wanted))

    def nonzero_runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """``(first, count)`` within one segment of blocks that are not known to be zero."""
        index, start = divmod(first, self.geometry.segment_blocks)
        with self._lock:
            state = self._states[index]
            if state == SegmentState.ZERO:
                return
            if state == SegmentState.UNKNOWN:
                yield first, count
                return
            segment = self._read(index)
            zeros = self._templates.get(SegmentState.ZERO, index)[0].digests
            marks = bytes(
                segment.known[at]
                and segment.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
                == zeros[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
                for at in range(start, start + count)
            )
        yield from ((first + begin, end - begin) for begin, end in _runs_of(marks, 0))

    def unclaimed_runs(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """``(first, count)`` within one segment of blocks without a claim."""
        index, start = divmod(first, self.geometry.segment_blocks)
        with self._lock:
            state = self._states[index]
            if state == SegmentState.ZERO:
                return
            if state == SegmentState.UNKNOWN:
                yield first, count
                return
            known = bytes(self._read(index).known[start : start + count])
        yield from ((first + begin, end - begin) for begin, end in _runs_of(known, 0))

    def counts(self) -> Counts:
        """Counts all claims: from the base's table, and of touched segments from their known maps."""
        geometry = self.geometry
        last = geometry.segment_count - 1
        with self._lock:
            known = self._states.count(SegmentState.ZERO) * geometry.segment_blocks
            if self._states[last] == SegmentState.ZERO:
                known -= geometry.segment_blocks - geometry.blocks_in_segment(last)
            if self._base is not None:
                known += self._base.known_counts() - sum(map(self._base.known_count, self._touched))
            for index in self._touched:
                if self._states[index] == SegmentState.STORED:
                    known += self._read(index).known.count(1)
        return Counts(geometry.block_count, known)

    # -- digests ----------------------------------------------------------------------------------------------

    def segment_digest(self, index: int) -> bytes:
        with self._lock:
            state = SegmentState(self._states[index])
            if state is not SegmentState.STORED:
                return self._templates.get(state, index)[1]
            if index not in self._touched and self._base is not None:
                return self._base.digest(index)
            digest = self._digests.get(index)
            if digest is None:
                digest = self._digests[index] = fold(self.kind, self.key, self._read(index).encode())
            return digest

    def segment_digests(self) -> bytes:
        """16 bytes a segment; from the base's table in one piece, since a large disk has hundreds of thousands."""
        count = self.geometry.segment_count
        with self._lock:
            digests = bytearray(count * DIGEST_BYTES) if self._base is None else self._base.digests()
            for run in _CONSTANT_RUNS.finditer(self._states):
                start, end, state = run.start(), run.end(), SegmentState(self._states[run.start()])
                # The last segment may be shorter, and its constant digests are others.
                same = self._templates.get(state, start)[1] * (end - start - 1)
                digests[start * DIGEST_BYTES : end * DIGEST_BYTES] = same + self._templates.get(state, end - 1)[1]
            for index in self._touched:
                digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = self.segment_digest(index)
        return bytes(digests)

    def root(self) -> bytes:
        """Root of the digest tree: over the disk's size, its block size and all segment digests."""
        geometry = self.geometry
        facts = geometry.size.to_bytes(8, "little") + geometry.block_bytes.to_bytes(4, "little")
        return fold(self.kind, self.key, facts + self.segment_digests())

    # -- changing ---------------------------------------------------------------------------------------------

    def claim(self, first: int, digests: bytes | memoryview, pages: bytes | memoryview) -> None:
        """Claim a run of blocks; digests of 16 bytes each, sub-digests of all their pages."""
        count = len(digests) // DIGEST_BYTES
        per_block = self.geometry.pages_per_block * PAGE_DIGEST_BYTES
        if not count or len(digests) % DIGEST_BYTES or len(pages) != count * per_block:
            raise ValueError("a claim's digests and sub-digests do not fit together")
        at = 0
        with self._lock:
            for index, start, end in self._pieces(first, count):
                segment = self._change(index)
                upto = at + end - start
                segment.known[start:end] = b"\1" * (end - start)
                segment.digests[start * DIGEST_BYTES : end * DIGEST_BYTES] = digests[
                    at * DIGEST_BYTES : upto * DIGEST_BYTES
                ]
                segment.pages[start * per_block : end * per_block] = pages[at * per_block : upto * per_block]
                at = upto

    def claim_each(self, blocks: Sequence[int], digests: bytes | memoryview, pages: bytes | memoryview) -> None:
        """Claim single blocks, ascending; digests and sub-digests are theirs, one after the other.

        The same as a :meth:`claim` for each, in a third of the time.
        """
        per_segment = self.geometry.segment_blocks
        per_block = self.geometry.pages_per_block * PAGE_DIGEST_BYTES
        if len(digests) != len(blocks) * DIGEST_BYTES or len(pages) != len(blocks) * per_block:
            raise ValueError("a claim's digests and sub-digests do not fit together")
        with self._lock:
            segment, last = None, -1
            for number, block in enumerate(blocks):
                if not 0 <= block < self.geometry.block_count:
                    raise ValueError(f"block {block} is not within the disk")
                index, at = divmod(block, per_segment)
                if segment is None or index != last:
                    segment, last = self._change(index), index
                segment.known[at] = 1
                segment.digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES] = digests[
                    number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES
                ]
                segment.pages[at * per_block : (at + 1) * per_block] = pages[
                    number * per_block : (number + 1) * per_block
                ]

    def claim_zero(self, first: int, count: int) -> None:
        """Claim a run of blocks as zeros; whole segments cost nothing."""
        self._fill(first, count, SegmentState.ZERO)

    def withdraw(self, first: int, count: int) -> None:
        """Make a run of blocks unknown; whole segments cost nothing."""
        self._fill(first, count, SegmentState.UNKNOWN)

    def _fill(self, first: int, count: int, state: SegmentState) -> None:
        per_block = self.geometry.pages_per_block * PAGE_DIGEST_BYTES
        with self._lock:
            for index, start, end in self._pieces(first, count):
                if self._states[index] == state:
                    continue
                if start == 0 and end == self.geometry.blocks_in_segment(index):
                    self._forget(index)
                    self._states[index] = state
                    continue
                segment = self._change(index)
                template = self._templates.get(state, index)[0]
                segment.known[start:end] = template.known[start:end]
                digests = slice(start * DIGEST_BYTES, end * DIGEST_BYTES)
                segment.digests[digests] = template.digests[digests]
                segment.pages[start * per_block : end * per_block] = template.pages[
                    start * per_block : end * per_block
                ]

    # -- whole segments ---------------------------------------------------------------------------------------

    def export_segment(self, index: int) -> tuple[int, bytes]:
        """State and payload, in the shortest form that has the segment's digest: constant segments have none."""
        with self._lock:
            digest = self.segment_digest(index)
            for state in (SegmentState.UNKNOWN, SegmentState.ZERO):
                if self._templates.get(state, index)[1] == digest:
                    return int(state), b""
            return int(SegmentState.STORED), self._read(index).encode()

    def import_segment(self, index: int, state: int, payload: bytes) -> None:
        """Take over what another map exported.

        Raises:
            ProtocolError: there is no such segment or state, or the payload is not canonical.
        """
        if not 0 <= index < self.geometry.segment_count or state not in _STATES:
            raise ProtocolError(f"there is no segment {index} of state {state}")
        with self._lock:
            if state != SegmentState.STORED:
                if payload:
                    raise ProtocolError("a constant segment comes with a payload")
                self._forget(index)
                self._states[index] = state
                return
            segment = decode_segment(payload, self.geometry, self.geometry.blocks_in_segment(index))
            self._forget(index)
            self._states[index] = SegmentState.STORED
            self._put(index, segment)

    def close(self) -> None:
        """Close the base and remove the scratch file; the map must not be used any more."""
        with self._lock:
            if self._base is not None:
                self._base.close()
            if self._scratch is not None and self._folder is not None:
                self._scratch.close()
                self._scratch = None
                # It means nothing by now, and the next one is begun empty.
                with contextlib.suppress(StateError):
                    self._folder.remove(SCRATCH_FILE)

    # -- inside, under the lock -------------------------------------------------------------------------------

    def _pieces(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        if first < 0 or count <= 0 or first + count > self.geometry.block_count:
            raise ValueError(f"blocks [{first}, {first + count}) are not within the disk")
        per_segment = self.geometry.segment_blocks
        while count:
            index, start = divmod(first, per_segment)
            here = min(count, per_segment - start)
            yield index, start, start + here
            first, count = first + here, count - here

    def _read(self, index: int) -> Segment:
        state = SegmentState(self._states[index])
        if state is not SegmentState.STORED:
            return self._templates.get(state, index)[0]
        segment = self._cache.get(index)
        if segment is not None:
            self._cache.move_to_end(index)
            return segment
        segment = self._load(index)
        self._keep(index, segment)
        return segment

    def _load(self, index: int) -> Segment:
        blocks = self.geometry.blocks_in_segment(index)
        length = payload_bytes(self.geometry, blocks)
        at = self._in_scratch.get(index)
        if at is not None and self._scratch is not None:
            return decode_segment(self._scratch.pread(at, length), self.geometry, blocks)
        assert self._base is not None
        payload = self._base.payload(index)
        if fold(self.kind, self.key, payload) != self._base.digest(index):
            raise StateDamagedError(f"segment {index} of the manifest is damaged: its digest does not match")
        try:
            segment = decode_segment(payload, self.geometry, blocks)
        except ProtocolError as error:
            raise StateDamagedError(f"segment {index} of the manifest is damaged: {error}") from error
        if segment.known.count(1) != self._base.known_count(index):
            raise StateDamagedError(f"segment {index} of the manifest is damaged: its entry counts other claims")
        return segment

    def _change(self, index: int) -> Segment:
        state = SegmentState(self._states[index])
        if state is SegmentState.STORED:
            segment = self._read(index)
        else:
            template = self._templates.get(state, index)[0]
            segment = Segment(bytearray(template.known), bytearray(template.digests), bytearray(template.pages))
            self._states[index] = SegmentState.STORED
        self._put(index, segment)
        return segment

    def _put(self, index: int, segment: Segment) -> None:
        self._touched.add(index)
        self._digests.pop(index, None)
        self._dirty.add(index)
        self._keep(index, segment)

    def _keep(self, index: int, segment: Segment) -> None:
        self._cache[index] = segment
        self._cache.move_to_end(index)
        while len(self._cache) > self._cached and (self._folder is not None or not self._dirty):
            oldest = next(iter(self._cache))
            if oldest in self._dirty:
                # Kept until it is written: where the folder is full, what was claimed must not be forgotten.
                self._spill(oldest, self._cache[oldest])
            del self._cache[oldest]

    def _spill(self, index: int, segment: Segment) -> None:
        assert self._folder is not None
        if self._scratch is None:
            self._scratch = self._folder.open(SCRATCH_FILE, create=True)
        payload = segment.encode()
        if index not in self._digests:
            self._digests[index] = fold(self.kind, self.key, payload)
        stride = payload_bytes(self.geometry, self.geometry.segment_blocks)
        at = self._in_scratch.get(index, len(self._in_scratch) * stride)
        self._scratch.pwrite(at, payload)
        self._in_scratch[index] = at
        self._dirty.discard(index)

    def _forget(self, index: int) -> None:
        self._touched.add(index)
        self._cache.pop(index, None)
        self._dirty.discard(index)
        self._digests.pop(index, None)


def _runs_of(marks: bytes, wanted: int) -> Iterator[tuple[int, int]]:
    start = marks.find(wanted)
    while start >= 0:
        end = marks.find(1 - wanted, start)
        end = len(marks) if end < 0 else end
        yield start, end
        start = marks.find(wanted, end)
