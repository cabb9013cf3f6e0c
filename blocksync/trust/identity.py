"""Who this machine is: a key and its self-signed certificate, made on first use.

Both stand in one file, so there is never a key with another's certificate. The certificate is valid from 1970 to
9999: what counts is the pinned fingerprint, and a wrong clock must not break a transfer.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from blocksync.errors import TrustError
from blocksync.trust.store import exclusive, private_folder, read_private, write_private

IDENTITY_FILE = "identity.pem"
FINGERPRINT_BYTES = 32

_IDENTITY_BYTES = 64 << 10  # ours have about 1 KiB
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


def fingerprint_of(certificate: bytes) -> bytes:
    """SHA-256 (32 bytes) of a DER certificate: the name by which keys are pinned and granted."""
    return hashlib.sha256(certificate).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """This machine's key, which stays in its file, and its certificate.

    Args:
        path: the PEM file with the key and the certificate.
        certificate: DER.
        fingerprint: SHA-256 of it, 32 bytes; people see ``fingerprint.hex()``.
    """

    path: Path
    certificate: bytes
    fingerprint: bytes

    @classmethod
    def load_or_create(cls, folder: Path) -> Identity:
        """Load the identity of a state folder; make it when there is none.

        Processes and threads that start at once get the same identity. An existing one is loaded without importing
        the cryptography package.

        Args:
            folder: made with mode 0700 when missing; nobody but its owner may write to it.

        Raises:
            TrustError: the folder or file cannot be used, is open to others, or is damaged.
        """
        private_folder(folder, TrustError)
        path = folder / IDENTITY_FILE
        data = read_private(path, _IDENTITY_BYTES, TrustError)
        if data is None:
            with exclusive(path, TrustError):
                data = read_private(path, _IDENTITY_BYTES, TrustError)
                if data is None:
                    from blocksync.trust.certificates import make_identity

                    data = make_identity()
                    write_private(path, data, TrustError)
        return cls._from_pem(path, data)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Give a TLS context this key and certificate.

        Raises:
            TrustError: the file is damaged, gone, or holds another identity by now.
        """
        try:
            # An encrypted key would make OpenSSL ask for its passphrase on the terminal; an empty one fails
            # instead.
            context.load_cert_chain(self.path, password=str)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _damaged(self.path, "the key or the certificate is unusable, or they do not match") from error

    def sign(self, message: bytes) -> bytes:
        """Sign with this key: ECDSA over SHA-256, DER.

        Raises:
            TrustError: the file is damaged, gone, open to others, or holds another identity by now.
        """
        from blocksync.trust.certificates import sign

        data = read_private(self.path, _IDENTITY_BYTES, TrustError)
        if data is None or _certificate_in(self.path, data) != self.certificate:
            raise TrustError(f"{self.path} is gone or was replaced while running", remedy="run the command again")
        return sign(data, message)

    @classmethod
    def _from_pem(cls, path: Path, data: bytes) -> Identity:
        certificate = _certificate_in(path, data)
        identity = cls(path=path, certificate=certificate, fingerprint=fingerprint_of(certificate))
        identity.load_into(
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        )  # proves now that key and certificate belong together
        return identity


def _certificate_in(path: Path, data: bytes) -> bytes:
    blocks = _CERTIFICATE.findall(data)
    if len(blocks) != 1:
        raise _damaged(path, f"it holds {len(blocks)} certificates instead of one")
    try:
        return ssl.PEM_cert_to_DER_cert(blocks[0].decode("ascii"))
    except ValueError as error:
        raise _damaged(path, "its certificate cannot be decoded") from error


def _damaged(path: Path, why: str) -> TrustError:
    return TrustError(
        f"the identity in {path} is damaged: {why}",
        remedy=f"restore {path} from a backup, or move it away; a new identity must be paired again with each peer",
    )
