"""Reaching a host over TCP in a way that another thread can end at any moment.

The standard library looks a name up, and connects, in calls that nothing ends but themselves. Here a name is looked up
by a thread that is left behind where nobody waits for it any more, since the system's resolver cannot be stopped, and
the socket is known to :meth:`Dialing.abort` before a connect on it begins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

# What a connect that does not block says while it goes on; the last one on Windows.
_BEGUN = (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))
# Where there are such sockets.
_UNIX = getattr(socket, "AF_UNIX", None)
# A deadline that has passed still asks once.
LEAST_SECONDS = 0.1

Watching = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Within the block, whoever says stop calls what was given: it makes blocked calls return, from any thread."""

_Found = list[tuple[Any, ...]]


def unwatched(_abort: Callable[[], None]) -> AbstractContextManager[None]:
    """Nobody says stop."""
    return contextlib.nullcontext()


class Dialing:
    """Used by one thread, once; only :meth:`abort` may be called from another.

    Args:
        host, port: where to.

    ``given_up`` says whether it was aborted.
    """

    def __init__(self, host: str, port: int) -> None:
        self.peer = f"{host}:{port}"
        self._address = (host, port)
        # Reentrant: a signal handler may abort on top of a call of its own thread.
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._answers: queue.SimpleQueue[_Found | OSError | None] = queue.SimpleQueue()
        self.given_up = False

    def reach(self, seconds: float) -> socket.socket:
        """Connect only: somebody listens there; nobody is proven and nothing can be said.

        Args:
            seconds: for connecting; a name with several addresses shares them out.

        Returns:
            the connection, without blocking; :meth:`abort` still shuts it down, so it is closed by :meth:`close`.

        Raises:
            OSError: nobody answers, the name is not known, or it was aborted.
        """
        deadline = time.monotonic() + seconds
        found = self._look_up()
        failed: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(found):
            # A family that leads nowhere leaves time for the next.
            share = (deadline - time.monotonic()) / (len(found) - number)
            try:
                return self._connect(socket.socket(family, kind, protocol), address, share)
            except OSError as error:
                failed = error
        raise failed or OSError(f"{self._address[0]} has no address")

    def hold(self, sock: socket.socket) -> None:
        """From now on this socket is what is shut down and closed: TLS has taken the plain one over.

        Raises:
            OSError: it was aborted meanwhile, and met nothing to shut down.
        """
        with self._lock:
            self._sock = sock
            self._check()

    def abort(self) -> None:
        """Make the call under way, and use of what it gave, fail; from any thread."""
        with self._lock:
            self.given_up = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    # The TCP socket below TLS: a TLS shutdown would itself wait for the peer.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        self._answers.put(None)

    def close(self) -> None:
        """Release the socket, never while another thread shuts it down; may be called twice."""
        self._drop(self._sock)

    def _drop(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._sock = None
            if sock is not None:
                sock.close()

    def _look_up(self) -> _Found:
        with contextlib.suppress(OSError, UnicodeError):
            # An address is no question to anybody.
            return list(socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        self._check()
        threading.Thread(target=self._ask, name="look-up", daemon=True).start()
        said = self._answers.get()
        self._check()
        if said is None or isinstance(said, OSError):
            raise said or OSError("the look-up was given up")
        return said

    def _ask(self) -> None:
        try:
            self._answers.put(list(socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)))
        except OSError as error:
            self._answers.put(error)
        except UnicodeError:
            # A label that is empty or too long is refused before anybody is asked.
            self._answers.put(socket.gaierror(socket.EAI_NONAME, "no name of a host"))

    def _connect(self, plain: socket.socket, address: Any, seconds: float) -> socket.socket:
        try:
            plain.setblocking(False)
            with self._lock:
                self._check()
                self._sock = plain
                # Begun while nobody aborts: a shutdown of what has not begun would go unnoticed.
                state = plain.connect_ex(address)
            if state in _BEGUN and plain.family != _UNIX:
                state = _ended(plain, max(seconds, LEAST_SECONDS))
            self._check()
            if state:
                raise OSError(state, os.strerror(state))
            if plain.family != _UNIX:
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self._drop(plain)
            raise
        return plain

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
