"""The control port: HTTPS with JSON, on an event loop in a thread of its own.

Handlers parse and authenticate on the loop and do the work, which blocks on disks, in a bounded pool of threads.
Every request but ``hello`` and ``pair`` needs the certificate of a peer that has a grant at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from aiohttp import web

from blocksync import __version__
from blocksync.control.door import Door
from blocksync.control.loop import new_loop
from blocksync.control.service import Peer, ReceiverService
from blocksync.control.watching import is_local, watching_routes
from blocksync.errors import (
    BlocksyncError,
    NetworkError,
    ProtocolError,
    SlotBusyError,
    TrustError,
    UsageError,
    VersionSkewError,
)
from blocksync.protocol.messages import (
    CONTROL_VERSION,
    MAX_MESSAGE_BYTES,
    MAX_PLAN_BYTES,
    CommitRequest,
    ControlPort,
    DivideRequest,
    FinishRequest,
    Message,
    OpenRequest,
    RemovalRequest,
    VerifyRequest,
)
from blocksync.transports.listener import listen
from blocksync.trust.tls import peer_fingerprint

# What may block for long (opening, committing, reading for a verify) and what is short have threads of their own, so
# that no peer keeps another's signs of life waiting.
WORKERS = 64
QUICK_WORKERS = 4
BODY_SECONDS = 10.0
CLOSING_SECONDS = 1.0
IDLE_SECONDS = 60.0
STREAM_PART_BYTES = 64 << 10
# What a verify has found goes out at least this often: the other end compares meanwhile, and knows that this one lives.
STREAM_PART_SECONDS = 0.1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
M = TypeVar("M", bound=Message)


_log = logging.getLogger(__name__)


class _WithoutLeavers(logging.Filter):
    """Drops what aiohttp logs of a peer that closed first: no fault of this end, and its traceback helps nobody.

    The error itself goes its way, so that what was cut is never ended as if it were whole.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, ConnectionError)


_served = logging.getLogger(f"{__name__}.served")
_served.addFilter(_WithoutLeavers())
_RUNNING: dict[str, Any] = {
    "access_log": None,
    "keepalive_timeout": IDLE_SECONDS,
    "shutdown_timeout": 1.0,
    "logger": _served,
}


class ControlServer:
    """Serves a :class:`ReceiverService`.

    Args:
        service: the receiver.
        context: TLS for servers.
        host: address; empty for all.
        port: 0 picks a free one.
        status: loopback address and port of the status page without TLS; None for none.

    Raises:
        NetworkError: the port cannot be had.
    """

    def __init__(
        self,
        service: ReceiverService,
        context: ssl.SSLContext,
        host: str,
        port: int,
        status: tuple[str, int] | None = None,
    ) -> None:
        self._service = service
        self._context = context
        self._socket = listen(host, port, "control", "--control-port")
        self.port: int = self._socket.getsockname()[1]
        self._status_socket: socket.socket | None = None
        if status is not None:
            try:
                self._status_socket = listen(*status, "status", "--status-listen")
            except BaseException:
                self._socket.close()
                raise
        self.status_port: int = self._status_socket.getsockname()[1] if self._status_socket else 0
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="control")
        self._quick_pool = ThreadPoolExecutor(QUICK_WORKERS, thread_name_prefix="control-quick")
        self._loop = new_loop()
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="control-port", daemon=True)

    def start(self) -> None:
        """Begin to answer.

        Raises:
            NetworkError: the loop could not take the port.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise NetworkError(f"the control port cannot be served: {self._failure}") from self._failure

    def stop(self) -> None:
        """End all requests and the thread."""
        if self._thread.is_alive() and self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        for pool in (self._pool, self._quick_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        self._socket.close()
        if self._status_socket is not None:
            self._status_socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES, middlewares=[_errors_as_json])
        app.add_routes(self._routes())
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=1.0, logger=_served
        )
        await runner.setup()
        server = runner.server
        assert server is not None
        door = Door(self._socket, self._context, server)
        admitting = asyncio.get_running_loop().create_task(door.run())
        watching = await self._serve_status()
        self._ready.set()
        await self._stopping.wait()
        if watching is not None:
            await watching.cleanup()
        admitting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await admitting
        await runner.cleanup()
        await door.emptied(CLOSING_SECONDS)

    async def _serve_status(self) -> web.AppRunner | None:
        if self._status_socket is None:
            return None
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES, middlewares=[_errors_as_json])
        app.add_routes(watching_routes(self._open_view))
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=1.0, logger=_served
        )
        await runner.setup()
        await web.SockSite(runner, self._status_socket).start()
        return runner

    def _routes(self) -> list[web.RouteDef]:
        session = "/v1/sessions/{session:[0-9a-f]{32}}"
        return [
            web.get("/v1/hello", self._hello),
            web.get("/v1/health", self._health),
            web.get("/v1/status", self._status),
            web.post("/v1/pair", self._pair),
            web.post("/v1/sessions", self._asked(OpenRequest, lambda port, said: port.open(said).to_json())),
            web.get(f"{session}/segments", self._segments),
            web.get(session + "/segments/{index:[0-9]{1,9}}", self._segment),
            web.post(f"{session}/heartbeat", self._heartbeat),
            web.post(f"{session}/commit", self._commit),
            web.delete(session, self._close),
            web.post("/v1/verify", self._verify),
            web.post("/v1/receipt", self._receipt),
            *watching_routes(self._view),
            web.post(
                "/v1/divide",
                self._asked(DivideRequest, lambda port, said: port.divide(said).to_json(), most=MAX_PLAN_BYTES),
            ),
            web.post("/v1/finish", self._asked(FinishRequest, lambda port, said: port.finish(said))),
            web.post("/v1/removals", self._asked(RemovalRequest, lambda port, said: port.remove_names(said))),
        ]

    # -- requests ---------------------------------------------------------------------------------------------

    async def _hello(self, request: web.Request) -> web.Response:
        said: dict[str, object] = {
            "control": CONTROL_VERSION,
            "version": __version__,
            "data_port": self._service.data_port,
        }
        marks = request.query.get("marks", "")
        if marks:
            said["itself"] = await self._quick(lambda: self._service.recognises(marks))
        return web.json_response(said)

    async def _health(self, request: web.Request) -> web.Response:
        await self._peer(request)
        return web.json_response({"healthy": True})

    async def _status(self, request: web.Request) -> web.Response:
        peer = await self._peer(request)
        return web.json_response(await self._quick(lambda: self._service.status(peer)))

    async def _pair(self, request: web.Request) -> web.Response:
        said = await _json(request)
        if not isinstance(said, dict):
            raise ProtocolError("a pairing request must be a JSON object")
        return web.json_response(await self._quick(lambda: self._service.pair(said)))

    async def _receipt(self, request: web.Request) -> web.Response:
        peer = await self._peer(request)
        said = await _json(request)
        if not isinstance(said, dict):
            raise ProtocolError("a request for a receipt must be a JSON object")
        return web.json_response(await self._work(lambda: self._service.receipt(peer, said)))

    async def _view(self, request: web.Request) -> dict[str, Any]:
        peer = await self._peer(request)
        view: dict[str, Any] = await self._quick(lambda: self._service.view(peer))
        return view

    async def _open_view(self, request: web.Request) -> dict[str, Any]:
        if not is_local(request.host):
            raise TrustError("the status page is for this machine alone")
        view: dict[str, Any] = await self._quick(lambda: self._service.view(None))
        return view

    def _asked(
        self, kind: type[M], ask: Callable[[ControlPort, M], dict[str, Any]], *, most: int = MAX_MESSAGE_BYTES
    ) -> Handler:
        """A handler that puts a message to the peer's port, and answers what that does.

        Args:
            most: bytes of the message; read of a known peer alone.
        """

        async def handle(request: web.Request) -> web.Response:
            port = await self._port(request)
            wanted = kind.from_json(await _json(request.clone(client_max_size=most)))
            return web.json_response(await self._work(lambda: ask(port, wanted)))

        return handle

    async def _segments(self, request: web.Request) -> web.Response:
        port = await self._port(request)
        body = await self._work(lambda: port.segment_digests(_session(request)))
        return web.Response(body=body, content_type="application/octet-stream")

    async def _segment(self, request: web.Request) -> web.Response:
        port = await self._port(request)
        index = int(request.match_info["index"])
        state, payload = await self._work(lambda: port.segment(_session(request), index))
        return web.Response(body=bytes([state]) + payload, content_type="application/octet-stream")

    async def _heartbeat(self, request: web.Request) -> web.Response:
        port = await self._port(request)
        answer = await self._quick(lambda: port.heartbeat(_session(request)))
        return web.json_response(answer.to_json())

    async def _commit(self, request: web.Request) -> web.Response:
        port = await self._port(request)
        wanted = CommitRequest.from_json(await _json(request))
        answer = await self._work(lambda: port.commit(_session(request), wanted))
        return web.json_response(answer.to_json())

    async def _close(self, request: web.Request) -> web.Response:
        port = await self._port(request)
        await self._work(lambda: port.end(_session(request)))
        return web.json_response({})

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        port = await self._port(request)
        wanted = VerifyRequest.from_json(await _json(request))
        answer, parts = await self._work(lambda: port.verify(wanted))
        response = web.StreamResponse(headers={"X-Blocksync-Verify": json.dumps(answer.to_json())})
        try:
            await response.prepare(request)
            while part := await self._work(lambda: _gather(parts)):
                await _write(response, part)
            await response.write_eof()
        finally:
            await self._work(lambda: _close_iterator(parts))
        return response

    # -- inside -----------------------------------------------------------------------------------------------

    async def _peer(self, request: web.Request) -> Peer:
        tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        fingerprint = peer_fingerprint(tls) if tls is not None else None
        peer: Peer | None = None
        if fingerprint is not None:
            shown = fingerprint
            peer = await self._quick(lambda: self._service.grants_fingerprint_ok(shown))
        if peer is None:
            raise TrustError("this receiver does not know the sender's key")
        return peer

    async def _port(self, request: web.Request) -> ControlPort:
        return self._service.port_for(await self._peer(request))

    async def _work(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _quick(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._quick_pool, call)


def _session(request: web.Request) -> bytes:
    return bytes.fromhex(request.match_info["session"])


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await asyncio.wait_for(request.read(), BODY_SECONDS))
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the request is no JSON") from error
    except asyncio.TimeoutError as error:
        # Held on its way as a rule: the sender's next attempt may come through.
        raise NetworkError("the request did not arrive in time") from error


async def _write(response: web.StreamResponse, part: bytes) -> None:
    """Write within bounds: a peer that stopped reading must not keep the slot."""
    try:
        await asyncio.wait_for(response.write(part), IDLE_SECONDS)
    except asyncio.TimeoutError as error:
        raise ConnectionResetError("the sender stopped reading") from error


def _gather(parts: Iterator[bytes]) -> bytes:
    gathered = bytearray()
    due = time.monotonic() + STREAM_PART_SECONDS
    for part in parts:
        gathered += part
        if len(gathered) >= STREAM_PART_BYTES or time.monotonic() >= due:
            break
    return bytes(gathered)


def _close_iterator(parts: Iterator[bytes]) -> None:
    close = getattr(parts, "close", None)
    if close is not None:
        close()


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BlocksyncError as error:
        return _told(error)
    except (web.HTTPException, ConnectionError):
        raise  # aiohttp's own answers, and senders that left
    except Exception as error:  # noqa: BLE001 - a bug of ours must not tell a stranger where it is
        _log.debug("unexpected while answering %s", request.path, exc_info=True)
        return _told(BlocksyncError(f"unexpected: {type(error).__name__}"))


def _told(error: BlocksyncError) -> web.Response:
    body = {
        "code": error.code,
        "exit_code": error.exit_code,
        "message": error.message[:1000],
        "remedy": error.remedy[:500],
    }
    return web.json_response(body, status=_status_of(error))


def _status_of(error: BlocksyncError) -> int:
    if isinstance(error, TrustError):
        return 403
    if isinstance(error, SlotBusyError):
        return 409
    if isinstance(error, NetworkError):
        return 410
    if isinstance(error, (ProtocolError, VersionSkewError, UsageError)):
        return 400
    return 500
