"""Keeping a transfer's reads polite: their rate, and pauses while the source's own IO has to wait.

What other processes feel is how long their requests wait in the disk's queue. The kernel counts for each disk how many
requests were done and how long they took, reads and writes apart. Ours are reads alone, so a write's wait is always
somebody else's; reads count only where more was read than we did.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blocksync.engine.cancel import Cancel
from blocksync.engine.pace import Pace
from blocksync.errors import SourceError
from blocksync.extents import Extent
from blocksync.limits import Limits
from blocksync.platforms import IoCounts, disk_of, io_counts, set_priority
from blocksync.sources.base import Source

SAMPLE_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 1.0
# Reads of ours as the disk counts them may be a little more than we asked for (alignment, read-ahead of files).
OWN_READS_MARGIN = 1.1
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that requests of others took on average; 0 where there were none."""

    reads: float
    writes: float

    @property
    def longest(self) -> float:
        return max(self.reads, self.writes)


def waits_of_others(before: IoCounts, after: IoCounts, own_bytes: int) -> Waits:
    """What others waited between two looks at a disk's counters, during which we read ``own_bytes``."""
    writes, reads = after.writes - before.writes, after.reads - before.reads
    read_bytes = (after.read_sectors - before.read_sectors) * SECTOR_BYTES
    foreign = read_bytes > own_bytes * OWN_READS_MARGIN + SECTOR_BYTES * 128
    return Waits(
        reads=(after.read_ms - before.read_ms) / 1000 / reads if reads > 0 and foreign else 0.0,
        writes=(after.write_ms - before.write_ms) / 1000 / writes if writes > 0 else 0.0,
    )


def next_pause(pause: float, waited: float, limit: float) -> float:
    """The pause between two reads of ours, from the last one: doubled while others wait too long, else halved."""
    if not limit:
        return 0.0
    if waited > limit:
        return min(max(pause * 2, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
    return pause / 2 if pause > FIRST_PAUSE_SECONDS else 0.0


class LiveLimits:
    """The limits of a running transfer; thread-safe.

    Args:
        limits: to begin with.
        minute: tells the minute of the local day.
    """

    def __init__(self, limits: Limits, minute: Callable[[], int] | None = None) -> None:
        self._limits = limits
        self._minute = minute or _minute_of_day
        self.link = Pace(lambda: self._limits.bandwidth.rate_at(self._minute()))
        self.reads = Pace(lambda: self._limits.read)

    @property
    def limits(self) -> Limits:
        return self._limits

    def change(self, limits: Limits) -> None:
        """Let other limits hold from now on."""
        if limits.nice is not None:
            set_priority(limits.nice)
        self._limits = limits


class Governed(Source):
    """A source whose reads keep to the limits.

    Args:
        source: stays the caller's to close.
        live: the limits, shared by all sources of a transfer.
        cancel: ends a pause.
        device: number of the disk it lies on; None where that cannot be told.
        frozen: the filesystems on it stand still, so that nobody writes to it though it is mounted.
    """

    def __init__(
        self, source: Source, live: LiveLimits, cancel: Cancel, device: int | None, *, frozen: bool = False
    ) -> None:
        self._source = source
        self._frozen = frozen
        self._live = live
        self._device = device
        self._lock = threading.Lock()
        self._own_bytes = 0
        self._pause = 0.0
        self._seen = self._counts()
        self._seen_at = time.monotonic()
        self._stop = cancel.event
        self.name = source.name
        self.identity = source.identity
        self.size = source.size
        self.sector_bytes = source.sector_bytes
        self.capabilities = source.capabilities
        self.tracker = source.tracker
        self.told = source.told

    def _counts(self) -> IoCounts | None:
        return io_counts(self._device) if self._device is not None else None

    def extents(self) -> Iterator[Extent]:
        return self._source.extents()

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        return self._source.extents_within(first, stop)

    def descriptor(self) -> int | None:
        # Kernels that read by themselves are let through as long as there is nothing to keep to.
        limits = self._live.limits
        return None if limits.read or limits.max_latency else self._source.descriptor()

    def in_use(self) -> str:
        return "" if self._frozen else self._source.in_use()

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        return self._source.unreadable()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._live.reads.wait(len(buffer), self._stop)
        pause = self._look()
        if pause:
            self._stop.wait(pause)
        self._source.read_into(offset, buffer)
        with self._lock:
            self._own_bytes += len(buffer)

    def _look(self) -> float:
        limit = self._live.limits.max_latency
        with self._lock:
            now = time.monotonic()
            if limit and now - self._seen_at >= SAMPLE_SECONDS:
                counts = self._counts()
                if counts is not None and self._seen is not None:
                    waited = waits_of_others(self._seen, counts, self._own_bytes).longest
                    self._pause = next_pause(self._pause, waited, limit)
                self._seen, self._seen_at, self._own_bytes = counts, now, 0
            elif not limit:
                self._pause = 0.0
            return self._pause

    def check(self) -> None:
        self._source.check()

    def close(self) -> None:
        self._source.close()


def check_latency(limits: Limits, paths: Sequence[str]) -> None:
    """Raise where a latency is to be kept to that nobody can tell.

    Raises:
        SourceError: the system keeps no counters of a source's disk.
    """
    for path in paths if limits.max_latency else ():
        device = disk_of(path)
        if device is None or io_counts(device) is None:
            raise SourceError(
                f"--max-latency: the system keeps no waiting times of the disk under {path}",
                remedy="leave --max-latency out; --read-limit works everywhere",
            )


def govern(source: Source, path: str, live: LiveLimits, cancel: Cancel, *, frozen: bool = False) -> Source:
    """A source with its limits; reading it stays what it was otherwise.

    Args:
        frozen: as of :class:`Governed`.
    """
    return Governed(source, live, cancel, disk_of(path), frozen=frozen)


def _minute_of_day() -> int:
    now = dt.datetime.now().astimezone()
    return now.hour * 60 + now.minute
