"""Opening a TLS connection in a way that another thread can end at any moment.

The standard library shakes hands in a call that only its timeout ends, which begins anew with each packet. Here the
socket is known to :meth:`Dial.abort` before it blocks, so that whoever stops a transfer does not wait for a peer that
says nothing, and there is one deadline, however slowly a peer's bytes come.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import time

from blocksync.platforms.dialing import LEAST_SECONDS, Dialing


class Dial(Dialing):
    """As :class:`Dialing`, with TLS.

    Args:
        host, port: where to.
        context: for clients; with a pin the peer's key is part of the handshake.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port)
        self._context = context

    def open(self, seconds: float) -> ssl.SSLSocket:
        """Connect and shake hands.

        Args:
            seconds: for both together; a name with several addresses shares them out.

        Returns:
            the connection, without blocking; :meth:`abort` still shuts it down, so it is closed by :meth:`close`.

        Raises:
            OSError: nobody answers, or somebody else (an :class:`ssl.SSLError`), or it was aborted.
        """
        deadline = time.monotonic() + seconds
        return self._prove(self.reach(seconds), deadline)

    def _prove(self, plain: socket.socket, deadline: float) -> ssl.SSLSocket:
        try:
            secure = self._context.wrap_socket(plain, do_handshake_on_connect=False)
        except BaseException:
            self._drop(plain)
            raise
        try:
            self.hold(secure)
            _shake_hands(secure, max(deadline, time.monotonic() + LEAST_SECONDS))
            self._check()
        except BaseException:
            self._drop(secure)
            raise
        return secure


def _shake_hands(secure: ssl.SSLSocket, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(secure, selectors.EVENT_READ)
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                selector.modify(secure, selectors.EVENT_READ)
            except ssl.SSLWantWriteError:
                selector.modify(secure, selectors.EVENT_WRITE)
            else:
                return
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
