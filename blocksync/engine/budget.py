"""What the senders of one receiver may take of its memory, all together.

Two things grow with the number of senders: the buffers of connections, and the overwrites that a landing holds back.
Both come out of one budget. Connections are counted out when a session opens, in equal shares of the slots that are
offered, so that who comes first takes nothing from who comes later; a session whose blocks are so large that not even
one connection fits is refused. Overwrites are reserved a frame at a time, within an equal share of the sessions that
are open at that moment. A session that holds nothing may always hold one frame (its connection's third chunk), so
nobody ever waits for another session.
"""

from __future__ import annotations

import threading

from blocksync.errors import ReceiverFullError
from blocksync.geometry import DEFAULT_CHUNK_BYTES, Geometry
from blocksync.protocol.limits import CHUNKS_PER_CONNECTION, Limits, limits_for

DEFAULT_BUFFER_BYTES = 512 << 20
MIN_BUFFER_BYTES = 64 << 20
# Enough that 32 slots are served with room for rehearsals; each costs a few threads.
DEFAULT_SENDERS = 64
# Of the budget, what connections may have; the rest is for overwrites that are held back.
_CONNECTIONS_EIGHTHS = 5
# Segments of manifests that stay in memory, of all slots together and of each; 1.1 MiB a segment.
_SEGMENTS = 64
_MOST_SEGMENTS, _FEWEST_SEGMENTS = 8, 2
# One connection with the smallest chunks: kept free for each slot that nobody sends to.
_FLOOR_BYTES = CHUNKS_PER_CONNECTION * DEFAULT_CHUNK_BYTES


class Budget:
    """The buffers of one receiver. Thread-safe.

    Args:
        buffer_bytes: of all sessions together.
        slots: that are offered.
        senders: sessions at a time.
    """

    def __init__(
        self, *, buffer_bytes: int = DEFAULT_BUFFER_BYTES, slots: int = 1, senders: int = DEFAULT_SENDERS
    ) -> None:
        self._slots = max(1, slots)
        self._senders = senders
        self._for_connections = buffer_bytes * _CONNECTIONS_EIGHTHS // 8
        self._for_held = buffer_bytes - self._for_connections
        self._connections = 0
        self._held = 0
        self._most_held = 0
        self._open: set[Share] = set()
        self._lock = threading.Lock()

    @property
    def cached_segments(self) -> int:
        """Segments of its manifest that each slot may keep in memory."""
        return max(_FEWEST_SEGMENTS, min(_MOST_SEGMENTS, _SEGMENTS // self._slots))

    @property
    def held_bytes(self) -> int:
        """Overwrites that are held back or reserved now."""
        return self._held

    @property
    def most_held_bytes(self) -> int:
        """The most that :attr:`held_bytes` has been."""
        return self._most_held

    @property
    def connection_bytes(self) -> int:
        """Buffers of connections that are promised now."""
        return self._connections

    def admit(self, geometry: Geometry, wanted_connections: int) -> Share:
        """A session's share; to be closed with the session.

        Raises:
            ReceiverFullError: there are too many sessions, or the buffers for one connection are not free.
        """
        limits = limits_for(geometry, wanted_connections)
        each = CHUNKS_PER_CONNECTION * geometry.chunk_bytes
        with self._lock:
            if len(self._open) >= self._senders:
                raise ReceiverFullError(f"the receiver serves {len(self._open)} senders, and no more at a time")
            idle = max(0, self._slots - len(self._open) - 1)
            free = self._for_connections - self._connections - idle * _FLOOR_BYTES
            connections = min(
                limits.connections, max(1, self._for_connections // self._slots // each), free // each
            )
            if connections < 1:
                raise ReceiverFullError(
                    f"blocks of {geometry.block_bytes} bytes take {each} bytes of buffers a connection, "
                    "and the receiver has not that much left"
                )
            share = Share(self, Limits(connections=connections, frame_bytes=limits.frame_bytes), connections * each)
            self._connections += share.connection_bytes
            self._open.add(share)
            return share

    def _take(self, share: Share, size: int) -> bool:
        with self._lock:
            fair = self._for_held // max(1, len(self._open))
            fits = share.held + size <= fair and self._held + size <= self._for_held
            if share.held and not fits:
                return False
            share.held += size
            self._held += size
            self._most_held = max(self._most_held, self._held)
            return True

    def _give(self, share: Share, size: int) -> None:
        with self._lock:
            size = min(size, share.held)
            share.held -= size
            self._held -= size

    def _close(self, share: Share) -> None:
        with self._lock:
            if share in self._open:
                self._open.discard(share)
                self._connections -= share.connection_bytes
                self._held -= share.held
                share.held = 0

    def _window(self) -> int:
        # Two windows hold at a time: one settles while the other fills.
        return self._for_held // max(1, len(self._open)) // 2


class Share:
    """What one session has of a :class:`Budget`.

    Args:
        budget: it is of.
        limits: of the session.
        connection_bytes: promised for its connections.
    """

    def __init__(self, budget: Budget, limits: Limits, connection_bytes: int) -> None:
        self._budget = budget
        self.limits = limits
        self.connection_bytes = connection_bytes
        self.held = 0

    @property
    def window_bytes(self) -> int:
        """Overwrites that one window of the session may hold at this moment."""
        return self._budget._window()  # noqa: SLF001 - the two are one thing

    def take(self, size: int) -> bool:
        """Reserve room for an overwrite; False where the session must settle first what it holds."""
        return self._budget._take(self, size)  # noqa: SLF001

    def give(self, size: int) -> None:
        """Give reserved room back."""
        self._budget._give(self, size)  # noqa: SLF001

    def close(self) -> None:
        """Give everything back; may be called twice."""
        self._budget._close(self)  # noqa: SLF001
