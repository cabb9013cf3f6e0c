"""Opening TLS data links."""

from __future__ import annotations

import ssl

from blocksync.errors import NetworkError, from_os_error
from blocksync.platforms import tune_socket
from blocksync.transports.dial import Dial
from blocksync.transports.link import Link, SocketLink
from blocksync.trust.tls import check_pin, from_tls_error


def connect(dial: Dial, fingerprint: bytes, *, timeout: float) -> Link:
    """Connect and prove the receiver; nothing is sent before the pin was checked.

    Args:
        dial: to the data port, with this machine's identity.
        fingerprint: of the receiver's certificate.
        timeout: seconds for connecting and the handshake.

    Raises:
        NetworkError: nobody answers there, or the dial was aborted.
        TrustError: somebody else does.
    """
    try:
        secure = dial.open(timeout)
    except ssl.SSLError as error:
        raise from_tls_error(error, f"cannot open a TLS connection to {dial.peer}") from error
    except OSError as error:
        raise from_os_error(error, NetworkError, f"cannot connect to the data port {dial.peer}") from error
    try:
        tune_socket(secure)
        check_pin(secure, fingerprint)
        secure.settimeout(None)
    except OSError as error:
        secure.close()
        raise from_os_error(error, NetworkError, f"cannot connect to the data port {dial.peer}") from error
    except BaseException:
        secure.close()
        raise
    return SocketLink(secure, dial.peer)
