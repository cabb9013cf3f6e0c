"""Everything that needs the cryptography package, which is slow to import.

So this module is imported late, by the few calls that need it: making an identity, and pairing. A start with an
existing identity reads PEM with the standard library alone.

Keys are ECDSA on P-256. Ed25519 works as well with Python's ssl over OpenSSL 3, but is refused where a system
policy asks for FIPS algorithms, and by some TLS libraries that inspect traffic; P-256 is accepted everywhere, and
one signature a handshake makes their difference in speed irrelevant.
"""

from __future__ import annotations

import datetime as dt
import secrets

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blocksync.errors import TrustError

CERTIFICATE_BYTES = 4096
"""Largest certificate taken from a peer; ours have about 450 bytes."""
SIGNATURE_BYTES = 72
"""Longest DER form of a P-256 signature: two integers of 33 bytes with their headers."""

# Any clock that a machine can have lies between these. 99991231235959Z is RFC 5280's "no well-defined expiry".
_NOT_BEFORE = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
_NOT_AFTER = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.timezone.utc)


def make_identity() -> bytes:
    """Make a key and its self-signed certificate; return both as PEM, the key first.

    The subject is random: OpenSSL looks trust anchors up by subject, so two peers should not share one, and a
    host's name is nobody's business who connects to the port.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"blocksync {secrets.token_hex(8)}")])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def sign(key_pem: bytes, message: bytes) -> bytes:
    """Sign with ECDSA over SHA-256; the result is DER.

    Raises:
        TrustError: the PEM holds no P-256 key.
    """
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise TrustError("the identity's key is damaged") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError("the identity's key is of another kind than P-256")
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def check_signature(certificate: bytes, signature: bytes, message: bytes) -> None:
    """Check that a certificate's holder signed a message, and that it may be a trust anchor.

    Args:
        certificate: DER; must be self-signed, on P-256 and no certificate authority, as :func:`make_identity`
            makes it.
        signature: DER.
        message: what was signed.

    Raises:
        TrustError: it is no such certificate, or the signature is not its key's.
    """
    if len(certificate) > CERTIFICATE_BYTES or len(signature) > SIGNATURE_BYTES:
        raise TrustError("the peer's certificate or signature is too large")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        constraints = parsed.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TrustError("the peer's certificate holds no P-256 key")
        # An anchor that may sign others would let its holder hand its grant to further keys at the TLS layer.
        if constraints.ca:
            raise TrustError("the peer's certificate is a certificate authority's")
        parsed.verify_directly_issued_by(parsed)
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise TrustError("the peer's certificate is none of blocksync's") from error
    except InvalidSignature as error:
        raise TrustError("the peer's certificate is not signed by its own key") from error
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise TrustError("the peer did not prove that it holds its key") from error
