from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from trust_loopback import Greeter, greeting

from blocksync.errors import BlocksyncError, NetworkError, ProtocolError, StateError, TrustError
from blocksync.trust import tls
from blocksync.trust.grants import Grant, Grants
from blocksync.trust.identity import Identity, fingerprint_of
from blocksync.trust.tls import (
    LiveServerContext,
    check_pin,
    client_context,
    from_tls_error,
    peer_fingerprint,
    server_context,
)

Make = Callable[[str], Identity]
Serve = Callable[[ssl.SSLContext], Greeter]


def refusal(context: ssl.SSLContext, address: tuple[str, int]) -> BlocksyncError:
    """What a sender is told that the receiver does not let in."""
    with pytest.raises(OSError) as caught:
        greeting(context, address)
    return from_tls_error(caught.value, "cannot connect")


def test_a_granted_peer_is_recognised_and_a_nameless_one_is_nobody(make: Make, serve: Serve) -> None:
    receiver, sender = make("receiver"), make("sender")
    address = serve(server_context(receiver, [sender.certificate])).address
    assert greeting(client_context(sender, pin=receiver.fingerprint), address) == sender.fingerprint
    assert greeting(client_context(None, pin=receiver.fingerprint[:16]), address) is None


def test_a_peer_without_a_grant_is_refused(make: Make, serve: Serve) -> None:
    receiver, sender, stranger = make("receiver"), make("sender"), make("stranger")
    for peers in ([], [sender.certificate]):
        server = serve(server_context(receiver, peers))
        error = refusal(client_context(stranger, pin=receiver.fingerprint), server.address)
        assert type(error) is TrustError
        assert "does not accept this machine's key" in str(error)
        assert not server.received


def test_the_wrong_receiver_gets_not_one_byte(make: Make, serve: Serve) -> None:
    receiver, impostor, sender = make("receiver"), make("impostor"), make("sender")
    server = serve(server_context(impostor, [sender.certificate]))
    error = refusal(client_context(sender, pin=receiver.fingerprint), server.address)
    assert type(error) is TrustError
    assert receiver.fingerprint.hex() in str(error)
    assert impostor.fingerprint.hex() in str(error)
    with (
        socket.create_connection(server.address) as plain,
        client_context(None).wrap_socket(plain) as connection,
    ):
        assert check_pin(connection, impostor.fingerprint) == impostor.fingerprint
        assert check_pin(connection, impostor.fingerprint[:16]) == impostor.fingerprint
        with pytest.raises(TrustError, match="not the expected one"):
            check_pin(connection, receiver.fingerprint)
        with pytest.raises(ValueError, match="16 to 32"):
            check_pin(connection, impostor.fingerprint[:15])
    server.__exit__()
    assert not server.received


@pytest.mark.parametrize(("at", "length"), [(0, 32), (1, 32), (15, 32), (16, 32), (31, 32), (1, 16), (15, 16)])
def test_every_byte_of_a_pin_counts(make: Make, serve: Serve, at: int, length: int) -> None:
    receiver, sender = make("receiver"), make("sender")
    server = serve(server_context(receiver, [sender.certificate]))
    pin = bytearray(receiver.fingerprint[:length])
    pin[at] ^= 1
    assert type(refusal(client_context(sender, pin=bytes(pin)), server.address)) is TrustError
    with (
        socket.create_connection(server.address) as plain,
        client_context(None).wrap_socket(plain) as connection,
        pytest.raises(TrustError, match="not the expected one"),
    ):
        check_pin(connection, bytes(pin))


@pytest.mark.parametrize("size", [0, 15, 33])
def test_a_pin_of_the_wrong_size_is_a_bug_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 32"):
        client_context(None, pin=bytes(size))


def test_a_stolen_certificate_is_not_loaded_over_another_key(make: Make) -> None:
    # So no server of ours can show a pinned certificate that is not its own; against one that is not ours stands
    # TLS 1.3's CertificateVerify, which OpenSSL checks under CERT_NONE, too.
    receiver, thief = make("receiver"), make("thief")
    pem = thief.path.read_text()
    stolen = pem[: pem.index("-----BEGIN CERTIFICATE")] + ssl.DER_cert_to_PEM_cert(receiver.certificate)
    thief.path.write_text(stolen)
    with pytest.raises(TrustError):
        server_context(thief, ())


def test_peers_added_and_revoked_apply_to_the_next_handshake(make: Make, serve: Serve, private: Path) -> None:
    receiver, first, second = make("receiver"), make("first"), make("second")
    grants = Grants(private / "state")
    address = serve(LiveServerContext(receiver, grants.certificates).context).address
    as_first = client_context(first, pin=receiver.fingerprint)
    as_second = client_context(second, pin=receiver.fingerprint)
    assert type(refusal(as_first, address)) is TrustError
    grants.add(Grant.make(first.certificate, "first", ["root"], 0))
    assert greeting(as_first, address) == first.fingerprint
    assert type(refusal(as_second, address)) is TrustError
    grants.add(Grant.make(second.certificate, "second", ["root"], 0))
    assert greeting(as_second, address) == second.fingerprint
    Grants(private / "state").revoke("first")  # another process, as far as the server can tell
    assert type(refusal(as_first, address)) is TrustError
    assert greeting(as_second, address) == second.fingerprint
    grants.revoke("second")
    assert type(refusal(as_second, address)) is TrustError
    assert greeting(client_context(None, pin=receiver.fingerprint), address) is None


def test_the_hand_over_works_with_and_without_a_server_name(make: Make, serve: Serve) -> None:
    receiver, sender = make("receiver"), make("sender")
    address = serve(LiveServerContext(receiver, lambda: [sender.certificate]).context).address
    for name in (None, "localhost"):
        with (
            socket.create_connection(address, timeout=30) as plain,
            client_context(sender, pin=receiver.fingerprint).wrap_socket(plain, server_hostname=name) as connection,
        ):
            assert connection.recv(64)


def test_contexts_are_made_anew_only_when_peers_change(make: Make) -> None:
    receiver, peers = make("receiver"), [make("sender").certificate]
    live = LiveServerContext(receiver, lambda: peers)
    assert live._current() is live._current()
    before = live._current()
    peers.clear()
    assert live._current() is not before


def test_damaged_grants_let_nobody_in_and_are_reported(make: Make, serve: Serve) -> None:
    receiver, sender = make("receiver"), make("sender")
    seen: list[BlocksyncError] = []

    def damaged() -> list[bytes]:
        raise StateError("grants.json is damaged")

    server = serve(LiveServerContext(receiver, damaged, on_error=seen.append).context)
    for identity in (sender, None):
        assert type(refusal(client_context(identity, pin=receiver.fingerprint), server.address)) is NetworkError
    assert len(seen) == 2
    quiet = serve(LiveServerContext(receiver, damaged).context)
    assert type(refusal(client_context(sender, pin=receiver.fingerprint), quiet.address)) is NetworkError


def test_a_damaged_peer_certificate_is_a_trust_error(make: Make) -> None:
    with pytest.raises(TrustError, match="granted peer"):
        server_context(make("receiver"), [b"rubbish"])


def test_a_key_that_a_peer_vouches_for_is_not_that_peer(make: Make, serve: Serve, private: Path) -> None:
    # Should an anchor ever be able to sign others, the fingerprint still tells them apart.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(key: ec.EllipticCurvePrivateKey, subject: x509.Name, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc))
            .not_valid_after(dt.datetime(2100, 1, 1, tzinfo=dt.timezone.utc))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(root, hashes.SHA256())
        )

    anchor = certificate(root, name, True).public_bytes(serialization.Encoding.DER)
    signed = certificate(leaf, x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")]), False)
    path = private / "leaf.pem"
    path.write_bytes(
        leaf.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    receiver = make("receiver")
    client = client_context(None, pin=receiver.fingerprint)
    client.load_cert_chain(path)
    seen = greeting(client, serve(server_context(receiver, [anchor])).address)
    assert seen == fingerprint_of(signed.public_bytes(serialization.Encoding.DER)) != fingerprint_of(anchor)


def test_what_contexts_allow(make: Make) -> None:
    identity = make("receiver")
    server, client = server_context(identity, ()), client_context(identity)
    for context in (server, client):
        assert context.minimum_version == context.maximum_version == ssl.TLSVersion.TLSv1_3
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_TICKET
    assert server.num_tickets == 0
    assert server.verify_mode == ssl.CERT_OPTIONAL


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("processor : 0\nflags\t\t: fpu aes avx\n", True),
        ("processor : 0\nFeatures\t: fp asimd aes pmull\n", True),
        ("processor : 0\nflags\t\t: fpu avx vaes\n", False),
        (None, True),
    ],
)
def test_the_processor_is_asked_for_aes(private: Path, text: str | None, known: bool) -> None:
    path = private / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert tls._processor_has_aes(str(path)) is known


@pytest.mark.parametrize(
    ("aes", "first"), [(True, "TLS_AES_128_GCM_SHA256"), (False, "TLS_CHACHA20_POLY1305_SHA256")]
)
def test_suites_follow_the_hardware_where_python_lets_them(aes: bool, first: str) -> None:
    chosen: list[str] = []

    class Choosing(ssl.SSLContext):  # as it is from Python 3.15 on
        def set_ciphersuites(self, suites: str) -> None:
            chosen.append(suites)

    context = Choosing(ssl.PROTOCOL_TLS_SERVER)
    tls._order_suites(context, aes=aes)
    assert chosen[0].split(":")[0] == first
    assert set(chosen[0].split(":")) == {
        each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.3"
    }


def test_no_session_can_be_resumed(make: Make, serve: Serve) -> None:
    receiver, sender = make("receiver"), make("sender")
    address = serve(LiveServerContext(receiver, lambda: [sender.certificate]).context).address
    context = client_context(sender, pin=receiver.fingerprint)
    with socket.create_connection(address) as plain, context.wrap_socket(plain) as connection:
        assert connection.recv(64)
        session = connection.session
        assert session is None or not session.has_ticket


def test_older_tls_and_plain_text_are_refused(make: Make, serve: Serve) -> None:
    receiver = make("receiver")
    server = serve(LiveServerContext(receiver, list).context)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert type(refusal(old, server.address)) is ProtocolError
    with socket.create_connection(server.address) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            plain.recv(100)
    server.__exit__()
    assert [type(from_tls_error(error, "x")) for error in server.errors] == [ProtocolError, ProtocolError]


def test_a_peer_that_speaks_no_tls_is_named_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as plain,
    ):
        other, _ = listener.accept()
        with other:
            other.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            with pytest.raises(ssl.SSLError) as caught:
                client_context(None).wrap_socket(plain)
    assert type(from_tls_error(caught.value, "x")) is ProtocolError


def test_a_cut_without_goodbye_is_an_error(make: Make) -> None:
    receiver = make("receiver")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(None, pin=receiver.fingerprint).wrap_bio(incoming, outgoing)
    server = server_context(receiver, ()).wrap_bio(outgoing, incoming, server_side=True)
    for _ in range(3):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    incoming.write_eof()
    with pytest.raises(ssl.SSLEOFError) as caught:
        client.read(1)
    assert type(from_tls_error(caught.value, "x")) is NetworkError
    assert server.version() == "TLSv1.3"


def test_other_errors_of_the_network_stay_network_errors() -> None:
    for error in (ConnectionResetError(104, "reset"), TimeoutError("slow"), OSError()):
        assert type(from_tls_error(error, "x")) is NetworkError


# ---- event loops


def _run(loop: str, main: Coroutine[Any, Any, None]) -> None:
    with_loop: asyncio.AbstractEventLoop
    if loop == "uvloop":
        import uvloop

        with_loop = uvloop.new_event_loop()
    else:
        with_loop = asyncio.new_event_loop()
    complaints: list[object] = []
    with_loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    try:
        with_loop.run_until_complete(main)
        with_loop.run_until_complete(with_loop.shutdown_asyncgens())
    finally:
        with_loop.close()
    assert not complaints


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_streams(loop: str, make: Make) -> None:
    receiver, sender, stranger = make("receiver"), make("sender"), make("stranger")
    peers: list[bytes] = []
    live = LiveServerContext(receiver, lambda: peers)
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = peer_fingerprint(writer.get_extra_info("ssl_object"))
        writer.write((seen.hex() if seen else "nobody").encode() + b"\n")
        got.append(await reader.read())
        writer.close()

    async def ask(identity: Identity | None, pin: bytes, address: tuple[str, int]) -> bytes:
        reader, writer = await asyncio.open_connection(*address, ssl=client_context(identity, pin=pin))
        try:
            line = await reader.readline()
            if not line:
                raise ConnectionResetError
            return line
        finally:
            writer.close()
            with contextlib.suppress(OSError):  # the refusal's alert shows here, too
                await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=live.context)
        address = server.sockets[0].getsockname()
        assert await ask(None, receiver.fingerprint, address) == b"nobody\n"
        for identity in (sender, stranger):
            with pytest.raises(OSError) as caught:
                await ask(identity, receiver.fingerprint, address)
            assert type(from_tls_error(caught.value, "x")) in (TrustError, NetworkError)
        peers.append(sender.certificate)
        assert await ask(sender, receiver.fingerprint, address) == sender.fingerprint.hex().encode() + b"\n"
        with pytest.raises(ssl.SSLCertVerificationError) as wrong:
            await ask(sender, stranger.fingerprint, address)
        assert type(from_tls_error(wrong.value, "x")) is TrustError
        peers.clear()
        with pytest.raises(OSError):
            await ask(sender, receiver.fingerprint, address)
        server.close()
        await server.wait_closed()

    _run(loop, main())
    assert set(got) <= {b""}


# Python 3.10's asyncio warns of the transport of a failed handshake, which nobody but itself could have closed.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*_SSLProtocolTransport.__del__" if sys.version_info < (3, 11) else "error"
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_aiohttp_on_both_ends(loop: str, make: Make) -> None:
    receiver, sender, stranger = make("receiver"), make("sender"), make("stranger")
    peers: list[bytes] = []
    live = LiveServerContext(receiver, lambda: peers)
    requests: list[str] = []

    async def who(request: web.Request) -> web.Response:
        requests.append(request.path)
        assert request.transport is not None
        seen = peer_fingerprint(request.transport.get_extra_info("ssl_object"))
        return web.json_response({"peer": seen.hex() if seen else None})

    async def ask(identity: Identity | None, pin: bytes, port: int) -> object:
        connector = aiohttp.TCPConnector(ssl=client_context(identity, pin=pin))
        session = aiohttp.ClientSession(connector=connector)
        async with session, session.get(f"https://127.0.0.1:{port}/who") as response:
            return (await response.json())["peer"]

    async def main() -> None:
        application = web.Application()
        application.router.add_get("/who", who)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=live.context)
        await site.start()
        port = runner.addresses[0][1]
        assert await ask(None, receiver.fingerprint, port) is None
        with pytest.raises(aiohttp.ClientError):
            await ask(sender, receiver.fingerprint, port)
        peers.append(sender.certificate)
        assert await ask(sender, receiver.fingerprint, port) == sender.fingerprint.hex()
        with pytest.raises(aiohttp.ClientConnectorError) as wrong:
            await ask(sender, stranger.fingerprint, port)
        error = from_tls_error(wrong.value, "cannot connect")
        assert type(error) is TrustError
        assert "not the expected one" in str(error)
        peers.clear()
        with pytest.raises(aiohttp.ClientError):
            await ask(sender, receiver.fingerprint, port)
        await runner.cleanup()

    _run(loop, main())
    assert requests == ["/who", "/who"]  # neither the refused client nor the wrong receiver came that far
