"""Why a receiver drops us: because it does not accept our key, or because the link broke?

In TLS 1.3 a server judges the client's certificate after the client has finished its handshake. The server's event
loop closes the connection on such a verdict without sending the alert that says so, and the client sees a
reset, which is what a broken link looks like too. The difference: without a certificate the same receiver answers.
"""

from __future__ import annotations

import contextlib
import http.client

from blocksync.control.connection import Connection
from blocksync.platforms.dialing import Watching
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context

PROBE_SECONDS = 5.0


def key_is_refused(host: str, port: int, identity: Identity, pin: bytes, watching: Watching) -> bool:
    """Whether the pinned receiver answers strangers, but drops this machine's key. Blocks for some seconds at most.

    Args:
        watching: ends it at once, and then nothing is found out.
    """

    def answers(shown: Identity | None) -> bool:
        connection = Connection(host, port, client_context(shown, pin=pin))
        with contextlib.closing(connection), watching(connection.abort):
            try:
                connection.open(PROBE_SECONDS)
                return connection.ask("GET", "/v1/hello", None, PROBE_SECONDS).status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False

    # The last question rules out that the receiver merely went away between the first two, and that somebody said
    # stop: then it is not put, and nobody answered it.
    return answers(None) and not answers(identity) and answers(None)
