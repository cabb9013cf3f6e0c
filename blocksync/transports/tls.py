"""Opening TLS data links."""

from __future__ import annotations

import socket
import ssl

from blocksync.errors import NetworkError, from_os_error
from blocksync.platforms import tune_socket
from blocksync.transports.link import Link, SocketLink
from blocksync.trust.tls import check_pin, from_tls_error


def connect(host: str, port: int, context: ssl.SSLContext, fingerprint: bytes, *, timeout: float) -> Link:
    """Connect and prove the receiver; nothing is sent before the pin was checked.

    Args:
        host, port: of the data port.
        context: for clients, with this machine's identity.
        fingerprint: of the receiver's certificate.
        timeout: seconds for connecting and the handshake.

    Raises:
        NetworkError: nobody answers there.
        TrustError: somebody else does.
    """
    peer = f"{host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        raise from_os_error(error, NetworkError, f"cannot connect to the data port {peer}") from error
    try:
        tune_socket(plain)
        secure = context.wrap_socket(plain, do_handshake_on_connect=False)
    except OSError as error:
        plain.close()
        raise from_os_error(error, NetworkError, f"cannot connect to the data port {peer}") from error
    try:
        secure.do_handshake()
        check_pin(secure, fingerprint)
        secure.settimeout(None)
    except OSError as error:
        secure.close()
        raise from_tls_error(error, f"cannot open a TLS connection to {peer}") from error
    except BaseException:
        secure.close()
        raise
    return SocketLink(secure, peer)
