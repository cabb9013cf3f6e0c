"""The sender's side of the control port: a pool of HTTPS connections for the few threads that ask.

Blocking, since those who ask have nothing else to do, and because an asynchronous client takes longer to import than
a small pass takes to run (docs/PERFORMANCE.md).
"""

from __future__ import annotations

import contextlib
import errno
import http
import http.client
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

from blocksync.control.connection import Connection
from blocksync.control.diagnosis import key_is_refused
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError, ProtocolError, TrustError, from_os_error
from blocksync.geometry import DIGEST_BYTES
from blocksync.platforms.dialing import Watching
from blocksync.protocol.messages import (
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARACTERS,
    CommitAnswer,
    CommitRequest,
    ControlPort,
    DivideAnswer,
    DivideRequest,
    FinishRequest,
    Heartbeat,
    OpenAnswer,
    OpenRequest,
    RemovalRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.protocol.sender import error_by_code
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context, from_tls_error

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 15.0
# Opening may wait for an older session's last sync; a commit for the last window and the new manifest.
OPEN_SECONDS = 120.0
COMMIT_SECONDS = 3600.0
# A verify's next digests: the receiver reads a piece for each, from a disk that may be slow.
VERIFY_SILENCE_SECONDS = 120.0
MAX_SEGMENT_BYTES = 2 << 20
# Those of a disk of 1 PiB.
MAX_SEGMENT_DIGESTS_BYTES = (4 << 20) * DIGEST_BYTES
PART_BYTES = 64 << 10


class HttpControl(ControlPort):
    """A paired receiver's control port. Thread-safe.

    Args:
        host, port: of the control port.
        identity: this machine's.
        pin: fingerprint of the receiver's certificate, checked before a request leaves.
    """

    def __init__(self, host: str, port: int, identity: Identity, pin: bytes) -> None:
        # Reentrant: a signal handler may abort on top of a call of its own thread.
        self._lock = threading.RLock()
        self._busy: set[Callable[[], None]] = set()
        """What ends each call under way."""
        self._idle: list[Connection] = []
        self._peer = f"{host}:{port}"
        self._address = (host, port)
        self._identity = identity
        self._pin = pin
        self._context = client_context(identity, pin=pin)

    def status(self) -> dict[str, Any]:
        """The slots that this machine may use and what is going on in them."""
        said = self._json("GET", "/v1/status", None, ANSWER_SECONDS)
        if not isinstance(said, dict):
            raise ProtocolError("the receiver's status is no object")
        return said

    def open(self, request: OpenRequest) -> OpenAnswer:
        return OpenAnswer.from_json(self._json("POST", "/v1/sessions", request.to_json(), OPEN_SECONDS))

    def segment_digests(self, session: bytes) -> bytes:
        return self._bytes(
            "GET", f"/v1/sessions/{session.hex()}/segments", None, OPEN_SECONDS, MAX_SEGMENT_DIGESTS_BYTES
        )

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        path = f"/v1/sessions/{session.hex()}/segments/{index}"
        body = self._bytes("GET", path, None, ANSWER_SECONDS, MAX_SEGMENT_BYTES)
        if not body:
            raise ProtocolError("the receiver sent an empty segment")
        return body[0], body[1:]

    def heartbeat(self, session: bytes) -> Heartbeat:
        return Heartbeat.from_json(
            self._json("POST", f"/v1/sessions/{session.hex()}/heartbeat", {}, ANSWER_SECONDS)
        )

    def commit(self, session: bytes, request: CommitRequest) -> CommitAnswer:
        path = f"/v1/sessions/{session.hex()}/commit"
        return CommitAnswer.from_json(self._json("POST", path, request.to_json(), COMMIT_SECONDS))

    def end(self, session: bytes) -> None:
        self._json("DELETE", f"/v1/sessions/{session.hex()}", None, ANSWER_SECONDS)

    def receipt(self, request: dict[str, Any]) -> object:
        """The receiver's signed part of a receipt; its shape is for the caller to check."""
        return self._json("POST", "/v1/receipt", request, ANSWER_SECONDS)

    def slots(self) -> list[str]:
        """The slots that this machine is granted, in the order the receiver offers them."""
        said = self._json("GET", "/v1/status", None, ANSWER_SECONDS)
        slots = said.get("slots") if isinstance(said, dict) else None
        if not isinstance(slots, dict):
            raise ProtocolError("the receiver's status names no slots")
        return [str(name)[:MAX_TEXT_CHARACTERS] for name in slots]

    def divide(self, request: DivideRequest) -> DivideAnswer:
        return DivideAnswer.from_json(self._json("POST", "/v1/divide", request.to_json(), OPEN_SECONDS))

    def finish(self, request: FinishRequest) -> dict[str, Any]:
        said = self._json("POST", "/v1/finish", request.to_json(), COMMIT_SECONDS)
        if not isinstance(said, dict):
            raise ProtocolError("the receiver's report is no object")
        return said

    def remove_names(self, request: RemovalRequest) -> dict[str, Any]:
        said = self._json("POST", "/v1/removals", request.to_json(), COMMIT_SECONDS)
        if not isinstance(said, dict):
            raise ProtocolError("the receiver's report is no object")
        return said

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        with contextlib.ExitStack() as exits:
            connection = exits.enter_context(self._connected())
            answer = self._ask(connection, "POST", "/v1/verify", request.to_json(), VERIFY_SILENCE_SECONDS)
            try:
                said = json.loads(answer.getheader("X-Blocksync-Verify", ""))
            except (ValueError, RecursionError) as error:
                raise ProtocolError("the receiver's verify begins without an answer") from error
            return VerifyAnswer.from_json(said), self._parts(connection, answer, exits.pop_all())

    def _parts(
        self, connection: Connection, answer: http.client.HTTPResponse, exits: contextlib.ExitStack
    ) -> Iterator[bytes]:
        # What is left of an answer nobody reads to its end is not waited for: the connection is closed.
        with exits:
            while True:
                connection.grant(VERIFY_SILENCE_SECONDS)
                part = answer.read1(PART_BYTES)
                if not part:
                    connection.rest(answer)
                    return
                yield part

    def abort(self) -> None:
        with self._lock:
            busy = tuple(self._busy)
        for abort in busy:
            abort()

    def close(self) -> None:
        """Close all connections; may be called twice."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self.abort()

    # -- inside -----------------------------------------------------------------------------------------------

    def _json(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> object:
        raw = self._bytes(method, path, body, seconds, MAX_MESSAGE_BYTES)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("the receiver's answer is no JSON") from error

    def _bytes(self, method: str, path: str, body: dict[str, Any] | None, seconds: float, most: int) -> bytes:
        with self._connected() as connection:
            answer = self._ask(connection, method, path, body, seconds)
            return whole(connection, answer, most)

    def _ask(
        self, connection: Connection, method: str, path: str, body: dict[str, Any] | None, seconds: float
    ) -> http.client.HTTPResponse:
        answer = connection.ask(method, path, None if body is None else json.dumps(body).encode(), seconds)
        if answer.status != http.HTTPStatus.OK:
            raise refusal(whole(connection, answer, MAX_MESSAGE_BYTES))
        return answer

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        """A connection for one call, which :meth:`abort` ends; kept for the next one where it came to its end."""
        connection = self._take()
        try:
            if not connection.usable():
                connection.open(CONNECT_SECONDS)
            yield connection
        except (OSError, http.client.HTTPException) as error:
            told = None if connection.given_up else self._mapped(error, connection)
            # What is to be found out of a connection that was dropped ends with the call, too.
            if told is None or connection.given_up:
                raise IncompleteError("the request was given up") from None
            raise told from error
        finally:
            with self._lock:
                self._busy.discard(connection.abort)
                keep = connection.usable()
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _take(self) -> Connection:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
            if connection is not None and not connection.usable():
                connection.close()
                connection = None
            if connection is None:
                connection = Connection(*self._address, self._context)
            self._busy.add(connection.abort)
            return connection

    def _beside(self, connection: Connection) -> Watching:
        """What ends the connection's call ends what is done within it, too."""

        @contextlib.contextmanager
        def watching(abort: Callable[[], None]) -> Iterator[None]:
            with self._lock:
                self._busy.add(abort)
            try:
                if connection.given_up:
                    abort()
                yield
            finally:
                with self._lock:
                    self._busy.discard(abort)

        return watching

    def _mapped(self, error: Exception, connection: Connection) -> BlocksyncError:
        doing = f"the control port {self._peer} cannot be reached"
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return from_tls_error(error, doing)
        if isinstance(error, TimeoutError):
            return NetworkError(f"the control port {self._peer} did not answer in time")
        watching = self._beside(connection)
        if _dropped(error) and key_is_refused(*self._address, self._identity, self._pin, watching):
            return TrustError(
                f"the receiver at {self._peer} does not accept this machine's key",
                remedy="pair again with a fresh code from blocksync recv; blocksync peers lists there who may send",
            )
        if isinstance(error, http.client.HTTPException) and not isinstance(
            error, OSError | http.client.IncompleteRead
        ):
            return ProtocolError(f"what answers at {self._peer} does not speak HTTP: {type(error).__name__}")
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
            return from_os_error(error, NetworkError, doing)
        # An end in the midst of TLS has a number of OpenSSL's, which is no error of the system's.
        return NetworkError(f"{doing}: the connection broke off")


def _dropped(error: Exception) -> bool:
    """Whether the other end closed or reset the connection, instead of never being there."""
    if isinstance(error, ssl.SSLEOFError | http.client.RemoteDisconnected | http.client.IncompleteRead):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)


def whole(connection: Connection, answer: http.client.HTTPResponse, most: int) -> bytes:
    """The body of an answer, at most so many bytes.

    Raises:
        ProtocolError: it is longer.
        OSError, http.client.HTTPException: it broke off.
    """
    body = bytearray()
    while part := answer.read1(PART_BYTES):
        body += part
        if len(body) > most:
            raise ProtocolError(f"the receiver's answer is longer than {most} bytes")
    connection.rest(answer)
    return bytes(body)


def refusal(raw: bytes) -> BlocksyncError:
    """What the body of an answer other than OK says."""
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return ProtocolError("the control port answers, but not as blocksync does")
    return error_by_code(said.get("code"), said.get("message"), said.get("remedy"))
