"""Strangers at the control port: silent, slow, many. A paired sender gets in among them."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync.control import door, server
from blocksync.control.contact import Contact
from blocksync.engine.reach import Reach
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, NetworkError
from blocksync.protocol.messages import VerifyRequest
from blocksync.trust.codes import PairingCode
from blocksync.trust.identity import Identity
from blocksync.trust.tls import LiveServerContext, client_context
from tests.control.test_control_port import ask, request
from tests.serving import Receiver

Dial = Callable[[], socket.socket]


@pytest.fixture
def dial(served: Receiver) -> Iterator[Dial]:
    """Connections to the control port that are closed at the end."""
    with contextlib.ExitStack() as exits:
        address = ("127.0.0.1", served.listening.control_port)
        yield lambda: exits.enter_context(socket.create_connection(address, timeout=20))


def shaken(served: Receiver, plain: socket.socket) -> ssl.SSLSocket:
    return client_context(None, pin=bytes.fromhex(served.listening.fingerprint)).wrap_socket(plain)


def ended(sock: socket.socket) -> bool:
    """Wait until the other end has closed it."""
    sock.settimeout(20)
    try:
        return sock.recv(10) == b""
    except ConnectionError:
        return True


def test_a_stranger_that_says_nothing_has_a_deadline(monkeypatch: pytest.MonkeyPatch, dial: Dial) -> None:
    monkeypatch.setattr(door, "STRANGER_SECONDS", 0.2)
    assert ended(dial())


@pytest.mark.parametrize(
    "piece", [b"GET /v1/hello HTTP/1.1\r\nX: ", b"POST /v1/pair HTTP/1.1\r\nContent-Length: 999\r\n\r\n"]
)
def test_slow_headers_and_bodies_do_not_stretch_the_deadline(
    monkeypatch: pytest.MonkeyPatch, served: Receiver, dial: Dial, piece: bytes
) -> None:
    monkeypatch.setattr(door, "STRANGER_SECONDS", 1.0)
    with shaken(served, dial()) as secure:
        secure.sendall(piece)
        with pytest.raises(OSError):  # noqa: PT012 - which of the writes fails is the network's business
            for _ in range(1000):
                secure.sendall(b"x")
                time.sleep(0.02)


def test_of_too_many_from_one_address_the_oldest_goes_and_a_paired_sender_gets_in(
    monkeypatch: pytest.MonkeyPatch, reach: Reach, dial: Dial
) -> None:
    monkeypatch.setattr(door, "MAX_STRANGERS_PER_ADDRESS", 4)
    monkeypatch.setattr(door, "STRANGER_SECONDS", 600.0)  # whoever goes, goes for want of room
    strangers = [dial() for _ in range(12)]
    assert reach.control.open(request()).slot == "a"
    for stranger in strangers[:8]:
        assert ended(stranger)


def test_of_too_many_in_all_the_oldest_goes(monkeypatch: pytest.MonkeyPatch, served: Receiver, dial: Dial) -> None:
    monkeypatch.setattr(door, "MAX_STRANGERS", 3)
    monkeypatch.setattr(door, "STRANGER_SECONDS", 600.0)
    strangers = [dial() for _ in range(6)]
    assert ask(served, None, "GET", "/v1/hello")[0] == 200
    for stranger in strangers[:3]:
        assert ended(stranger)


def test_a_peer_does_not_keep_all_places(monkeypatch: pytest.MonkeyPatch, served: Receiver, reach: Reach) -> None:
    monkeypatch.setattr(door, "MAX_PROVEN_PER_PEER", 2)
    context = client_context(reach._identity, pin=bytes.fromhex(served.listening.fingerprint))
    with contextlib.ExitStack() as exits:
        links = []
        for _ in range(4):
            plain = exits.enter_context(socket.create_connection(("127.0.0.1", served.listening.control_port), 20))
            links.append(exits.enter_context(context.wrap_socket(plain)))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert links[3].recv(1) == b""
        # Another one is not touched by it.
        other = served.reach("other", code=served.serving.listening().code)
        assert other.control.open(request(slot="b")).slot == "b"
        other.close()


def test_a_verify_whose_reader_stops_gives_the_slot_back(
    monkeypatch: pytest.MonkeyPatch, reach: Reach, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told to the reader, should it still be there: never an end as of a whole stream. No traceback of it."""

    async def never(response: object, part: bytes) -> None:
        raise ConnectionResetError("the sender stopped reading")

    monkeypatch.setattr(server, "_write", never)
    with pytest.raises(BlocksyncError):
        _read_verify(reach)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert reach.control.open(request()).slot == "a"


def _read_verify(reach: Reach) -> None:
    _, parts = reach.control.verify(
        VerifyRequest(version=1, slot="a", size=4 << 20, offset=0, length=4 << 20, piece_bytes=4096, key=bytes(32))
    )
    list(parts)


def test_the_door_survives_running_out_of_descriptors(served: Receiver) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []
    try:
        # Descriptors are numbered from below: whatever this process has open already, there is room for a few more.
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 30, hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(socket.socket())
        held.pop().close()
        # One descriptor for the client; none is left for the port to accept with.
        with contextlib.suppress(OSError):
            held.append(socket.create_connection(("127.0.0.1", served.listening.control_port), timeout=5))
        time.sleep(0.2)
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ask(served, None, "GET", "/v1/hello")[0] == 200


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_a_receiver_that_goes_away_while_it_pairs_is_a_broken_network(tmp_path: Path, answer: bytes) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "receiver"))
    context = LiveServerContext(identity, list).context
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def go_away() -> None:
            plain, _ = listening.accept()
            with context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(65536)
                secure.sendall(answer)

        thread = threading.Thread(target=go_away)
        thread.start()
        code = PairingCode.make(identity.fingerprint)
        sender = Identity.load_or_create(prepare(tmp_path / "sender"))
        with pytest.raises(NetworkError):
            Contact("127.0.0.1", listening.getsockname()[1], code, sender, name="x").make()
        thread.join()
