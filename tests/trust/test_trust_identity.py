from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import ssl
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from blocksync.errors import TrustError
from blocksync.trust.certificates import check_signature, make_identity, sign
from blocksync.trust.identity import Identity, fingerprint_of


def test_made_once_then_loaded(private: Path) -> None:
    made = Identity.load_or_create(private / "state")
    assert Identity.load_or_create(private / "state") == made
    assert made.fingerprint == fingerprint_of(made.certificate)
    assert len(made.fingerprint) == 32
    assert Identity.load_or_create(private / "other").fingerprint != made.fingerprint


def test_folder_and_key_are_private_whatever_the_umask(private: Path) -> None:
    before = os.umask(0)
    try:
        identity = Identity.load_or_create(private / "state")
    finally:
        os.umask(before)
    assert stat.S_IMODE(identity.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(identity.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in identity.path.parent.iterdir()) == ["identity.pem", "identity.pem.lock"]


def test_no_clock_makes_the_certificate_invalid(private: Path) -> None:
    parsed = x509.load_der_x509_certificate(Identity.load_or_create(private).certificate)
    assert parsed.not_valid_before_utc == dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
    assert parsed.not_valid_after_utc.year == 9999
    assert isinstance(parsed.public_key(), ec.EllipticCurvePublicKey)


def test_loading_does_not_import_cryptography(private: Path) -> None:
    Identity.load_or_create(private)
    program = (
        "import sys; from pathlib import Path\n"
        "import blocksync.trust.grants, blocksync.trust.pins, blocksync.trust.pairing\n"
        "from blocksync.trust import identity, tls\n"
        "me = identity.Identity.load_or_create(Path(sys.argv[1]))\n"
        "tls.LiveServerContext(me, lambda: [me.certificate]); tls.client_context(me, pin=me.fingerprint)\n"
        "sys.exit('cryptography' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, private], check=False, timeout=60).returncode == 0


def _load(folder: str, barrier: threading.Barrier, results: multiprocessing.Queue[bytes]) -> None:
    barrier.wait(60)
    results.put(Identity.load_or_create(Path(folder)).fingerprint)


def test_processes_that_start_at_once_get_one_identity(private: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    arguments = (str(private / "new" / "state"), barrier, results)
    processes = [context.Process(target=_load, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    seen = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(seen) == 1


def test_threads_that_start_at_once_get_one_identity(private: Path) -> None:
    seen: set[bytes] = set()
    barrier = threading.Barrier(8)

    def load() -> None:
        barrier.wait(30)
        seen.add(Identity.load_or_create(private / "state").fingerprint)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(seen) == 1


def test_what_a_killed_writer_left_is_overwritten(private: Path) -> None:
    (private / "identity.pem.new").write_bytes(b"half a k")
    Identity.load_or_create(private)
    assert not (private / "identity.pem.new").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o666])
def test_a_key_open_to_others_is_refused_with_the_command_that_helps(private: Path, mode: int) -> None:
    identity = Identity.load_or_create(private)
    identity.path.chmod(mode)
    with pytest.raises(TrustError, match=f"mode is 0{mode:o}") as caught:
        Identity.load_or_create(private)
    assert "chmod 600" in caught.value.remedy
    with pytest.raises(TrustError):
        identity.sign(b"x")


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_where_others_may_replace_the_key_is_refused(private: Path, mode: int) -> None:
    private.chmod(mode)
    with pytest.raises(TrustError, match="others may replace") as caught:
        Identity.load_or_create(private)
    assert "chmod go-w" in caught.value.remedy


def _damages() -> dict[str, bytes]:
    mine, other = make_identity(), make_identity()
    at = mine.index(b"-----BEGIN CERTIFICATE")
    rsa = mine.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY")
    key = serialization.load_pem_private_key(mine[:at], None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    return {
        "empty": b"",
        "rubbish": bytes(range(256)),
        "no key": mine[at:],
        "no certificate": mine[:at],
        "another's certificate": mine[:at] + other[other.index(b"-----BEGIN CERTIFICATE") :],
        "two certificates": mine + other[other.index(b"-----BEGIN CERTIFICATE") :],
        "torn": mine[:-40],
        "torn key": mine[60:],
        "wrong type": rsa,
        "bad base64": mine.replace(mine[at + 40 : at + 43], b"==="),
        "encrypted": encrypted + mine[at:],
        "too large": mine + b"#" * 70_000,
    }


@pytest.mark.parametrize(("name", "data"), list(_damages().items()), ids=list(_damages()))
def test_a_damaged_file_is_a_trust_error_with_a_remedy(private: Path, name: str, data: bytes) -> None:
    path = private / "identity.pem"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(TrustError) as caught:
        Identity.load_or_create(private)
    assert str(path) in str(caught.value)
    assert "away" in caught.value.remedy
    assert path.read_bytes() == data  # never replaced by a new one behind the user's back


def test_an_encrypted_key_never_asks_on_the_terminal(private: Path) -> None:
    identity = Identity.load_or_create(private)
    passwords: list[object] = []

    class Recording(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, keyfile: object = None, password: object = None) -> None:
            passwords.append(password)

    identity.load_into(Recording(ssl.PROTOCOL_TLS_CLIENT))
    assert callable(passwords[0])  # without one OpenSSL opens the terminal itself
    assert passwords[0]() == ""


def test_links_folders_and_pipes_in_the_key_s_place_are_refused(private: Path) -> None:
    elsewhere = Identity.load_or_create(private / "elsewhere")
    for name in ("link", "folder", "pipe"):
        (private / name).mkdir(mode=0o700)
    (private / "link" / "identity.pem").symlink_to(elsewhere.path)
    (private / "folder" / "identity.pem").mkdir()
    os.mkfifo(private / "pipe" / "identity.pem", 0o600)
    for name in ("link", "folder", "pipe"):
        with pytest.raises(TrustError):
            Identity.load_or_create(private / name)


def test_a_state_folder_that_cannot_be_made_is_a_trust_error(private: Path) -> None:
    (private / "file").write_bytes(b"")
    for folder in (private / "file", private / "file" / "state"):
        with pytest.raises(TrustError):
            Identity.load_or_create(folder)


def test_a_key_replaced_while_running_is_noticed(private: Path) -> None:
    identity = Identity.load_or_create(private)
    identity.path.write_bytes(make_identity())
    with pytest.raises(TrustError, match="replaced"):
        identity.sign(b"x")
    identity.path.unlink()
    with pytest.raises(TrustError, match="gone"):
        identity.sign(b"x")
    with pytest.raises(TrustError, match="damaged"):
        identity.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def test_signatures(private: Path) -> None:
    identity = Identity.load_or_create(private)
    signature = identity.sign(b"message")
    check_signature(identity.certificate, signature, b"message")
    other = Identity.load_or_create(private / "other")
    for certificate, proof, message in (
        (identity.certificate, signature, b"massage"),
        (other.certificate, signature, b"message"),
        (identity.certificate, b"", b"message"),
        (identity.certificate, signature[:-1], b"message"),
        (identity.certificate, bytes(73), b"message"),
        (identity.certificate + b"x", signature, b"message"),
        (b"", signature, b"message"),
        (bytes(5000), signature, b"message"),
    ):
        with pytest.raises(TrustError):
            check_signature(certificate, proof, message)


def _certificate(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, *, ca: bool, issuer_key=None
) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc))
        .not_valid_after(dt.datetime(2100, 1, 1, tzinfo=dt.timezone.utc))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    signer = issuer_key or key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, algorithm).public_bytes(serialization.Encoding.DER)


def test_only_plain_self_signed_p256_certificates_become_anchors() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    message = b"m"

    def proof(with_key: ec.EllipticCurvePrivateKey) -> bytes:
        return with_key.sign(message, ec.ECDSA(hashes.SHA256()))

    check_signature(_certificate(key, ca=False), proof(key), message)
    with pytest.raises(TrustError, match="authority"):
        check_signature(_certificate(key, ca=True), proof(key), message)
    with pytest.raises(TrustError, match="own key"):
        check_signature(
            _certificate(key, ca=False, issuer_key=ec.generate_private_key(ec.SECP256R1())), proof(key), message
        )
    with pytest.raises(TrustError, match="P-256"):
        check_signature(_certificate(ed25519.Ed25519PrivateKey.generate(), ca=False), b"", message)
    with pytest.raises(TrustError, match="P-256"):
        check_signature(_certificate(ec.generate_private_key(ec.SECP384R1()), ca=False), b"", message)


def test_signing_with_what_is_no_p256_key_is_a_trust_error() -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with pytest.raises(TrustError, match="another kind"):
        sign(ed25519.Ed25519PrivateKey.generate().private_bytes(*form), b"x")
    with pytest.raises(TrustError, match="damaged"):
        sign(b"x", b"x")
