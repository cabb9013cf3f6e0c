"""The pairing code: what a person carries from the receiver's screen to the sender's prompt.

It holds both directions of trust: enough of the receiver's fingerprint for the sender to know whom it talks to,
and a secret that shows the receiver that this sender was meant. 30 bytes, big-endian bits, written as 48
characters:

======  =====  ==============================================================
offset  bytes  field
======  =====  ==============================================================
0       1      0xB0 and the version in the low 3 bits: 0xB1
1       16     the first 128 bits of the receiver's fingerprint
17      11     secret, 88 random bits
28      2      CRC-16 (polynomial 0x1021, initial value 0xFFFF) of the above
======  =====  ==============================================================

* **128 bits of the fingerprint.** An impostor has to find a key whose certificate's SHA-256 begins like one given
  value: a second preimage, 2^128 work. Collisions, at 2^64, help nobody, since a receiver that prepares two
  keys of one prefix only impersonates itself. The whole fingerprint would add 26 characters to type; it is bound
  by the proofs of the pairing that follows, and it is what gets pinned.
* **88 bits of secret.** The code dies after five wrong tries, and the proof made with it goes to the verified
  receiver alone, so nobody can guess offline; 20 bits would do online. 80 and more keep it safe even in a
  recorded exchange.
* **CRC-16** finds every single wrong character and every exchange of two neighbours (bursts of at most 16 bits),
  so a typo is told at the prompt and costs no try. It is no protection against anybody, and needs to be none.

The alphabet is Crockford's base32: no I, L, O, U; I and L read as 1, O as 0; case, spaces and hyphens do not
matter.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from dataclasses import dataclass, field

from typing_extensions import Self

from blocksync.errors import TrustError
from blocksync.trust.names import printable

CODE_VERSION = 1
CODE_CHARACTERS = 48
CODE_TEXT_CHARACTERS = 256
"""Longest text looked at: the code with generous blanks around and within."""
CODE_PIN_BYTES = 16
CODE_SECRET_BYTES = 11

_MAGIC = 0xB0
_GROUP = 6
_RFC4648 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_PEOPLE = str.maketrans(_RFC4648, _CROCKFORD)
_FROM_PEOPLE = str.maketrans(_CROCKFORD + _CROCKFORD.lower() + "IiLlOo", _RFC4648 + _RFC4648 + "BBBBAA")
_READABLE = frozenset(_CROCKFORD + _CROCKFORD.lower() + "IiLlOo")
_TYPE_AGAIN = "type it again as blocksync recv shows it, or read it from a file with --code-file"

# Header, pin, secret and checksum fill whole characters: no padding, and each code has one canonical text.
assert 1 + CODE_PIN_BYTES + CODE_SECRET_BYTES + 2 == CODE_CHARACTERS * 5 // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingCode:
    """A parsed code; its secret stays out of repr and messages.

    Args:
        pin: the first 16 bytes of the receiver's fingerprint; a pin for :func:`blocksync.trust.tls.client_context`.
        secret: 11 bytes.
    """

    pin: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.pin) != CODE_PIN_BYTES or len(self.secret) != CODE_SECRET_BYTES:
            raise ValueError("a pairing code has a pin of 16 bytes and a secret of 11")

    @classmethod
    def make(cls, fingerprint: bytes) -> Self:
        """Make a fresh code for the receiver with this fingerprint."""
        return cls(pin=fingerprint[:CODE_PIN_BYTES], secret=secrets.token_bytes(CODE_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a person typed or a file holds.

        Raises:
            TrustError: it is no code, or a mistyped one, or of a newer version; the text itself is never repeated,
                but for one unreadable character.
        """
        if len(text) > CODE_TEXT_CHARACTERS:
            raise TrustError("that is too long for a pairing code", remedy=_TYPE_AGAIN)
        characters = "".join(text.replace("-", " ").split())
        for character in characters:
            if character not in _READABLE:
                raise TrustError(f"a pairing code has no '{printable(character)}'", remedy=_TYPE_AGAIN)
        if len(characters) != CODE_CHARACTERS:
            raise TrustError(
                f"the pairing code has {len(characters)} characters instead of {CODE_CHARACTERS}",
                remedy=_TYPE_AGAIN,
            )
        data = base64.b32decode(characters.translate(_FROM_PEOPLE))
        if binascii.crc_hqx(data[:-2], 0xFFFF) != int.from_bytes(data[-2:], "big"):
            raise TrustError("the pairing code is mistyped: its checksum does not match", remedy=_TYPE_AGAIN)
        if data[0] != _MAGIC | CODE_VERSION:
            raise TrustError(
                "the pairing code is of another version of blocksync",
                remedy="install the same version of blocksync-engine on both ends",
            )
        return cls(pin=data[1 : 1 + CODE_PIN_BYTES], secret=data[1 + CODE_PIN_BYTES : -2])

    @property
    def text(self) -> str:
        """The code as it is shown: 8 groups of 6 characters. Whoever reads it can pair."""
        body = bytes([_MAGIC | CODE_VERSION]) + self.pin + self.secret
        data = body + binascii.crc_hqx(body, 0xFFFF).to_bytes(2, "big")
        characters = base64.b32encode(data).decode("ascii").translate(_TO_PEOPLE)
        return "-".join(characters[at : at + _GROUP] for at in range(0, CODE_CHARACTERS, _GROUP))

    def names(self, fingerprint: bytes) -> bool:
        """Whether a receiver's whole fingerprint (32 bytes) begins with the code's pin."""
        return len(fingerprint) == 32 and hmac.compare_digest(self.pin, fingerprint[:CODE_PIN_BYTES])
