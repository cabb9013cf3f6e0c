"""TLS 1.3 between machines that know each other's keys, and nothing else.

**The receiver** (TLS server) asks for a client certificate and verifies one that is shown against the
certificates of the peers it granted something, each its own trust anchor. None shown is fine for TLS: whoever
pairs has no grant yet. So the handshake proves *which* peer it is, and :func:`peer_fingerprint` with the grants
decides what it may do.

**The sender** (TLS client) knows its receiver by a fingerprint, so chains, names and dates mean nothing to it:
``verify_mode`` is CERT_NONE and the fingerprint of the certificate is compared instead. That is safe in TLS 1.3:

* CERT_NONE skips the judgement of the certificate's chain only. The server's CertificateVerify, a signature over
  the whole transcript with the certificate's key, is always checked by OpenSSL; without it, or with a wrong one,
  the handshake fails. So a completed handshake with the pinned certificate was held with the owner of its key.
* Every TLS 1.3 handshake of ours shows a certificate: there are no anonymous suites, no static RSA, no
  renegotiation, and sessions are never resumed, nor pre-shared keys set.
* The transcript covers both hellos, so nothing can be negotiated down, and a man in the middle has no transcript
  that both ends share.
* The comparison comes before anything is written. A context with a ``pin`` makes it part of the handshake itself,
  for blocking sockets, asyncio, uvloop and everything built on them (an HTTP client for one): nobody can forget it.
  :func:`check_pin` is for connections whose context has none.

What an impostor can learn before the comparison is the client's certificate, that is its public key.

In TLS 1.3 a client's handshake ends before the server has judged the client's certificate: a refused client sees
its first writes succeed, then an alert or a reset. Nothing counts as connected before the peer's first answer.

**Suites.** Python before 3.15 cannot choose among TLS 1.3 suites (``set_ciphers`` concerns TLS 1.2), and
OpenSSL's order, AES-256-GCM before ChaCha20 before AES-128-GCM, holds: the fastest but one with AES in hardware,
slower than need be without. From 3.15 on (``SSLContext.set_ciphersuites``) the hardware decides, on the server,
whose order counts.
"""

from __future__ import annotations

import functools
import hmac
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

from blocksync.errors import BlocksyncError, NetworkError, ProtocolError, TrustError
from blocksync.trust.identity import FINGERPRINT_BYTES, Identity, fingerprint_of

PIN_BYTES_MIN = 16
"""Shortest pin: the prefix of a fingerprint that a pairing code carries (see :mod:`blocksync.trust.codes`)."""

_SUITES_WITH_AES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_SUITES_WITHOUT_AES = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"

# What a peer's alert says about our key. OpenSSL names alerts older than TLS 1.0 after SSLv3.
_REFUSALS = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_ACCESS_DENIED",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE",
)
_WRONG_PEER_REMEDY = (
    "check that the address is the receiver's; if its state was made anew, pair again with a fresh code"
)
_WRONG_PEER_SAFE = "nothing was sent to it"
_NOT_OURS = (
    "WRONG_VERSION_NUMBER",
    "UNSUPPORTED_PROTOCOL",
    "PROTOCOL_VERSION",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
)


def server_context(identity: Identity, peer_certs: Iterable[bytes]) -> ssl.SSLContext:
    """Make a receiver's context that accepts these peers, and strangers without a certificate.

    Args:
        identity: shown to clients.
        peer_certs: DER certificates of the peers; a client showing any other fails the handshake.

    Raises:
        TrustError: the identity or a peer's certificate is damaged.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # no resumption: a revoked peer's ticket must not open anything
    identity.load_into(context)
    try:
        for certificate in peer_certs:
            context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise TrustError(
            "a granted peer's certificate is damaged", remedy="revoke that peer, pair again"
        ) from error
    _order_suites(context, aes=_processor_has_aes())
    return context


def client_context(identity: Identity | None, *, pin: bytes | None = None) -> ssl.SSLContext:
    """Make a sender's context.

    Args:
        identity: shown to the server; None while pairing, since the server refuses a key it does not know yet.
        pin: fingerprint (32 bytes), or its prefix from a pairing code, that every handshake of this context
            demands. A wrong peer makes the handshake raise :class:`ssl.SSLCertVerificationError`, which is what
            asyncio expects there; :func:`from_tls_error` turns it into a TrustError. Without a pin the caller
            owes a :func:`check_pin` before the first write.

    Raises:
        TrustError: the identity is damaged.
        ValueError: the pin is too short or too long.
    """
    context = _PinningContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # see the module's text
    context.pin = None if pin is None else _checked_pin(pin)
    if identity is not None:
        identity.load_into(context)
    return context


def check_pin(connection: ssl.SSLSocket | ssl.SSLObject, pin: bytes) -> bytes:
    """Compare the server's key with the pinned one; to be called after the handshake, before the first write.

    Returns:
        the server's whole fingerprint, 32 bytes.

    Raises:
        TrustError: another key, or none.
        ValueError: the pin is too short or too long.
    """
    seen = peer_fingerprint(connection)
    if seen is None or not _pin_matches(pin, seen):
        raise _wrong_peer(pin, seen)
    return seen


def peer_fingerprint(connection: ssl.SSLSocket | ssl.SSLObject) -> bytes | None:
    """Fingerprint (32 bytes) of the certificate whose key the peer proved to hold, or None if it showed none.

    On a server that is the peer to look up in the grants, again at each step that matters: they may have changed
    since the handshake.
    """
    certificate = connection.getpeercert(binary_form=True)
    return None if certificate is None else fingerprint_of(certificate)


class LiveServerContext:
    """A server context whose trusted peers may change while it listens.

    OpenSSL can add trust anchors to a context in use but not remove them. So :attr:`context`, which listens and
    trusts nobody, hands each handshake over to the newest context as soon as the client's hello is read (the
    server-name callback, which OpenSSL also calls when no name is sent). Handshakes under way keep theirs;
    connections already made are the grants' business at their next step.

    Threads: all methods may be called from any thread; handshakes may run in many.

    Args:
        identity: shown to clients.
        peer_certs: the peers' DER certificates at the time of asking, asked at each handshake; cheap when
            unchanged, as :meth:`blocksync.trust.grants.Grants.certificates` is. If it raises, the handshake fails.
        on_error: told of what it raised, from the thread of the handshake.
    """

    def __init__(
        self,
        identity: Identity,
        peer_certs: Callable[[], Iterable[bytes]],
        *,
        on_error: Callable[[BlocksyncError], None] | None = None,
    ) -> None:
        self._identity = identity
        self._peer_certs = peer_certs
        self._on_error = on_error
        self._lock = threading.Lock()
        self._newest: ssl.SSLContext | None = None
        self._newest_certs: tuple[bytes, ...] = ()
        self.context = server_context(identity, ())
        self.context.sni_callback = self._hand_over

    def _hand_over(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        try:
            connection.context = self._current()
        except BlocksyncError as error:
            if self._on_error is not None:
                self._on_error(error)
            return int(ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR)
        return None

    def _current(self) -> ssl.SSLContext:
        certs = tuple(self._peer_certs())
        with self._lock:
            if self._newest is None or certs != self._newest_certs:
                self._newest = server_context(self._identity, certs)
                self._newest_certs = certs
            return self._newest


def from_tls_error(error: OSError, doing: str) -> BlocksyncError:
    """Map what a TLS connection raised at the boundary; raise the result ``from`` the cause.

    Args:
        error: an :class:`ssl.SSLError`, or one whose chain of causes holds one (HTTP clients wrap them).
        doing: the action and its object, as in ``"cannot connect to db1:8080"``.

    Returns:
        TrustError where a key was refused, on either side; ProtocolError where the other end speaks something
        else; NetworkError otherwise.
    """
    # The innermost is OpenSSL's or ours; an HTTP client's own errors may pass for TLS errors without their details.
    cause: ssl.SSLError | None = None
    link: BaseException | None = error
    while link is not None:
        cause = link if isinstance(link, ssl.SSLError) else cause
        link = link.__cause__
    if cause is None:
        return NetworkError(f"{doing}: {error.strerror or error}")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TrustError(f"{doing}: {cause.verify_message}", remedy=_WRONG_PEER_REMEDY, safe=_WRONG_PEER_SAFE)
    reason = cause.reason or ""
    if any(refusal in reason for refusal in _REFUSALS):
        return TrustError(
            f"{doing}: the other end does not accept this machine's key",
            remedy="pair again with a fresh code from blocksync recv; blocksync peers lists there who may send",
        )
    if any(sign in reason for sign in _NOT_OURS):
        return ProtocolError(f"{doing}: what answers there is not blocksync ({reason})")
    return NetworkError(f"{doing}: the TLS connection broke ({reason or cause})")


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    # A connection cut without close_notify must show as an error. The flag is missing where OpenSSL is older than
    # 3.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def _order_suites(context: ssl.SSLContext, *, aes: bool) -> None:
    set_ciphersuites: Callable[[str], None] | None = getattr(context, "set_ciphersuites", None)  # Python 3.15
    if set_ciphersuites is not None:
        set_ciphersuites(_SUITES_WITH_AES if aes else _SUITES_WITHOUT_AES)


def _checked_pin(pin: bytes) -> bytes:
    if not PIN_BYTES_MIN <= len(pin) <= FINGERPRINT_BYTES:
        raise ValueError(f"a pin has {PIN_BYTES_MIN} to {FINGERPRINT_BYTES} bytes, not {len(pin)}")
    return pin


def _pin_matches(pin: bytes, seen: bytes) -> bool:
    return hmac.compare_digest(_checked_pin(pin), seen[: len(pin)])


def _wrong_peer(pin: bytes, seen: bytes | None) -> TrustError:
    return TrustError(
        f"the receiver's key is not the expected one: {_wrong_key(pin, seen)}",
        remedy=_WRONG_PEER_REMEDY,
        safe=_WRONG_PEER_SAFE,
    )


def _wrong_key(pin: bytes, seen: bytes | None) -> str:
    shown = "none" if seen is None else seen[: len(pin)].hex()
    return f"expected {pin.hex()}, got {shown}"


class _PinningObject(ssl.SSLObject):
    """The in-memory TLS object of asyncio, with the pin as a part of its handshake."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _demand_pin(self)


class _PinningSocket(ssl.SSLSocket):
    """The blocking TLS socket, with the pin as a part of its handshake."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _demand_pin(self)


class _PinningContext(ssl.SSLContext):
    pin: bytes | None = None
    sslobject_class = _PinningObject
    sslsocket_class = _PinningSocket


def _demand_pin(connection: Any) -> None:
    pin = connection.context.pin
    if pin is None:
        return
    seen = peer_fingerprint(connection)
    if seen is None or not _pin_matches(pin, seen):
        error = ssl.SSLCertVerificationError(1, "the pinned key was not shown")
        # What OpenSSL sets for a chain it refuses; ours is refused after it, by us.
        error.verify_message = str(_wrong_peer(pin, seen))
        error.verify_code = 1
        raise error


@functools.cache
def _processor_has_aes(path: str = "/proc/cpuinfo") -> bool:
    """Whether the processor computes AES itself; assumed where the system does not tell, as all servers' do."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            words = file.read(1 << 16).split()
    except OSError:
        return True
    return "aes" in words
