"""Opening a TLS connection in a way that another thread can end at any moment.

The standard library connects and shakes hands in calls that only their timeout ends. Here the socket is known to
:meth:`Dial.abort` before the first of them blocks, so that whoever stops a transfer does not wait for a peer that
says nothing. Only the look-up of a name is beyond its reach.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import threading
import time
from typing import Any

# What a connect that does not block says while it goes on; the last one on Windows.
_BEGUN = (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))
# A deadline that has passed still asks once.
_LEAST_SECONDS = 0.1


class Dial:
    """Used by one thread, once; only :meth:`abort` may be called from another.

    Args:
        host, port: where to.
        context: for clients; with a pin the peer's key is part of the handshake.

    ``given_up`` says whether it was aborted.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self.peer = f"{host}:{port}"
        self._address = (host, port)
        self._context = context
        # Reentrant: a signal handler may abort on top of a call of its own thread.
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self.given_up = False

    def open(self, seconds: float) -> ssl.SSLSocket:
        """Connect and shake hands.

        Args:
            seconds: for both together; a name with several addresses shares them out.

        Returns:
            the connection; :meth:`abort` still shuts it down, so it is closed by :meth:`close`.

        Raises:
            OSError: nobody answers, or somebody else (an :class:`ssl.SSLError`), or it was aborted.
        """
        deadline = time.monotonic() + seconds
        return self._prove(self.reach(seconds), deadline)

    def reach(self, seconds: float) -> socket.socket:
        """Connect only: somebody listens there; nobody is proven and nothing can be said.

        Raises:
            OSError: nobody answers, or it was aborted.
        """
        deadline = time.monotonic() + seconds
        found = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)
        failed: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(found):
            # A family that leads nowhere leaves time for the next.
            share = (deadline - time.monotonic()) / (len(found) - number)
            try:
                return self._connect(socket.socket(family, kind, protocol), address, share)
            except OSError as error:
                failed = error
        raise failed or OSError(f"{self._address[0]} has no address")

    def abort(self) -> None:
        """Make the call under way, and use of what it gave, fail; from any thread."""
        with self._lock:
            self.given_up = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    # The TCP socket below TLS: a TLS shutdown would itself wait for the peer.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the socket, never while another thread shuts it down; may be called twice."""
        self._drop(self._sock)

    def _drop(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._sock = None
            if sock is not None:
                sock.close()

    def _connect(self, plain: socket.socket, address: Any, seconds: float) -> socket.socket:
        try:
            plain.setblocking(False)
            with self._lock:
                self._check()
                self._sock = plain
                # Begun while nobody aborts: a shutdown of what has not begun would go unnoticed.
                state = plain.connect_ex(address)
            if state in _BEGUN:
                state = _ended(plain, max(seconds, _LEAST_SECONDS))
            self._check()
            if state:
                raise OSError(state, os.strerror(state))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._drop(plain)
            raise
        return plain

    def _prove(self, plain: socket.socket, deadline: float) -> ssl.SSLSocket:
        try:
            plain.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
            secure = self._context.wrap_socket(plain, do_handshake_on_connect=False)
        except BaseException:
            self._drop(plain)
            raise
        try:
            with self._lock:
                self._sock = secure
                # Whoever aborted while the socket changed hands met nothing to shut down.
                self._check()
            secure.do_handshake()
            self._check()
        except BaseException:
            self._drop(secure)
            raise
        return secure

    def _check(self) -> None:
        if self.given_up:
            raise OSError("the connection was given up")


def _ended(plain: socket.socket, seconds: float) -> int:
    """Wait until a connect has ended; the system's error number, 0 where it is made."""
    with selectors.DefaultSelector() as selector:
        selector.register(plain, selectors.EVENT_WRITE)
        if not selector.select(seconds):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
