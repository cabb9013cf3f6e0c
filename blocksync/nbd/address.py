"""Addresses of exports, written as in the NBD URI specification with a few words more.

``nbd://HOST[:PORT]/EXPORT``, ``nbds://`` for TLS, ``nbd+unix:///EXPORT?socket=PATH`` and ``nbds+unix://``. Words
after the question mark: ``tls-certificates=FOLDER`` (``ca-cert.pem`` and, for servers that ask who we are,
``client-cert.pem`` and ``client-key.pem``), ``tls-hostname=NAME``; ours are ``bitmap=NAME``, ``since=CHECKPOINT``
and ``checkpoint=CHECKPOINT``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from blocksync.errors import UsageError
from blocksync.nbd.wire import MAX_STRING_BYTES

DEFAULT_PORT = 10809
SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_EXAMPLE = "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An export.

    Args:
        host, port: of a TCP server; empty and 0 for a unix socket.
        socket: path of a unix socket; empty for TCP.
        export: its name, which may be empty.
        tls: whether TLS is insisted on.
        tls_certificates: folder of certificates; empty for the system's authorities.
        tls_hostname: name in the server's certificate.
        bitmap: dirty bitmap that tells what changed; empty for none.
        since: checkpoint at which the bitmap began to record, as far as the caller knows.
        checkpoint: name of the point in time that is read now.
    """

    host: str
    port: int
    socket: str
    export: str
    tls: bool
    tls_certificates: str = ""
    tls_hostname: str = ""
    bitmap: str = ""
    since: str = ""
    checkpoint: str = ""

    @property
    def text(self) -> str:
        """Canonical, without what does not name the export: the same for the same export."""
        scheme = "nbds" if self.tls else "nbd"
        export = quote(self.export, safe="/")
        if self.socket:
            return f"{scheme}+unix:///{export}?socket={quote(self.socket, safe='/')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}/{export}"

    def without_changes(self) -> Address:
        """The same export, without a word about changes."""
        return dataclasses.replace(self, bitmap="", since="", checkpoint="")


def is_address(text: str) -> bool:
    """Whether a source or target is meant as an NBD export."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
        words = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise UsageError(f"{text} is no NBD address: {error}", remedy=_EXAMPLE) from error
    if parts.scheme not in SCHEMES or parts.fragment:
        raise UsageError(f"{text} is no NBD address", remedy=_EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise UsageError("an NBD address with a user's name is not supported", remedy=_EXAMPLE)
    known = {"socket", "tls-certificates", "tls-hostname", "bitmap", "since", "checkpoint"}
    given = dict(words)
    if len(given) != len(words) or not set(given) <= known:
        odd = sorted(set(given) - known) or ["a word given twice"]
        raise UsageError(f"{text} holds {', '.join(odd)}, which is not known", remedy=_EXAMPLE)
    unix = parts.scheme.endswith("+unix")
    if unix != bool(given.get("socket")) or (unix and parts.netloc) or (not unix and not parts.hostname):
        raise UsageError(f"{text} names {'no socket' if unix else 'no host, or a socket'}", remedy=_EXAMPLE)
    export = unquote(parts.path.removeprefix("/"))
    if len(export.encode()) > MAX_STRING_BYTES:
        raise UsageError("the export's name is longer than the protocol allows", remedy=_EXAMPLE)
    return Address(
        host="" if unix else str(parts.hostname),
        port=0 if unix else (DEFAULT_PORT if port is None else port),
        socket=given.get("socket", ""),
        export=export,
        tls=parts.scheme.startswith("nbds"),
        tls_certificates=given.get("tls-certificates", ""),
        tls_hostname=given.get("tls-hostname", ""),
        bitmap=given.get("bitmap", ""),
        since=given.get("since", ""),
        checkpoint=given.get("checkpoint", ""),
    )
