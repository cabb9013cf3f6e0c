"""The receiver's data port: one thread brings every stranger from accept to a proven HELLO, or drops it.

Handshakes and greetings are done without blocking, by one selector, so a stranger never costs a thread and never more
than a socket and one small buffer. There is a deadline from accept to proven, and room for so many: when it runs
out, the one that has been pending longest goes, since an honest peer is proven within milliseconds.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from blocksync.errors import BlocksyncError, NetworkError, from_os_error
from blocksync.platforms import tune_socket
from blocksync.protocol.receiver import DataReceiver
from blocksync.protocol.wire import Hello
from blocksync.transports.link import Link, SocketLink
from blocksync.trust.tls import peer_fingerprint

PROVEN_WITHIN_SECONDS = 10.0
MAX_PENDING = 512
# Many senders may stand behind one address, each with several connections at once.
MAX_PENDING_PER_ADDRESS = 256
# Accepts in a row before the pending ones are looked at again.
_ACCEPTS_AT_ONCE = 32
_BACKLOG = 512
_BREATHER_SECONDS = 0.05
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handler = Callable[[Link, DataReceiver], None]
Authorise = Callable[[Hello, "bytes | None"], Handler]


@dataclass(slots=True, eq=False)
class _Pending:
    sock: ssl.SSLSocket
    address: str
    deadline: float
    core: DataReceiver = field(default_factory=DataReceiver)
    shaken: bool = False


class DataListener:
    """Listens on the data port.

    Args:
        context: for servers.
        host: address; empty for all.
        port: 0 picks a free one.
        authorise: says what to do with a proven connection, or raises to refuse it.

    Raises:
        NetworkError: the port cannot be had.
    """

    def __init__(self, context: ssl.SSLContext, host: str, port: int, authorise: Authorise) -> None:
        self._context = context
        self._authorise = authorise
        self._socket = listen(host, port, "data", "--data-port")
        self.port: int = self._socket.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._wake_out, self._wake_in = socket.socketpair()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._pending: OrderedDict[_Pending, None] = OrderedDict()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="data-port", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop whoever is not proven; proven connections are the engine's."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._wake_in.send(b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for pending in list(self._pending):
            self._drop(pending)
        self._selector.close()
        for sock in (self._socket, self._wake_in, self._wake_out):
            sock.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._next_deadline()):
                if key.fileobj is self._socket:
                    self._accept()
                elif isinstance(key.data, _Pending) and key.data in self._pending:
                    self._advance(key.data)
            self._expire()

    def _next_deadline(self) -> float | None:
        oldest = next(iter(self._pending), None)
        return None if oldest is None else max(0.0, oldest.deadline - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        while self._pending:
            oldest = next(iter(self._pending))
            if oldest.deadline > now:
                return
            self._drop(oldest)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                plain, address = self._socket.accept()
            except OSError as error:
                if error.errno in _FULL:
                    self._breathe()
                return  # nobody left
            self._make_room(address[0])
            try:
                plain.setblocking(False)
                tune_socket(plain)
                sock = self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            except (OSError, ValueError):
                plain.close()
                continue
            pending = _Pending(sock=sock, address=address[0], deadline=time.monotonic() + PROVEN_WITHIN_SECONDS)
            self._pending[pending] = None
            self._selector.register(sock, selectors.EVENT_READ, pending)

    def _breathe(self) -> None:
        """Out of descriptors or memory: the longest pending one frees some; without one, do not spin."""
        oldest = next(iter(self._pending), None)
        if oldest is not None:
            self._drop(oldest)
        else:
            time.sleep(_BREATHER_SECONDS)

    def _make_room(self, address: str) -> None:
        same = [pending for pending in self._pending if pending.address == address]
        if len(same) >= MAX_PENDING_PER_ADDRESS:
            self._drop(same[0])
        elif len(self._pending) >= MAX_PENDING:
            self._drop(next(iter(self._pending)))

    def _advance(self, pending: _Pending) -> None:
        try:
            if not pending.shaken:
                pending.sock.do_handshake()
                pending.shaken = True
            self._read_greeting(pending)
        except ssl.SSLWantReadError:
            self._selector.modify(pending.sock, selectors.EVENT_READ, pending)
        except ssl.SSLWantWriteError:
            self._selector.modify(pending.sock, selectors.EVENT_WRITE, pending)
        except BlocksyncError as error:
            with contextlib.suppress(OSError, BlocksyncError):
                pending.sock.send(pending.core.refuse(error))
            self._drop(pending)
        except (OSError, ValueError):
            self._drop(pending)

    def _read_greeting(self, pending: _Pending) -> None:
        reader = pending.core.reader
        while True:
            count = pending.sock.recv_into(reader.want())
            if not count:
                self._drop(pending)
                return
            complete = reader.filled(count)
            if complete is not None:
                break
        frame, payload = complete
        hello = pending.core.greeting(frame, payload)
        handler = self._authorise(hello, peer_fingerprint(pending.sock))
        self._selector.unregister(pending.sock)
        del self._pending[pending]
        pending.sock.settimeout(None)
        link = SocketLink(pending.sock, pending.address)
        thread = threading.Thread(target=handler, args=(link, pending.core), name="data-inbound", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more threads: this one is lost, the port is not
            link.close()

    def _drop(self, pending: _Pending) -> None:
        self._pending.pop(pending, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(pending.sock)
        pending.sock.close()


def listen(host: str, port: int, what: str, option: str) -> socket.socket:
    """A listening socket, IPv6 and IPv4 both where ``host`` is empty.

    Raises:
        NetworkError: the port is in use or forbidden.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            try:
                sock = socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
                )
            except OSError as error:
                if error.errno != getattr(socket, "EAI_ADDRFAMILY", 97):
                    raise
                sock = socket.create_server(("", port), backlog=_BACKLOG)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        mapped = from_os_error(error, NetworkError, f"cannot listen on the {what} port {port}")
        mapped.remedy = f"stop what uses it, or choose another with {option}"
        if error.errno is not None and (error.errno < 0 or error.errno == errno.EADDRNOTAVAIL):
            mapped.remedy = "give --listen an address that this machine has, or leave it out for all of them"
        raise mapped from error
    sock.setblocking(False)
    return sock
