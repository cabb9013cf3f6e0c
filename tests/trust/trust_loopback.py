"""A TLS server and client over real sockets, for the tests of trust."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from typing_extensions import Self

from blocksync.trust.tls import peer_fingerprint

GREETING_BYTES = 64


class Greeter:
    """A blocking TLS server: tells each client the fingerprint that it saw, then waits for the client to end."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.errors: list[Exception] = []
        self.received: list[bytes] = []
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=30)
        self._listener.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(30)
            try:
                self._greet(plain)
            except OSError as error:
                self.errors.append(error)
            finally:
                plain.close()

    def _greet(self, plain: socket.socket) -> None:
        with self._context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as connection:
            seen = peer_fingerprint(connection)
            connection.sendall((seen.hex() if seen else "-" * GREETING_BYTES).encode())
            self.received.append(connection.recv(1))


def greeting(context: ssl.SSLContext, address: tuple[str, int]) -> bytes | None:
    """Connect, read what the server saw, end properly."""
    with (
        socket.create_connection(address, timeout=30) as plain,
        context.wrap_socket(plain, suppress_ragged_eofs=False) as connection,
    ):
        text = b""
        while len(text) < GREETING_BYTES:
            piece = connection.recv(GREETING_BYTES)
            assert piece
            text += piece
        connection.sendall(b"x")
    return None if text.startswith(b"-") else bytes.fromhex(text.decode())
