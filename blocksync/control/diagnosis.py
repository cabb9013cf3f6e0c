"""Why a receiver drops us: because it does not accept our key, or because the link broke?

In TLS 1.3 a server judges the client's certificate after the client has finished its handshake. The server's event
loop closes the connection on such a verdict without sending the alert that says so, and the client sees a
reset, which is what a broken link looks like too. The difference: without a certificate the same receiver answers.
"""

from __future__ import annotations

import http.client
import socket

from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context

PROBE_SECONDS = 5.0


def key_is_refused(host: str, port: int, identity: Identity, pin: bytes) -> bool:
    """Whether the pinned receiver answers strangers, but drops this machine's key. Blocks for some seconds at most."""
    # The last question rules out that the receiver merely went away between the first two.
    return (
        _answers(host, port, None, pin)
        and not _answers(host, port, identity, pin)
        and _answers(host, port, None, pin)
    )


def _answers(host: str, port: int, identity: Identity | None, pin: bytes) -> bool:
    context = client_context(identity, pin=pin)
    try:
        with (
            socket.create_connection((host, port), timeout=PROBE_SECONDS) as plain,
            context.wrap_socket(plain) as secure,
        ):
            connection = http.client.HTTPConnection(host)
            connection.sock = secure
            connection.request("GET", "/v1/hello")
            return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
