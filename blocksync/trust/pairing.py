"""Pairing: two machines that share a code learn each other's keys.

The exchange runs inside a TLS connection whose server the sender has already checked against the code's pin, and in
which it shows no certificate itself. With ``T`` the transcript (receiver's whole fingerprint, sender's
certificate, nonce, sender's name; each with its length before it) and a label that keeps the three apart:

1. The sender sends its certificate, nonce and name, ``HMAC-SHA256(secret, "request" T)`` and an ECDSA signature
   over ``"possession" T mac``. The HMAC shows that it knows the code, and binds both keys: relayed to another
   receiver, or with another certificate put in, it is wrong. The signature shows that the sender holds the key it
   asks a grant for.
2. The receiver checks the HMAC (in constant time, and before it parses the certificate), then the signature,
   makes the grant durable, marks the code as used, and answers with its name, the granted slots and
   ``HMAC-SHA256(secret, "reply" T mac name slots)``.
3. The sender checks that HMAC: the receiver knew the secret, so it is the one that printed the code and not only
   one with 128 equal bits of fingerprint. Then it pins the whole fingerprint.

The secret never travels. The desk keeps the live code in memory only: a new ``recv`` prints a new one.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from typing_extensions import Self

from blocksync.errors import ProtocolError, TrustError
from blocksync.trust.codes import PairingCode
from blocksync.trust.fields import Fields, as_text
from blocksync.trust.grants import CERTIFICATE_BYTES_MAX, SLOTS_MAX, Grant
from blocksync.trust.identity import Identity
from blocksync.trust.names import SLOT_NAME_CHARACTERS, check_slot_name

CODE_LIFE_SECONDS = 15 * 60
WRONG_TRIES_MAX = 5
NONCE_BYTES = 32
NAME_CHARACTERS = 256
"""Longest name in a message; what is kept of it is shorter."""

_SIGNATURE_BYTES = 72
_MAC_BYTES = 32
_CONTEXT = b"blocksync pairing 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingRequest:
    """What the sender sends: see the module's text.

    Args:
        certificate: the sender's, DER.
        nonce: 32 random bytes.
        name: what the sender calls itself.
        mac: 32 bytes.
        signature: DER, at most 72 bytes.
    """

    certificate: bytes
    nonce: bytes
    name: str
    mac: bytes
    signature: bytes

    def to_json(self) -> dict[str, object]:
        """The message as a JSON object."""
        return {
            "certificate": as_text(self.certificate),
            "nonce": as_text(self.nonce),
            "name": self.name,
            "mac": as_text(self.mac),
            "signature": as_text(self.signature),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read a message from the network, bounded.

        Raises:
            ProtocolError: it is none.
        """
        try:
            fields = Fields(value, "certificate", "nonce", "name", "mac", "signature")
            return cls(
                certificate=fields.octets("certificate", CERTIFICATE_BYTES_MAX),
                nonce=_sized(fields.octets("nonce", NONCE_BYTES), NONCE_BYTES),
                name=fields.text("name", NAME_CHARACTERS),
                mac=_sized(fields.octets("mac", _MAC_BYTES), _MAC_BYTES),
                signature=fields.octets("signature", _SIGNATURE_BYTES),
            )
        except ValueError as error:
            raise ProtocolError(f"the pairing request is malformed ({error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingReply:
    """What the receiver answers.

    Args:
        name: what the receiver calls itself.
        slots: the names of the granted slots, sorted.
        mac: 32 bytes.
    """

    name: str
    slots: tuple[str, ...]
    mac: bytes

    def to_json(self) -> dict[str, object]:
        """The message as a JSON object."""
        return {"name": self.name, "slots": list(self.slots), "mac": as_text(self.mac)}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read a message from the network, bounded.

        Raises:
            ProtocolError: it is none.
        """
        try:
            fields = Fields(value, "name", "slots", "mac")
            slots = fields.texts("slots", SLOT_NAME_CHARACTERS, SLOTS_MAX)
            return cls(
                name=fields.text("name", NAME_CHARACTERS),
                slots=tuple(check_slot_name(slot, kind=ProtocolError) for slot in slots),
                mac=_sized(fields.octets("mac", _MAC_BYTES), _MAC_BYTES),
            )
        except ValueError as error:
            raise ProtocolError(f"the pairing reply is malformed ({error})") from error


def make_request(
    code: PairingCode, identity: Identity, *, receiver: bytes, nonce: bytes, name: str
) -> PairingRequest:
    """Make the sender's message.

    Args:
        code: as typed.
        identity: the sender's.
        receiver: the whole fingerprint of the certificate that the connection showed.
        nonce: 32 fresh random bytes.
        name: what the receiver's user sees in ``blocksync peers``; the host's name, say. Cut at 256 characters.

    Raises:
        TrustError: the connection's receiver is not the one that the code names, or the identity is damaged.
    """
    if not code.names(receiver):
        raise TrustError(
            "the machine that answers is not the one that printed the pairing code",
            remedy="check the address, and that the code comes from the blocksync recv running there",
            safe="nothing was sent to it",
        )
    _sized(nonce, NONCE_BYTES)
    name = name[:NAME_CHARACTERS]
    transcript = _transcript(receiver, identity.certificate, nonce, name)
    mac = _mac(code, b"request", transcript)
    signature = identity.sign(_joined(b"possession", transcript, mac))
    return PairingRequest(certificate=identity.certificate, nonce=nonce, name=name, mac=mac, signature=signature)


def check_reply(code: PairingCode, request: PairingRequest, reply: PairingReply, *, receiver: bytes) -> None:
    """Check the receiver's answer; afterwards, and only then, the receiver may be pinned.

    Args:
        code: as typed.
        request: what was sent.
        reply: what came back.
        receiver: as for :func:`make_request`.

    Raises:
        TrustError: whoever answered does not know the code's secret, or the answer was altered.
    """
    transcript = _transcript(receiver, request.certificate, request.nonce, request.name)
    expected = _reply_mac(code, transcript, request.mac, reply.name, reply.slots)
    if not hmac.compare_digest(expected, reply.mac):
        raise TrustError(
            "the receiver did not prove that it knows the pairing code",
            safe="it was not pinned; no disk data was sent",
        )


@dataclass(slots=True, kw_only=True)
class _Offer:
    code: PairingCode
    slots: tuple[str, ...]
    dies_at: float
    wrong_tries: int = 0
    used_by: bytes | None = None  # the certificate


class PairingDesk:
    """Where the receiver hands out codes and takes each back once.

    Pure but for the randomness of codes and for ``commit``: time is passed in, on any clock that never goes back.
    Threads: all methods may be called from any thread; of two that bring the right code at once, one wins.

    Args:
        identity: the receiver's.
        name: what senders show for it.
    """

    def __init__(self, identity: Identity, *, name: str) -> None:
        self._identity = identity
        self._name = name[:NAME_CHARACTERS]
        self._lock = threading.Lock()
        self._offers: list[_Offer] = []

    def issue(self, slots: Iterable[str], now: float) -> PairingCode:
        """Hand out a fresh code for these slots; those before are worth nothing from now on.

        Args:
            slots: what the sender that brings it may send to.
            now: in seconds.

        Raises:
            UsageError: a slot's name is none.
        """
        return self.issue_each([slots], now)[0]

    def issue_each(self, offered: Sequence[Iterable[str]], now: float) -> list[PairingCode]:
        """Hand out several codes at once, each for slots of its own; as :meth:`issue`."""
        offers = []
        for slots in offered:
            checked = tuple(sorted({check_slot_name(slot) for slot in slots}))
            if not 1 <= len(checked) <= SLOTS_MAX:
                raise ValueError(f"a code is for 1 to {SLOTS_MAX} slots")
            code = PairingCode.make(self._identity.fingerprint)
            offers.append(_Offer(code=code, slots=checked, dies_at=now + CODE_LIFE_SECONDS))
        with self._lock:
            self._offers = offers
        return [offer.code for offer in offers]

    def accept(
        self, request: PairingRequest, *, now: float, since: int, commit: Callable[[Grant], None]
    ) -> PairingReply:
        """Judge a sender's message; the code is used up by the first right one.

        The same sender again, within the code's life, gets an answer and no new grant: it may have lost the first one
        with its connection, or been killed before it had kept what it said. A wrong try counts against every code
        that is out: which one was meant is not told.

        Args:
            request: what came.
            now: in seconds, on the clock of :meth:`issue`.
            since: seconds since 1970, for the grant.
            commit: makes the grant durable (:meth:`blocksync.trust.grants.Grants.add`); called at most once a
                code, before the answer; if it raises, the code stays good.

        Raises:
            TrustError: the code is wrong, expired, used up, or dead after too many tries; each says so.
        """
        with self._lock:
            if not self._offers:
                raise TrustError("this receiver offers no pairing", remedy=_FRESH_CODE)
            transcript = _transcript(self._identity.fingerprint, request.certificate, request.nonce, request.name)
            meant = self._meant(request, transcript)
            if meant is None:
                # The one that lets in the longest says what is wrong with all.
                offer = next((each for each in self._offers if each.used_by is None), self._offers[0])
            else:
                offer = meant
            if offer.used_by is not None:
                if now >= offer.dies_at or not _is_again(offer, request, transcript):
                    raise TrustError("the pairing code is used up: it works once", remedy=_FRESH_CODE)
                return self._reply(offer, request, transcript)
            if offer.wrong_tries >= WRONG_TRIES_MAX:
                raise TrustError("the pairing code is dead: too many wrong tries", remedy=_FRESH_CODE)
            if now >= offer.dies_at:
                minutes = CODE_LIFE_SECONDS // 60
                raise TrustError(f"the pairing code is expired: it works for {minutes} minutes", remedy=_FRESH_CODE)
            try:
                _check_request(offer.code, request, transcript)
            except TrustError:
                for each in self._offers:
                    each.wrong_tries += 1
                raise
            commit(Grant.make(request.certificate, request.name, offer.slots, since))
            offer.used_by = request.certificate
            return self._reply(offer, request, transcript)

    def _meant(self, request: PairingRequest, transcript: bytes) -> _Offer | None:
        """The offer whose code the sender knows; every one is compared, whichever it is."""
        found = None
        for offer in self._offers:
            if hmac.compare_digest(_mac(offer.code, b"request", transcript), request.mac):
                found = offer
        return found

    def _reply(self, offer: _Offer, request: PairingRequest, transcript: bytes) -> PairingReply:
        mac = _reply_mac(offer.code, transcript, request.mac, self._name, offer.slots)
        return PairingReply(name=self._name, slots=offer.slots, mac=mac)


_FRESH_CODE = "run blocksync recv again there for a fresh code"


def _is_again(offer: _Offer, request: PairingRequest, transcript: bytes) -> bool:
    """Whether the sender that used the code up proves itself once more."""
    if offer.used_by is None or not hmac.compare_digest(offer.used_by, request.certificate):
        return False
    try:
        _check_request(offer.code, request, transcript)
    except TrustError:
        return False
    return True


def _check_request(code: PairingCode, request: PairingRequest, transcript: bytes) -> None:
    # First the secret: whoever does not know it gets no further than one HMAC, not into a certificate parser.
    if not hmac.compare_digest(_mac(code, b"request", transcript), request.mac):
        raise TrustError(
            "the pairing code is wrong", remedy="type the code that the running blocksync recv shows last"
        )
    from blocksync.trust.certificates import check_signature

    check_signature(request.certificate, request.signature, _joined(b"possession", transcript, request.mac))


def _transcript(receiver: bytes, certificate: bytes, nonce: bytes, name: str) -> bytes:
    # surrogatepass: JSON can carry lone surrogates, and whatever is bound must be bound as it came.
    return _joined(receiver, certificate, nonce, name.encode("utf-8", "surrogatepass"))


def _joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in (_CONTEXT, *parts))


def _mac(code: PairingCode, label: bytes, *parts: bytes) -> bytes:
    return hmac.digest(code.secret, _joined(label, *parts), hashlib.sha256)


def _reply_mac(code: PairingCode, transcript: bytes, mac: bytes, name: str, slots: tuple[str, ...]) -> bytes:
    granted = _joined(*(slot.encode("ascii") for slot in slots))
    return _mac(code, b"reply", transcript, mac, name.encode("utf-8", "surrogatepass"), granted)


def _sized(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data
