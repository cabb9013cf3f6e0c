"""What the engine asks of a place that blocks go to.

The order of writes, syncs and claims is the engine's; a target only promises what each call means. As with
sources, abilities are declared, and ``tests/targets/conformance.py`` is run against each implementation.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from typing_extensions import Self

from blocksync.errors import TargetError
from blocksync.extents import Extent


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCapabilities:
    """What a target can do.

    Args:
        alignment: offsets, lengths and buffer addresses of :meth:`Target.write` and :meth:`Target.read_into` must
            be multiples of this; 1 where it does not matter.
        fresh: every byte was known to read as zero when it was opened (just created), so zeros
            need not be written.
        extents: :meth:`Target.extents` knows holes.
        durable: state survives the process; false for memory.
    """

    alignment: int
    fresh: bool
    extents: bool
    durable: bool = True


class Target(abc.ABC):
    """A disk that is written.

    Obligations of an implementation:

    * all methods may be called from several threads at once, except :meth:`reopen` and :meth:`close`, which the
      caller keeps apart from all others;
    * a write is durable only after a :meth:`sync` that began after the write returned;
    * errors of the world are :class:`~blocksync.errors.TargetError`, from the cause.
    """

    name: str
    """What a person calls it: the path."""
    identity: str
    """Stays the same for the same disk; differs when another disk (or a new file) takes its name."""
    size: int
    """Bytes."""
    sector_bytes: int
    capabilities: TargetCapabilities

    @abc.abstractmethod
    def extents(self) -> Iterator[Extent]:
        """Yield extents that cover ``[0, size)``; holes and zeros only where every byte reads as zero."""

    def extents_within(self, first: int, stop: int) -> Iterator[Extent]:
        """As :meth:`extents`, of ``[first, stop)`` alone; one data extent where that cannot be told at once."""
        if first < stop:
            yield Extent(first, stop - first)

    @abc.abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from ``offset``."""

    @abc.abstractmethod
    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data`` at ``offset``; short writes are repeated here.

        Raises:
            TargetError: nothing is known about the range afterwards.
            OutOfSpaceError: the filesystem below a sparse image is full.
        """

    @abc.abstractmethod
    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, without using space where that is possible.

        The range may be as long as the disk. Discard alone guarantees nothing: a device that does not promise
        zeros is written to.
        """

    @abc.abstractmethod
    def sync(self) -> None:
        """Make all completed writes durable (``fdatasync``).

        Raises:
            TargetSyncError: nothing written since the last successful sync may be trusted, and a second sync
                proves nothing. The caller calls :meth:`reopen` and writes again.
        """

    def drop_cached(self, offset: int, length: int) -> None:  # noqa: B027 - what keeps no copies needs nothing
        """Let the next read of the range show what the storage gives, not what the system remembers of it.

        As far as the system allows that: what was not synced stays, and caches below this system are out of reach.
        Called for a range before whoever claims or proves something of it reads it.
        """

    @abc.abstractmethod
    def reopen(self) -> None:
        """Drop the descriptor and open the same target again, with all its checks."""

    def descriptor(self) -> int | None:
        """Of what is open now, for a process that shall open it again; None where there is none."""
        return None

    def reopen_through(self, again: Callable[[int], int]) -> None:  # noqa: B027 - what has no descriptor needs nothing
        """From now on, open with ``again(flags)``: our own rights are about to go."""

    @abc.abstractmethod
    def write_mark(self) -> str:
        """A value that changes when somebody writes to the target other than through us, as far as the system tells.

        Empty where the system tells nothing. Compared at the start of a pass with what was noted at the end of
        the last one; a difference leads to re-hashing, not to trust.
        """

    def scratch(self, size: int) -> Target | None:
        """A new, empty target of ``size`` bytes on the same storage, which vanishes when it is closed.

        None where there is no such place, or not enough room: nothing is ever tried out on the target itself.
        """
        del size
        return None

    def twin(self) -> Target:
        """The same disk through a descriptor of its own, which learns of each failed sync by itself.

        For the parts of a disk that is held by this target: the twin claims nothing and must not outlive it.

        Raises:
            TargetError: it was replaced meanwhile, or its kind cannot be divided.
        """
        raise TargetError(f"the target {self.name} cannot be divided", remedy="use an image file or a block device")

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; may be called twice. Does not sync."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
