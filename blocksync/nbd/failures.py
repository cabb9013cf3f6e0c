"""The same faults are a source's errors in one place and a target's in another."""

from __future__ import annotations

from dataclasses import dataclass

from blocksync.errors import (
    NbdSourceError,
    NbdSourceLostError,
    NbdSourceProtocolError,
    NbdTargetError,
    NbdTargetLostError,
    NbdTargetProtocolError,
    OutOfSpaceError,
    SourceError,
    TargetError,
    UnreadableError,
)
from blocksync.nbd.wire import EIO, ENOSPC, ERRORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Classes to raise.

    Args:
        answered: the server answered, and the answer is an error.
        lost: it cannot be reached, or the connection broke.
        garbled: what it sent is no NBD, or breaks a rule or bound of it.
        plain: of the room, for what is neither.
    """

    answered: type[SourceError | TargetError]
    lost: type[SourceError | TargetError]
    garbled: type[SourceError | TargetError]
    plain: type[SourceError | TargetError]

    def of_number(self, number: int, doing: str, message: str) -> SourceError | TargetError:
        """The error for a reply's error number.

        Args:
            number: of proto.md's list.
            doing: the action and its object.
            message: the server's own words, if any.
        """
        kind = self.answered
        if number == ENOSPC and issubclass(kind, TargetError):
            kind = OutOfSpaceError
        if number == EIO and issubclass(kind, SourceError):
            kind = UnreadableError
        reason = ERRORS.get(number, f"error {number}")
        words = f" ({message})" if message else ""
        return kind(f"{doing}: the NBD server says: {reason}{words}")


SOURCE_FAILURES = Failures(
    answered=NbdSourceError, lost=NbdSourceLostError, garbled=NbdSourceProtocolError, plain=SourceError
)
TARGET_FAILURES = Failures(
    answered=NbdTargetError, lost=NbdTargetLostError, garbled=NbdTargetProtocolError, plain=TargetError
)
