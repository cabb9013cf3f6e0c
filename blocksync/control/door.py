"""The control port's door: it accepts, counts, brings each connection through TLS in time, and hands it over.

aiohttp would accept whoever comes and wait for them without end. Here a *stranger* is a connection that has not shown
a granted peer's certificate: one in the midst of its handshake, somebody who pairs, somebody's monitoring. A stranger
has a few seconds in all, from accept to its last byte, and a place among a bounded number; when there is none left the
one that has been here longest goes, since an honest one needs milliseconds. A peer whose certificate was proven has a
place among many more, bounded for each peer, so that a mad one cannot shut the others out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import cast

from blocksync.platforms import tune_socket
from blocksync.trust.tls import peer_fingerprint

STRANGER_SECONDS = 10.0
MAX_STRANGERS = 128
MAX_STRANGERS_PER_ADDRESS = 64
MAX_PROVEN = 1024
MAX_PROVEN_PER_PEER = 128
# Out of descriptors or memory: nobody can be let in before somebody has left.
_BREATHER_SECONDS = 0.05
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Accepts on a listening socket until it is closed; lives on the event loop.

    Args:
        sock: listening, without blocking; stays the caller's.
        context: TLS for servers, which accepts granted peers' certificates and none.
        make: the protocol of a connection.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, make: Callable[[], asyncio.Protocol]) -> None:
        self._socket = sock
        self._context = context
        self._make = make
        self._strangers: OrderedDict[_Guest, None] = OrderedDict()
        self._proven: Counter[bytes] = Counter()
        self._open: set[_Guest] = set()

    async def run(self) -> None:
        """Let them in; ends when it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    plain, address = await loop.sock_accept(self._socket)
                except OSError as error:
                    if error.errno in _FULL:
                        self._drop_oldest()
                        await asyncio.sleep(_BREATHER_SECONDS)
                    continue
                self._admit(plain, str(address[0]))
        finally:
            for guest in list(self._strangers):
                guest.drop()

    def _admit(self, plain: socket.socket, address: str) -> None:
        self._make_room(address)
        try:
            plain.setblocking(False)
            tune_socket(plain)
        except OSError:
            plain.close()
            return
        guest = _Guest(self, plain, address, self._make())
        self._strangers[guest] = None
        self._open.add(guest)
        guest.begin(self._context)

    async def emptied(self, seconds: float) -> None:
        """End every connection, and wait until the loop has closed them, for so long at most.

        A loop that is closed before its transports are complains, or cannot be closed at all.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._open and loop.time() < deadline:
            for guest in list(self._open):
                guest.drop()
            await asyncio.sleep(0.01)
        # The last ones' callbacks are due in the loop's next turns.
        await asyncio.sleep(0.01)

    def _make_room(self, address: str) -> None:
        same = [guest for guest in self._strangers if guest.address == address]
        if len(same) >= MAX_STRANGERS_PER_ADDRESS:
            same[0].drop()
        elif len(self._strangers) >= MAX_STRANGERS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._strangers), None)
        if oldest is not None:
            oldest.drop()

    def prove(self, guest: _Guest, fingerprint: bytes) -> bool:
        """Count a stranger as a peer; False where there is no room for it."""
        if self._proven[fingerprint] >= MAX_PROVEN_PER_PEER or self._proven.total() >= MAX_PROVEN:
            return False
        self._strangers.pop(guest, None)
        self._proven[fingerprint] += 1
        return True

    def gone(self, guest: _Guest) -> None:
        """Its connection is closed, or never came about."""
        self._open.discard(guest)

    def forget(self, guest: _Guest, fingerprint: bytes | None) -> None:
        """A connection has ended."""
        self._strangers.pop(guest, None)
        if fingerprint is not None:
            self._proven[fingerprint] -= 1
            if not self._proven[fingerprint]:
                del self._proven[fingerprint]


class _Guest(asyncio.Protocol):
    """One connection: a stranger until its handshake shows a peer's certificate. The real protocol is behind it."""

    def __init__(self, door: Door, plain: socket.socket, address: str, inner: asyncio.Protocol) -> None:
        self.address = address
        self._door = door
        self._plain = plain
        self._inner = inner
        self._transport: asyncio.WriteTransport | None = None
        self._fingerprint: bytes | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def begin(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(STRANGER_SECONDS, self.drop)
        self._handshake = loop.create_task(self._shake_hands(loop, context))

    async def _shake_hands(self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> None:
        try:
            await loop.connect_accepted_socket(
                lambda: self, self._plain, ssl=context, ssl_handshake_timeout=STRANGER_SECONDS
            )
        except (OSError, asyncio.CancelledError):  # ssl.SSLError is an OSError
            # The loop closes the socket of a handshake that failed, but not of one that was never begun.
            self._plain.close()
            self._end()
            self._door.gone(self)

    def drop(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()
        elif self._handshake is not None:
            self._handshake.cancel()
        self._end()

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._door.forget(self, self._fingerprint)
        self._fingerprint = None

    # -- what the event loop calls ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By its interface: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)
        tls = transport.get_extra_info("ssl_object")
        fingerprint = peer_fingerprint(tls) if tls is not None else None
        if fingerprint is not None:
            if not self._door.prove(self, fingerprint):
                self.drop()
            else:
                self._fingerprint = fingerprint
                if self._deadline is not None:
                    self._deadline.cancel()
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._door.gone(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._inner.resume_writing()
