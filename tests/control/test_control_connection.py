"""What the control port's client makes of answers that are late, short, long or no HTTP; when it uses one again."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from blocksync.control import client
from blocksync.control.client import HttpControl
from blocksync.control.connection import Connection
from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, IncompleteError, NetworkError, ProtocolError
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context, server_context

BEAT = b'{"durable": 7, "epoch": 1}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BEAT) + BEAT


class Answering:
    """A TLS server that answers each request on each connection with the next of some bytes, then closes."""

    def __init__(self, folder: Path, *connections: list[bytes]) -> None:
        self.identity = Identity.load_or_create(prepare(folder / "receiver"))
        self.client = Identity.load_or_create(prepare(folder / "sender"))
        self._context = server_context(self.identity, [self.client.certificate])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.accepted = 0
        self._connections = connections
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for answers in self._connections:
            plain, _ = self._socket.accept()
            self.accepted += 1
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secure:
                for answer in answers:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += secure.recv(4096)
                    secure.sendall(answer)
            self.closed.set()

    def control(self) -> HttpControl:
        return HttpControl("127.0.0.1", self.port, self.client, self.identity.fingerprint)

    def close(self) -> None:
        self._thread.join(20)
        self._socket.close()


def test_a_connection_is_used_again(tmp_path: Path) -> None:
    server = Answering(tmp_path, [OK, OK, OK])
    control = server.control()
    assert [control.heartbeat(bytes(16)).durable for _ in range(3)] == [7, 7, 7]
    assert server.accepted == 1
    control.close()
    server.close()


def test_one_that_the_receiver_closed_meanwhile_is_not(tmp_path: Path) -> None:
    server = Answering(tmp_path, [OK], [OK])
    control = server.control()
    control.heartbeat(bytes(16))
    assert server.closed.wait(20)
    assert control.heartbeat(bytes(16)).durable == 7
    assert server.accepted == 2
    control.close()
    server.close()


def test_one_whose_answer_ends_it_is_not_opened_again_without_tls(tmp_path: Path) -> None:
    last = OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
    server = Answering(tmp_path, [last], [OK])
    control = server.control()
    assert [control.heartbeat(bytes(16)).durable for _ in range(2)] == [7, 7]
    assert server.accepted == 2
    control.close()
    server.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", NetworkError),
        (OK[:30], NetworkError),
        (OK[:-3], NetworkError),
        (
            OK.replace(b"Content-Length: %d" % len(BEAT), b"Transfer-Encoding: chunked").replace(b"{", b"ff\r\n{"),
            NetworkError,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20), ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(1 << 20), ProtocolError),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1 << 20), NetworkError),
        (b"HTTP/1.1 500 no\r\nContent-Length: 99999999\r\n\r\n" + bytes(1 << 20), ProtocolError),
        (b"HTTP/1.1 302 go\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", ProtocolError),
    ],
)
def test_what_is_no_answer_is_told_and_the_next_call_begins_anew(
    tmp_path: Path, answer: bytes, kind: type[BlocksyncError]
) -> None:
    # The diagnosis of a dropped connection looks again, twice: it finds nobody.
    server = Answering(tmp_path, [answer])
    control = server.control()
    with pytest.raises(kind):
        control.heartbeat(bytes(16))
    control.close()
    server.close()


def test_a_receiver_that_dribbles_meets_the_deadline_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "receiver"))
    sender = Identity.load_or_create(prepare(tmp_path / "sender"))
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def dribble() -> None:
        plain, _ = listening.accept()
        with server_context(identity, [sender.certificate]).wrap_socket(plain, server_side=True) as secure:
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
            # Each byte comes well within the time that a call may take: only the whole is late.
            with contextlib.suppress(OSError):
                while not over.wait(0.02):
                    secure.sendall(b" ")

    thread = threading.Thread(target=dribble, daemon=True)
    thread.start()
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    control = HttpControl("127.0.0.1", listening.getsockname()[1], sender, identity.fingerprint)
    with pytest.raises(NetworkError, match="in time"):
        control.heartbeat(bytes(16))
    control.close()
    over.set()
    thread.join(20)
    listening.close()


def test_a_connection_given_up_before_it_is_open_stays_so(tmp_path: Path) -> None:
    sender = Identity.load_or_create(prepare(tmp_path / "sender"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connection = Connection("127.0.0.1", listening.getsockname()[1], client_context(sender, pin=bytes(32)))
        connection.abort()
        with pytest.raises(OSError, match="given up"):
            connection.open(10)
        connection.close()


def test_a_second_address_is_tried_where_the_first_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Answering(tmp_path, [OK])
    found = socket.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = socket.getaddrinfo("127.0.0.1", free.getsockname()[1], type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: nobody + found)
    control = server.control()
    assert control.heartbeat(bytes(16)).durable == 7
    control.close()
    server.close()


def test_the_diagnosis_of_a_dropped_connection_ends_with_its_call(tmp_path: Path) -> None:
    receiver = Identity.load_or_create(prepare(tmp_path / "receiver"))
    sender = Identity.load_or_create(prepare(tmp_path / "sender"))
    left: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        control = HttpControl("127.0.0.1", listening.getsockname()[1], sender, receiver.fingerprint)

        def drop_and_say_nothing() -> None:
            listening.accept()[0].close()
            # Strangers are answered, as by a receiver that does not know this machine's key.
            with server_context(receiver, []).wrap_socket(listening.accept()[0], server_side=True) as stranger:
                stranger.recv(65536)
                stranger.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            asked, _ = listening.accept()
            with asked:
                asked.settimeout(20)
                asked.recv(65536)
                control.abort()
                while part := asked.recv(65536):
                    left.append(part)
                left.append(part)

        thread = threading.Thread(target=drop_and_say_nothing)
        thread.start()
        with pytest.raises(IncompleteError, match="given up"):
            control.heartbeat(bytes(16))
        thread.join()
        # No further question is put: nobody waits in the queue.
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert left[-1] == b""
    control.close()


def test_an_end_in_the_midst_of_tls_is_told_as_what_it_is(tmp_path: Path) -> None:
    receiver = Identity.load_or_create(prepare(tmp_path / "receiver"))
    sender = Identity.load_or_create(prepare(tmp_path / "sender"))
    listening = socket.create_server(("127.0.0.1", 0))

    def drop() -> None:
        # The call, and the first question of its diagnosis.
        for _ in range(2):
            met, _ = listening.accept()
            with met:
                met.recv(65536)

    thread = threading.Thread(target=drop)
    thread.start()
    control = HttpControl("127.0.0.1", listening.getsockname()[1], sender, receiver.fingerprint)
    with pytest.raises(NetworkError, match="the connection broke off"):
        control.heartbeat(bytes(16))
    control.close()
    thread.join()
    listening.close()
