"""One HTTPS connection to a control port, blocking, with a deadline for the whole of an answer.

The standard library's HTTP client does the parsing: it is imported in a tenth of the time of an asynchronous one, and
a sender says little enough here. What it lacks is added beneath it. It counts its timeout anew for each packet, so
that a peer that dribbles would hold a caller for ever, and it does not let another thread end a call. So it is given
something that looks like a socket, whose every call gets what is left until the deadline, and which
:meth:`Connection.abort` shuts down, as it does while it is being opened.
"""

from __future__ import annotations

import http.client
import io
import ssl
import time
from typing import Any

from blocksync.transports.dial import Dial
from blocksync.trust.tls import peer_fingerprint

# The server closes a connection that was idle for 60 s; one that is about to be closed is not used any more.
IDLE_SECONDS = 30.0
BUFFER_BYTES = 64 << 10


class Connection:
    """Used by one thread at a time; only :meth:`abort` may be called from another.

    Args:
        host, port: of the control port.
        context: for clients, with a pin: nothing is sent before the receiver is proven.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        self._dial = Dial(host, port, context)
        self._wire: _Wire | None = None
        self._idle_since: float | None = None
        self._http = http.client.HTTPConnection(host, port)
        # It must never open a connection of its own, which would be a plain one.
        self._http.auto_open = 0

    @property
    def given_up(self) -> bool:
        """Whether it was aborted."""
        return self._dial.given_up

    def open(self, seconds: float) -> None:
        """Connect and prove the receiver.

        Raises:
            OSError: nobody answers, or somebody else (an :class:`ssl.SSLError`).
        """
        wire = _Wire(self._dial.open(seconds))
        self._wire = wire
        self._http.sock = wire
        self._check()

    def fingerprint(self) -> bytes | None:
        """Of the certificate that the receiver was proven by; once it is open."""
        return peer_fingerprint(self.sock)

    @property
    def sock(self) -> ssl.SSLSocket:
        """Below it, once it is open."""
        assert self._wire is not None
        return self._wire.sock

    def ask(self, method: str, path: str, body: bytes | None, seconds: float) -> http.client.HTTPResponse:
        """Send a request and return the answer's head; its body is read within the same deadline.

        Raises:
            OSError: the connection broke, or the deadline passed.
            http.client.HTTPException: what answers does not speak HTTP.
        """
        self.grant(seconds)
        self._idle_since = None
        self._http.request(method, path, body, {"Content-Type": "application/json"} if body is not None else {})
        answer = self._http.getresponse()
        if answer.length is None and not answer.chunked:
            # No receiver answers so: what the library read as headers broke off.
            raise http.client.IncompleteRead(b"")
        return answer

    def grant(self, seconds: float) -> None:
        """Set the deadline anew."""
        self._check()
        assert self._wire is not None
        self._wire.deadline = time.monotonic() + seconds

    def rest(self, answer: http.client.HTTPResponse) -> None:
        """Nothing more comes of the answer: idle from now on.

        Raises:
            http.client.HTTPException: it ended before its declared length.
        """
        # The library takes an early end for the end.
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        answer.close()
        self._idle_since = time.monotonic()

    def usable(self) -> bool:
        """Whether an idle connection can be used again."""
        # The library drops its socket where the answer said that the connection ends.
        if self._wire is None or self._http.sock is None or self.given_up or self._idle_since is None:
            return False
        return time.monotonic() - self._idle_since < IDLE_SECONDS and self._wire.silent()

    def abort(self) -> None:
        """Make the call under way and all later ones fail; from any thread."""
        self._dial.abort()

    def close(self) -> None:
        """Release the socket; may be called twice."""
        self._dial.close()
        self._http.close()

    def _check(self) -> None:
        if self.given_up:
            raise OSError("the connection was given up")


class _Wire:
    """What http.client takes for a socket: calls get what is left until the deadline."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.deadline = 0.0

    def sendall(self, data: bytes) -> None:
        self._spend()
        self.sock.sendall(data)

    def recv_into(self, view: memoryview) -> int:
        self._spend()
        return self.sock.recv_into(view)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Stream(self), BUFFER_BYTES)

    def silent(self) -> bool:
        """Whether nothing came while nothing was asked: an idle peer says only that it leaves."""
        try:
            self.sock.settimeout(0)
            self.sock.recv(1)
        except ssl.SSLWantReadError:
            return True
        except (OSError, ValueError):
            pass
        return False

    def close(self) -> None:
        """Called by the library, before the body is read, where the answer ends the connection: not yet, then."""

    def _spend(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self.sock.settimeout(left)


class _Stream(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.recv_into(memoryview(buffer))
