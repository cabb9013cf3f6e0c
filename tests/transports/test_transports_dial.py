"""A connection that is being opened ends when another thread says so, wherever it waits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.engine.statedir import prepare
from blocksync.errors import NetworkError
from blocksync.transports.dial import Dial
from blocksync.transports.tls import connect
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context

# Of which nothing is used where the code is right.
LONG_SECONDS = 20.0
LEFT_SECONDS = 15.0
DRIBBLED_BYTES = 250


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity.load_or_create(prepare(tmp_path / "sender"))


def dial_to(port: int, identity: Identity) -> Dial:
    return Dial("127.0.0.1", port, client_context(identity, pin=bytes(32)))


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port whose queue is full: packets that would open one more connection are dropped."""
    with socket.socket() as listening, contextlib.ExitStack() as exits:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port: int = listening.getsockname()[1]
        for _ in range(2):
            filling = exits.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", port))
        yield port


def test_a_handshake_that_nobody_answers(identity: Identity) -> None:
    left: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        dial = dial_to(listening.getsockname()[1], identity)

        def silent() -> None:
            met, _ = listening.accept()
            with met:
                met.settimeout(LEFT_SECONDS)
                met.recv(65536)
                dial.abort()
                left.append(met.recv(65536))

        thread = threading.Thread(target=silent)
        thread.start()
        with pytest.raises(NetworkError):
            connect(dial, bytes(32), timeout=LONG_SECONDS)
        thread.join()
    assert left == [b""]


def test_a_connect_that_nobody_answers(identity: Identity) -> None:
    with deaf() as port:
        dial = dial_to(port, identity)
        ended = threading.Event()

        def insist() -> None:
            # Whatever the moment, once is enough.
            while dial._sock is None and not ended.wait(0.001):
                pass
            dial.abort()

        thread = threading.Thread(target=insist)
        thread.start()
        try:
            with pytest.raises(OSError, match="given up"):
                dial.open(LONG_SECONDS)
        finally:
            ended.set()
            thread.join()


def test_a_name_that_nobody_looks_up(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    dial = Dial("name.example", 1, client_context(identity, pin=bytes(32)))
    answered = threading.Event()
    ended: list[str] = []

    def resolver(host: str, _port: int, flags: int = 0, **_more: int) -> list[tuple[object, ...]]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        dial.abort()
        answered.wait(LONG_SECONDS)
        ended.append(host)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with pytest.raises(OSError, match="given up"):
        dial.open(LONG_SECONDS)
    assert not ended, "it waited for the resolver"
    answered.set()


@pytest.mark.parametrize("name", ["a" * 70 + ".example", "a..b"])
def test_what_is_no_name_is_told_as_one_that_is_not_known(identity: Identity, name: str) -> None:
    with pytest.raises(socket.gaierror):
        Dial(name, 1, client_context(identity, pin=bytes(32))).open(LONG_SECONDS)


def test_a_handshake_that_dribbles_ends_in_time_as_a_whole(identity: Identity) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def dribble() -> None:
            met, _ = listening.accept()
            # A record of 16 KiB of a handshake; each byte comes well within the time that is left.
            with met, contextlib.suppress(OSError):
                met.sendall(b"\x16\x03\x03\x40\x00\x02")
                for _ in range(DRIBBLED_BYTES):
                    met.sendall(b"\0")
                    if over.wait(0.02):
                        break

        thread = threading.Thread(target=dribble, daemon=True)
        thread.start()
        with pytest.raises(TimeoutError):
            dial_to(listening.getsockname()[1], identity).open(0.3)
        assert thread.is_alive(), "the server ended it"
        over.set()
        thread.join(LEFT_SECONDS)


def test_one_that_was_given_up_before_it_began(identity: Identity) -> None:
    with deaf() as port:
        dial = dial_to(port, identity)
        dial.abort()
        with pytest.raises(OSError, match="given up"):
            dial.open(LONG_SECONDS)


def test_what_it_opened_is_shut_down_and_closed_once(identity: Identity) -> None:
    with deaf() as port:
        dial = dial_to(port, identity)
        with pytest.raises(TimeoutError):
            dial.open(0.0)
        dial.close()
        dial.close()
        dial.abort()
        assert dial.given_up


def test_nobody_there_is_told_by_the_system(identity: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        dial_to(port, identity).open(10)
