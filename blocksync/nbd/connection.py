"""One connection: a socket that drives the two sans-IO halves. Used by one thread at a time.

Requests are pipelined: several are on the wire before the first answer comes, bounded by count and by bytes. One
thread both sends and receives, so TLS needs no locking; the server's answers to what is bounded here fit into
socket buffers, so neither side can wait for the other to read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable

from blocksync.errors import BlocksyncError, from_os_error
from blocksync.nbd.address import Address
from blocksync.nbd.failures import Failures
from blocksync.nbd.negotiation import Agreed, Need, Negotiation, Send, Wanted
from blocksync.nbd.transmission import Request, Transmission
from blocksync.platforms import tune_socket
from blocksync.platforms.dialing import Dialing

REQUESTS_IN_FLIGHT = 16
BYTES_IN_FLIGHT = 8 << 20
# Silence for so long while an answer is due: the server is taken for dead.
TIMEOUT_SECONDS = 60.0
_AGAIN_SECONDS = 0.05

Work = tuple[Request, "memoryview | None", int]
"""A request, a write's payload, and the command's flags."""


class Connection:
    """Used by one thread at a time; only :meth:`abort` may be called from another.

    Args:
        address: of the export.
        failures: classes to raise.
    """

    agreed: Agreed

    def __init__(self, address: Address, failures: Failures) -> None:
        self._address = address
        self._failures = failures
        self._name = address.text
        self.broken = False
        self._dialing = _UnixDialing(address.socket) if address.socket else Dialing(address.host, address.port)
        self._socket: socket.socket | None = None

    def open(self, wanted: Wanted, timeout: float = TIMEOUT_SECONDS) -> None:
        """Connect and shake hands.

        Args:
            wanted: of the handshake.
            timeout: seconds of silence, now and later.

        Raises:
            BlocksyncError: of the failures' classes.
        """
        try:
            self._socket = self._dialing.reach(timeout)
            self._socket.settimeout(timeout)
            if not self._address.socket:
                tune_socket(self._socket)
        except OSError as error:
            raise self._lost(error, "cannot connect to") from error
        try:
            self.agreed = self._shake_hands(Negotiation(wanted, self._failures, self._name))
        except BaseException:
            self._break()
            raise
        self._core = Transmission(self.agreed, self._failures, self._name)

    def abort(self) -> None:
        """Make the call under way and all later ones fail; from any thread."""
        self._dialing.abort()

    def run(self, work: Iterable[Work]) -> None:
        """Carry out requests, several at a time, all of them even if one fails.

        Raises:
            BlocksyncError: an error that the server answered with, or the connection broke.
        """
        waiting: deque[Request] = deque()
        failed: BlocksyncError | None = None
        for request, payload, flags in work:
            self._send(self._core.begin(request, flags=flags), payload)
            waiting.append(request)
            while len(waiting) >= REQUESTS_IN_FLIGHT or sum(each.length for each in waiting) > BYTES_IN_FLIGHT:
                failed = self._settle(waiting) or failed
        while waiting:
            failed = self._settle(waiting) or failed
        if failed is not None:
            raise failed

    def patient(self, timeout: float) -> None:
        """Wait so many seconds from now on."""
        self._wire.settimeout(timeout)

    def close(self) -> None:
        """Say goodbye; may be called twice."""
        if not self.broken:
            with contextlib.suppress(OSError, ValueError):
                self._wire.sendall(self._core.disconnect())
        self._break()

    def _settle(self, waiting: deque[Request]) -> BlocksyncError | None:
        """Receive until the oldest request is done; what is done by then leaves the queue."""
        while not waiting[0].done:
            count = self._receive(self._core.want())
            try:
                self._core.filled(count)
            except BlocksyncError:
                self._break()
                raise
        failed = None
        while waiting and waiting[0].done:
            failed = self._core.failure(waiting.popleft()) or failed
        return failed

    def _shake_hands(self, negotiation: Negotiation) -> Agreed:
        steps = negotiation.run()
        given: bytes | None = None
        try:
            while True:
                step = steps.send(given)  # type: ignore[arg-type]  # None starts the generator
                given = b""
                if isinstance(step, Send):
                    self._send(step.data, None)
                elif isinstance(step, Need):
                    given = self._exactly(step.count)
                else:
                    self._secure()
        except StopIteration as end:
            agreed: Agreed = end.value
            return agreed

    def _secure(self) -> None:
        name = self._address.tls_hostname or self._address.host or "localhost"
        try:
            context = _context(self._address.tls_certificates)
            self._socket = context.wrap_socket(self._wire, server_hostname=name, do_handshake_on_connect=False)
            self._dialing.hold(self._socket)
            self._socket.do_handshake()
        except ssl.SSLCertVerificationError as error:
            raise self._failures.answered(
                f"the certificate of the NBD server {self._name} is not trusted: {error.verify_message}",
                remedy="name the folder of its authority with tls-certificates=, its name with tls-hostname=",
            ) from error
        except OSError as error:
            raise self._lost(error, "cannot start TLS with") from error

    def _exactly(self, count: int) -> bytes:
        held = bytearray(count)
        view = memoryview(held)
        while view:
            view = view[self._receive(view) :]
        return bytes(held)

    def _receive(self, view: memoryview) -> int:
        try:
            count = self._wire.recv_into(view)
        except (OSError, ValueError) as error:
            raise self._lost(error, "cannot receive from") from error
        if not count:
            raise self._lost(None, "the connection was closed by")
        return count

    def _send(self, header: bytes, payload: memoryview | None) -> None:
        try:
            self._wire.sendall(header)
            if payload is not None:
                self._wire.sendall(payload)
        except (OSError, ValueError) as error:
            raise self._lost(error, "cannot send to") from error

    @property
    def _wire(self) -> socket.socket:
        assert self._socket is not None
        return self._socket

    def _break(self) -> None:
        self.broken = True
        self._dialing.close()

    def _lost(self, error: Exception | None, doing: str) -> BlocksyncError:
        self._break()
        where = f"{doing} the NBD server {self._name}"
        if self._dialing.given_up:
            return self._failures.lost(f"{where}: it was given up")
        if isinstance(error, TimeoutError):
            return self._failures.lost(f"{where}: it does not answer")
        if isinstance(error, ssl.SSLError):
            return self._failures.lost(f"{where}: TLS: {error.reason or error}")
        if isinstance(error, OSError):
            told = from_os_error(error, self._failures.lost, where)
            return self._failures.lost(told.message)
        return self._failures.lost(where if error is None else f"{where}: {error}")


class _UnixDialing(Dialing):
    """The same to a socket of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)
        self._path = path

    def reach(self, seconds: float) -> socket.socket:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(f"no unix sockets on {os.name}")
        deadline = time.monotonic() + seconds
        while True:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                return self._connect(made, self._path, seconds)
            except BlockingIOError:
                # Its queue is full: unlike with TCP the call has ended, and is made again.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_SECONDS)


def _context(folder: str) -> ssl.SSLContext:
    """Servers of others speak TLS 1.2 too; their certificates are verified, always."""
    context = ssl.create_default_context(
        ssl.Purpose.SERVER_AUTH, cafile=os.path.join(folder, "ca-cert.pem") if folder else None
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    certificate = os.path.join(folder, "client-cert.pem")
    if folder and os.path.exists(certificate):
        context.load_cert_chain(certificate, os.path.join(folder, "client-key.pem"))
    return context
