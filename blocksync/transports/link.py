"""One data connection as blocking threads use it: bytes out, bytes in, and a way to make a blocked thread stop."""

from __future__ import annotations

import abc
import contextlib
import socket
import ssl
import threading

from blocksync.errors import BlocksyncError, NetworkError, from_os_error
from blocksync.platforms.tcp import LinkWaits, link_waits

# Buffers below this are joined, so that a header and a small payload travel in one TLS record.
JOIN_BELOW_BYTES = 16 << 10


class Link(abc.ABC):
    """A connection used by one thread at a time; only :meth:`abort` may be called from another."""

    bytes_sent: int = 0

    @abc.abstractmethod
    def send(self, *buffers: bytes | memoryview) -> None:
        """Send all bytes of all buffers.

        Raises:
            NetworkError: the connection is broken; how much arrived is unknown.
        """

    @abc.abstractmethod
    def recv_into(self, view: memoryview) -> int:
        """Receive at least one byte.

        Raises:
            NetworkError: the connection is broken, which a close is too: streams end with END (rule 7).
        """

    def waits(self) -> LinkWaits | None:
        """What sending waits for, where the system counts that; from any thread."""
        return None

    def hurry(self, seconds: float) -> None:  # noqa: B027 - a link that never waits for long has nothing to do
        """From now on a call that waits longer than this fails; by the thread that uses the link."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Make blocked and later calls fail at once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the connection; may be called twice."""


class SocketLink(Link):
    """Over a connected socket, TLS or not.

    Args:
        sock: blocking; owned from now on.
        peer: for messages.
    """

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._socket = sock
        self._peer = peer
        self._closing = threading.Lock()
        self._closed = False
        self.bytes_sent = 0

    def send(self, *buffers: bytes | memoryview) -> None:
        size = sum(len(buffer) for buffer in buffers)
        try:
            if len(buffers) > 1 and size < JOIN_BELOW_BYTES:
                self._socket.sendall(b"".join(buffers))
            else:
                for buffer in buffers:
                    self._socket.sendall(buffer)
        except (OSError, ValueError) as error:
            raise self._broken(error, "cannot send to") from error
        self.bytes_sent += size

    def recv_into(self, view: memoryview) -> int:
        try:
            count = self._socket.recv_into(view)
        except (OSError, ValueError) as error:
            raise self._broken(error, "cannot receive from") from error
        if not count:
            raise NetworkError(f"the connection with {self._peer} was closed without an END")
        return count

    def waits(self) -> LinkWaits | None:
        with self._closing:
            return None if self._closed else link_waits(self._socket)

    def hurry(self, seconds: float) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(seconds)

    def abort(self) -> None:
        with self._closing, contextlib.suppress(OSError):
            if not self._closed:
                # The TCP socket below TLS: a TLS shutdown would itself wait for the peer.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with self._closing:
            if not self._closed:
                self._closed = True
                self._socket.close()

    def _broken(self, error: Exception, doing: str) -> BlocksyncError:
        if isinstance(error, ssl.SSLError):
            from blocksync.trust.tls import from_tls_error

            return from_tls_error(error, f"{doing} {self._peer}")
        if isinstance(error, OSError):
            return from_os_error(error, NetworkError, f"{doing} {self._peer}")
        return NetworkError(f"{doing} {self._peer}: the connection was closed")
