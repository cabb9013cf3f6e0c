"""The disk that a rehearsal sends: the sampled pieces again and again, in random order, for some seconds.

The pieces come in runs of one kind (zeros, what shrinks, what does not), since a chunk of a disk is mostly of one kind
too, and the runs are shuffled, so that any stretch of the rehearsal is like the disk as a whole. When time is up, the
rest of the disk reads as zeros: the pass ends in an orderly way, with every byte that was sent received.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator

from blocksync.estimate.sampling import Piece
from blocksync.extents import Extent
from blocksync.platforms.positioned import kept, pread_into
from blocksync.sources.base import Source, SourceCapabilities

CHUNK_BYTES = 1 << 20
NOISE_BYTES = 16 << 20


class TrialDisk(Source):
    """A source of ``size`` bytes made of ``content``.

    Args:
        content: repeated over the disk.
        size: bytes, a multiple of a MiB.
        seconds: after the first read it holds zeros only.
        clock: monotonic seconds.

    Raises:
        OSError: there is no room for the content.
    """

    def __init__(
        self, content: bytes, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = "a rehearsal"
        self.identity = f"rehearsal:{secrets.token_hex(8)}"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = SourceCapabilities(extents=False, direct=False, alignment=1)
        # Read as a source is: by system calls, beside which other threads go on.
        self._file: int | None = kept(content)
        self._length = len(content)
        self._seconds = seconds
        self._clock = clock
        self._deadline: float | None = None

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._deadline is not None and self._clock() >= self._deadline

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, self.size)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if self._deadline is None:
            self._deadline = self._clock() + self._seconds
        if self.over:
            buffer[:] = bytes(len(buffer))
            return
        assert self._file is not None
        filled = 0
        while filled < len(buffer):
            at = (offset + filled) % self._length
            filled += pread_into(self._file, buffer[filled : filled + self._length - at], at)

    def check(self) -> None:
        pass

    def close(self) -> None:
        descriptor, self._file = self._file, None
        if descriptor is not None:
            os.close(descriptor)


def trial_content(pieces: list[Piece], chance: random.Random) -> bytes:
    """The kept pieces in runs of about a chunk, of one kind each, shuffled."""
    kinds: dict[int, list[bytes]] = {}
    for piece in pieces:
        if piece.content:
            kind = max(
                (piece.zero, 0), (piece.incompressible, 1), (piece.length - piece.zero - piece.incompressible, 2)
            )
            kinds.setdefault(kind[1], []).append(piece.content)
    runs: list[bytes] = []
    for contents in kinds.values():
        joined = b"".join(contents)
        runs.extend(joined[at : at + CHUNK_BYTES] for at in range(0, len(joined), CHUNK_BYTES))
    # A run that is cut short would put all others off the chunks' edges: those come last.
    chance.shuffle(runs)
    runs.sort(key=lambda run: len(run) < CHUNK_BYTES)
    return b"".join(runs)


def noise(chance: random.Random) -> bytes:
    """Content that does not shrink."""
    return chance.randbytes(NOISE_BYTES)
