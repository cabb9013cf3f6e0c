"""First contact with a receiver: the one call of the control port that a machine without a grant may make."""

from __future__ import annotations

import http
import http.client
import json
import secrets
import ssl

from blocksync.control.client import ANSWER_SECONDS, CONNECT_SECONDS, refusal, whole
from blocksync.control.connection import Connection
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError, ProtocolError, TrustError, from_os_error
from blocksync.protocol.messages import MAX_MESSAGE_BYTES
from blocksync.trust.codes import PairingCode
from blocksync.trust.identity import Identity
from blocksync.trust.pairing import PairingReply, check_reply, make_request
from blocksync.trust.tls import client_context, from_tls_error


class Contact:
    """One pairing. Used by one thread; only :meth:`abort` may be called from another.

    Args:
        host, port: of the control port.
        code: nothing is sent before the receiver's certificate matched it.
        identity: this machine's.
        name: what this machine calls itself.
    """

    def __init__(self, host: str, port: int, code: PairingCode, identity: Identity, *, name: str) -> None:
        self._peer = f"{host}:{port}"
        self._code = code
        self._identity = identity
        self._name = name
        self._connection = Connection(host, port, client_context(None, pin=code.pin))

    def make(self) -> tuple[bytes, str]:
        """Pair.

        Returns:
            the receiver's whole fingerprint and its name.

        Raises:
            TrustError: the code is not this receiver's, wrong, expired or used up.
            NetworkError: nobody answers.
            IncompleteError: it was aborted.
        """
        try:
            fingerprint = self._open()
            request = make_request(
                self._code,
                self._identity,
                receiver=fingerprint,
                nonce=secrets.token_bytes(32),
                name=self._name,
            )
            raw = self._post(json.dumps(request.to_json()).encode())
        finally:
            self._connection.close()
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("the receiver's answer is no JSON") from error
        reply = PairingReply.from_json(said)
        check_reply(self._code, request, reply, receiver=fingerprint)
        return fingerprint, reply.name

    def abort(self) -> None:
        """Make :meth:`make` fail, now or as soon as it is called; from any thread."""
        self._connection.abort()

    def _open(self) -> bytes:
        try:
            self._connection.open(CONNECT_SECONDS)
            fingerprint = self._connection.fingerprint()
        except OSError as error:
            raise self._mapped(error, f"the control port {self._peer} cannot be reached") from error
        if fingerprint is None:
            raise TrustError("the receiver showed no certificate")
        return fingerprint

    def _post(self, body: bytes) -> bytes:
        try:
            answer = self._connection.ask("POST", "/v1/pair", body, ANSWER_SECONDS)
            raw = whole(self._connection, answer, MAX_MESSAGE_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._mapped(error, f"cannot pair with {self._peer}") from error
        if answer.status != http.HTTPStatus.OK:
            raise refusal(raw)
        return raw

    def _mapped(self, error: Exception, doing: str) -> BlocksyncError:
        if self._connection.given_up:
            return IncompleteError("the pairing was given up")
        if isinstance(error, ssl.SSLError):
            return from_tls_error(error, f"cannot pair with {self._peer}")
        if isinstance(error, ConnectionResetError | BrokenPipeError | http.client.IncompleteRead):
            # A receiver that goes away in the middle shows as an odd kind of HTTP, too.
            return NetworkError(f"{doing}: the connection broke off")
        if isinstance(error, OSError):
            return from_os_error(error, NetworkError, doing)
        return ProtocolError(f"the receiver's control port does not speak HTTP: {type(error).__name__}")
