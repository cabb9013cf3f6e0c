"""The disk that a rehearsal sends: the sampled pieces again and again, in random order, for some seconds.

The pieces come in runs as they stood on the disk, so that a chunk holds what a chunk of the disk would hold, but the
runs are shuffled, so that any stretch of the rehearsal is like the disk as a whole. When time is up, the rest of the
disk reads as zeros: the pass ends in an orderly way, with every byte that was sent received.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator

from blocksync.estimate.sampling import Piece
from blocksync.extents import Extent
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
    """

    def __init__(
        self, content: bytes, size: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = "a rehearsal"
        self.identity = f"rehearsal:{secrets.token_hex(8)}"
        self.size = size
        self.sector_bytes = 512
        self.capabilities = SourceCapabilities(extents=False, direct=False, alignment=1)
        self._content = memoryview(content)
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
        filled = 0
        while filled < len(buffer):
            at = (offset + filled) % len(self._content)
            part = self._content[at : at + len(buffer) - filled]
            buffer[filled : filled + len(part)] = part
            filled += len(part)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def trial_content(pieces: list[Piece], chance: random.Random) -> bytes:
    """The kept pieces in runs of about a chunk, shuffled."""
    runs: list[list[bytes]] = [[]]
    filled = 0
    for piece in pieces:
        if not piece.content:
            continue
        if filled >= CHUNK_BYTES:
            runs.append([])
            filled = 0
        runs[-1].append(piece.content)
        filled += len(piece.content)
    chance.shuffle(runs)
    return b"".join(content for run in runs for content in run)


def noise(chance: random.Random) -> bytes:
    """Content that does not shrink."""
    return chance.randbytes(NOISE_BYTES)
