"""The two ends of a data connection as tables: what may be said and heard in which state.

The tables are all there is to know about the order of frames; the cores in ``sender.py`` and ``receiver.py`` only
look things up here. A data connection is one-way but for its beginning and its end: the receiver speaks to welcome,
to finish, or to refuse. Both TLS directions are therefore used by one thread at a time, and back-pressure is TCP's.
"""

from __future__ import annotations

import enum

from blocksync.errors import ProtocolError
from blocksync.protocol.wire import FrameKind


class State(enum.Enum):
    NEW = "new"  # nothing said yet
    GREETED = "greeted"  # HELLO is on its way, no answer yet: the connection does not count as connected
    OPEN = "open"  # frames flow
    ENDING = "ending"  # END is on its way, its DONE is not
    CLOSED = "closed"  # DONE or ERROR ended it


F = FrameKind
S = State

SENDER_SENDS: dict[State, dict[FrameKind, State]] = {
    S.NEW: {F.HELLO: S.GREETED},
    S.OPEN: {F.DATA: S.OPEN, F.PATCH: S.OPEN, F.ZERO: S.OPEN, F.END: S.ENDING},
}
SENDER_HEARS: dict[State, dict[FrameKind, State]] = {
    S.GREETED: {F.WELCOME: S.OPEN, F.ERROR: S.CLOSED},
    S.OPEN: {F.ERROR: S.CLOSED},
    S.ENDING: {F.DONE: S.CLOSED, F.ERROR: S.CLOSED},
}
RECEIVER_HEARS: dict[State, dict[FrameKind, State]] = {
    S.NEW: {F.HELLO: S.GREETED},
    S.OPEN: {F.DATA: S.OPEN, F.PATCH: S.OPEN, F.ZERO: S.OPEN, F.END: S.ENDING},
}
RECEIVER_SENDS: dict[State, dict[FrameKind, State]] = {
    S.NEW: {F.ERROR: S.CLOSED},
    S.GREETED: {F.WELCOME: S.OPEN, F.ERROR: S.CLOSED},
    S.OPEN: {F.ERROR: S.CLOSED},
    S.ENDING: {F.DONE: S.CLOSED, F.ERROR: S.CLOSED},
}


def step(table: dict[State, dict[FrameKind, State]], state: State, kind: FrameKind, what: str) -> State:
    """Look up the next state.

    Raises:
        ProtocolError: ``kind`` may not be said or heard in ``state``.
    """
    following = table.get(state, {}).get(kind)
    if following is None:
        raise ProtocolError(f"{what} {kind.name} while the data connection is {state.value}")
    return following
