"""What the engine asks of a place that blocks come from.

Implementations declare what they can do in :class:`SourceCapabilities`; nobody asks ``isinstance``. Wrappers (rate
limit, fault, trace) implement the same class. ``tests/sources/conformance.py`` is run against each.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

from typing_extensions import Self

from blocksync.changes.base import Tracker
from blocksync.extents import Extent
from blocksync.volumes.told import Told


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCapabilities:
    """What a source can do.

    Args:
        extents: :meth:`Source.extents` knows holes or zeros; otherwise it answers one data extent.
        direct: reads bypass the page cache.
        alignment: offsets, lengths and buffer addresses must be multiples of this many bytes, except for a
            read that ends at the end of the disk; 1 where it does not matter.
        consistency: what a read of the whole disk means: ``"live"`` while somebody may be writing,
            ``"crash"`` for a point-in-time view of this disk alone, ``"crash-group"`` for one that all disks of
            the transfer have of the same instant, ``"application"`` where writers took part.
    """

    extents: bool
    direct: bool
    alignment: int
    consistency: str = "live"


class Source(abc.ABC):
    """A disk that is read; never written.

    Obligations of an implementation:

    * all methods may be called from several threads at once, except :meth:`close`;
    * ``size`` does not change while it is open; a source that grows or shrinks fails in :meth:`check`;
    * errors of the world are :class:`~blocksync.errors.SourceError`, from the cause.
    """

    name: str
    """What a person calls it: the path."""
    identity: str
    """Stays the same for the same disk across reboots as far as the system tells; differs for other disks."""
    size: int
    """Bytes, a multiple of 512 (a file's last partial sector reads as zeros)."""
    sector_bytes: int
    capabilities: SourceCapabilities
    tracker: Tracker | None = None
    """Tells what changed since an earlier pass, where something on this machine keeps track."""
    told: Mapping[int, Told] | None = None
    """What a filesystem driver tells of what lies at an offset. Where a source has this, maps are taken from it alone:
    the rest of the disk may be written to meanwhile."""

    @abc.abstractmethod
    def extents(self) -> Iterator[Extent]:
        """Yield, lazily and in order, extents that cover ``[0, size)`` without gap or overlap.

        Holes and zeros are only ever claimed where every byte reads as zero at the time of asking.
        """

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        """As :meth:`extents`, of ``[first, stop)`` alone, in a time that does not depend on ``first``.

        A source that cannot say answers one data extent.
        """
        if first < stop:
            yield Extent(first, stop - first)

    @abc.abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from ``offset``; short reads are repeated here.

        Raises:
            SourceError: a read failed, or the range leaves the disk.
        """

    def descriptor(self) -> int | None:
        """A descriptor on which ``pread`` gives what :meth:`read_into` gives, so that kernels can read by themselves.

        None where there is none, as for everything that is more than one file: then all reads go through
        :meth:`read_into`. Where a ``pread`` fails or ends early, the range is read again by :meth:`read_into`, which
        says what is wrong. Valid until :meth:`close`.
        """
        return None

    @abc.abstractmethod
    def check(self) -> None:
        """Called after the last read of a pass, before it is committed.

        Raises:
            SourceError: what was read is not a view of one disk (the size changed, a snapshot overflowed).
        """

    def in_use(self) -> str:
        """Who may be writing to the disk right now, in words; empty where nobody is, as far as the system tells.

        A point-in-time view is in nobody's use.
        """
        return ""

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        """``(offset, length)`` of ranges that :meth:`read_into` gave as zeros since they could not be read.

        Only a source that was asked for it (``--rescue``) goes on after a failed read.
        """
        return ()

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
