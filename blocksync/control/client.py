"""The sender's side of the control port: a blocking face over an asynchronous HTTPS client.

aiohttp is imported when a client is made, not before: it is a third of the command's start.
"""

from __future__ import annotations

import asyncio
import errno
import json
import secrets
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from blocksync.control.diagnosis import key_is_refused
from blocksync.control.loop import new_loop
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError, ProtocolError, TrustError, from_os_error
from blocksync.geometry import DIGEST_BYTES, MAX_BLOCK_BYTES
from blocksync.protocol.messages import (
    MAX_MESSAGE_BYTES,
    MAX_TEXT_CHARACTERS,
    CommitAnswer,
    CommitRequest,
    ControlPort,
    Heartbeat,
    OpenAnswer,
    OpenRequest,
    VerifyAnswer,
    VerifyRequest,
)
from blocksync.protocol.sender import error_by_code
from blocksync.trust.codes import PairingCode
from blocksync.trust.identity import Identity
from blocksync.trust.pairing import PairingReply, check_reply, make_request
from blocksync.trust.tls import client_context, from_tls_error, peer_fingerprint

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 15.0
# Opening may wait for an older session's last sync; a commit for the last window and the new manifest.
OPEN_SECONDS = 120.0
COMMIT_SECONDS = 3600.0
# A verify's next digests: the receiver reads a piece for each, from a disk that may be slow.
VERIFY_SILENCE_SECONDS = 120.0
MAX_SEGMENT_BYTES = 2 << 20
MAX_SEGMENT_DIGESTS_BYTES = (1 << 32) * DIGEST_BYTES // MAX_BLOCK_BYTES * 16

T = TypeVar("T")


class HttpControl(ControlPort):
    """A paired receiver's control port. Thread-safe.

    Args:
        host, port: of the control port.
        identity: this machine's.
        pin: fingerprint of the receiver's certificate, checked before a request leaves.
    """

    def __init__(self, host: str, port: int, identity: Identity, pin: bytes) -> None:
        import aiohttp

        self._aiohttp = aiohttp
        # Reentrant: a signal handler may abort on top of a call of its own thread.
        self._lock = threading.RLock()
        self._waiting: set[Future[Any]] = set()
        self._peer = f"{host}:{port}"
        self._address = (host, port)
        self._identity = identity
        self._pin = pin
        self._base = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._context = client_context(identity, pin=pin)
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control-client", daemon=True)
        self._thread.start()
        self._session: aiohttp.ClientSession = self._wait(self._make_session())

    async def _make_session(self) -> aiohttp.ClientSession:
        connector = self._aiohttp.TCPConnector(ssl=self._context, limit=8, keepalive_timeout=30)
        return self._aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False)

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

    def slots(self) -> list[str]:
        """The slots that this machine is granted, in the order the receiver offers them."""
        said = self._json("GET", "/v1/status", None, ANSWER_SECONDS)
        slots = said.get("slots") if isinstance(said, dict) else None
        if not isinstance(slots, dict):
            raise ProtocolError("the receiver's status names no slots")
        return [str(name)[:MAX_TEXT_CHARACTERS] for name in slots]

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        answer = self._call(self._begin_verify(request))
        try:
            said = json.loads(answer.headers.get("X-Blocksync-Verify", ""))
        except (ValueError, RecursionError) as error:
            self._loop.call_soon_threadsafe(answer.close)
            raise ProtocolError("the receiver's verify begins without an answer") from error
        return VerifyAnswer.from_json(said), self._parts(answer)

    async def _begin_verify(self, request: VerifyRequest) -> aiohttp.ClientResponse:
        timeout = self._aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=VERIFY_SILENCE_SECONDS
        )
        answer = await self._session.post(self._base + "/v1/verify", json=request.to_json(), timeout=timeout)
        if answer.status != 200:
            async with answer:
                raise _refusal(await _bounded(answer, MAX_MESSAGE_BYTES))
        return answer

    def _parts(self, answer: aiohttp.ClientResponse) -> Iterator[bytes]:
        try:
            while part := self._call(answer.content.readany()):
                yield part
        finally:
            self._loop.call_soon_threadsafe(answer.close)

    def abort(self) -> None:
        with self._lock:
            waiting = tuple(self._waiting)
        for future in waiting:
            future.cancel()

    def close(self) -> None:
        """Close all connections; may be called twice."""
        if self._thread.is_alive():
            self._wait(self._session.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # -- inside -----------------------------------------------------------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for an answer; :meth:`abort` ends the waiting."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        with self._lock:
            self._waiting.add(future)
        try:
            return future.result()
        except CancelledError:
            raise IncompleteError("the request was given up") from None
        except BlocksyncError:
            raise
        except Exception as error:
            raise self._mapped(error) from error
        finally:
            with self._lock:
                self._waiting.discard(future)

    def _json(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> object:
        raw = self._bytes(method, path, body, seconds, MAX_MESSAGE_BYTES)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("the receiver's answer is no JSON") from error

    def _bytes(self, method: str, path: str, body: dict[str, Any] | None, seconds: float, most: int) -> bytes:
        return self._call(self._request(method, path, body, seconds, most))

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, seconds: float, most: int
    ) -> bytes:
        timeout = self._aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        async with self._session.request(method, self._base + path, json=body, timeout=timeout) as answer:
            raw = await _bounded(answer, most if answer.status == 200 else MAX_MESSAGE_BYTES)
            if answer.status != 200:
                raise _refusal(raw)
            return raw

    def _mapped(self, error: BaseException) -> BlocksyncError:
        doing = f"the control port {self._peer} cannot be reached"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, BlocksyncError):
                return cause
            if isinstance(cause, ssl.SSLError):
                return from_tls_error(cause, doing)
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
            return NetworkError(f"the control port {self._peer} did not answer in time")
        if self._dropped(error) and key_is_refused(*self._address, self._identity, self._pin):
            return TrustError(
                f"the receiver at {self._peer} does not accept this machine's key",
                remedy="pair again with a fresh code from blocksync recv; blocksync peers lists there who may send",
            )
        if isinstance(error, OSError):
            return from_os_error(error, NetworkError, doing)
        return NetworkError(f"{doing}: {type(error).__name__}: {str(error)[:200]}")

    def _dropped(self, error: BaseException) -> bool:
        """Whether the other end closed or reset the connection, instead of never being there."""
        if isinstance(error, self._aiohttp.ServerDisconnectedError):
            return True
        return isinstance(error, OSError) and error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)


def pair(host: str, port: int, code: PairingCode, identity: Identity, *, name: str) -> tuple[bytes, str]:
    """Make first contact with a receiver.

    Nothing is sent before its certificate matched the code.

    Returns:
        the receiver's whole fingerprint and its name.

    Raises:
        TrustError: the code is not this receiver's, wrong, expired or used up.
        NetworkError: nobody answers.
    """
    doing = f"cannot pair with {host}:{port}"
    context = client_context(None, pin=code.pin)
    try:
        plain = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise from_os_error(error, NetworkError, f"the control port {host}:{port} cannot be reached") from error
    try:
        with plain, context.wrap_socket(plain) as secure:
            fingerprint = peer_fingerprint(secure)
            if fingerprint is None:
                raise TrustError("the receiver showed no certificate")
            request = make_request(code, identity, receiver=fingerprint, nonce=secrets.token_bytes(32), name=name)
            raw = _post(secure, host, request.to_json())
    except ssl.SSLError as error:
        raise from_tls_error(error, doing) from error
    except OSError as error:
        raise from_os_error(error, NetworkError, doing) from error
    reply = PairingReply.from_json(raw)
    check_reply(code, request, reply, receiver=fingerprint)
    return fingerprint, reply.name


def _post(secure: ssl.SSLSocket, host: str, body: dict[str, object]) -> object:
    """One POST over a connection whose peer was just proven: http.client takes the socket as it is."""
    import http.client

    connection = http.client.HTTPConnection(host)
    connection.sock = secure
    try:
        connection.request("POST", "/v1/pair", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read(MAX_MESSAGE_BYTES)
    except http.client.HTTPException as error:
        raise ProtocolError(f"the receiver's control port does not speak HTTP: {type(error).__name__}") from error
    if answer.status != 200:
        raise _refusal(raw)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the receiver's answer is no JSON") from error


def _refusal(raw: bytes) -> BlocksyncError:
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        return ProtocolError("the control port answers, but not as blocksync does")
    return error_by_code(said.get("code"), said.get("message"), said.get("remedy"))


async def _bounded(answer: aiohttp.ClientResponse, most: int) -> bytes:
    body = bytearray()
    async for part in answer.content.iter_chunked(64 << 10):
        body += part
        if len(body) > most:
            raise ProtocolError(f"the receiver's answer is longer than {most} bytes")
    return bytes(body)
