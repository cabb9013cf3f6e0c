"""Each trouble on the way to a receiver has its own code; the trouble is made, not imagined."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync import api
from blocksync.errors import InterruptedTransferError
from blocksync.preflight import network
from blocksync.preflight.network import Way
from blocksync.trust.identity import Identity
from blocksync.trust.pins import Pins
from tests.serving import Receiver, receiver


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


def way(served: Receiver, *, paired: bool = True, port: int | None = None) -> Way:
    if paired:
        served.reach(code=served.listening.code).close()
    state = served.folder / "sender"
    control = served.listening.control_port
    pin = Pins(state).find("127.0.0.1", control) if paired else None
    return Way("127.0.0.1", port or control, Identity.load_or_create(state), pin)


def codes(looked: Way) -> list[str]:
    return [finding.code for finding in looked.findings()]


def test_all_is_well(served: Receiver) -> None:
    looked = way(served)
    assert codes(looked) == ["BS2017", "BS2013"]
    assert set(looked.slots) == {"a", "b"}


def test_before_pairing(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    (served.folder / "sender").mkdir()
    monkeypatch.setattr(network, "DEFAULT_DATA_PORT", free_port())  # the receiver says which it is
    assert codes(way(served, paired=False)) == ["BS2008", "BS2017", "BS2013"]


def test_a_name_that_is_not_known(served: Receiver) -> None:
    looked = Way("no-such-host.invalid", 8080, Identity.load_or_create(served.state), None)
    assert codes(looked) == ["BS2001"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_nobody_listens(served: Receiver) -> None:
    assert codes(way(served, port=free_port())) == ["BS2002"]


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port with a queue that nobody empties: the kernel drops further SYNs, as a firewall does."""
    with contextlib.ExitStack() as held, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def test_packets_are_dropped(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "PROBE_SECONDS", 0.3)
    with silent() as port:
        assert codes(way(served, port=port)) == ["BS2003"]


def test_whoever_stops_a_look_at_a_silent_port_is_not_told_of_trouble(served: Receiver) -> None:
    cancel = api.Cancel()
    told: list[str] = []

    def stop(what: str) -> None:
        told.append(what)
        if what.startswith("looking for"):
            threading.Thread(target=cancel.set, daemon=True).start()

    with silent() as port:
        options = api.CheckOptions(to=f"127.0.0.1:{port}", state_dir=served.state, system=False, progress=stop)
        with pytest.raises(InterruptedTransferError):
            api.check(options, cancel=cancel)
    assert told


def test_a_look_up_that_hangs_is_left_behind(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    cancel = api.Cancel()

    def resolver(*_args: object, flags: int = 0, **_named: object) -> list[object]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        cancel.set()
        answered.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with pytest.raises(InterruptedTransferError):
        api.check(api.CheckOptions(to="slow.example", state_dir=served.state, system=False), cancel=cancel)
    answered.set()


def test_there_is_no_way(served: Receiver) -> None:
    # The kernel refuses a stream to everybody at once, as it does where it knows no route.
    looked = Way("255.255.255.255", 8080, Identity.load_or_create(served.state), None)
    assert codes(looked) == ["BS2004"]


@contextlib.contextmanager
def answering(greeting: bytes) -> Iterator[int]:
    """A server that says the same to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    other, _ = sock.accept()
                    with other:
                        other.settimeout(2)
                        other.recv(4096)
                        other.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(sock.getsockname()[1])
        finally:
            over.set()
            thread.join()


def test_something_else_answers_on_the_control_port(served: Receiver) -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        found = list(way(served, port=port).findings())
    assert [finding.code for finding in found] == ["BS2005"]
    assert "no TLS" in found[0].what


def test_another_key_than_the_pinned_one(served: Receiver) -> None:
    looked = way(served)
    assert looked._pin is not None
    looked._pin = dataclasses.replace(looked._pin, fingerprint=bytes(32))
    assert codes(looked) == ["BS2006"]


def test_a_grant_that_was_withdrawn(served: Receiver) -> None:
    looked = way(served)
    for peer in api.peers(served.state):
        api.revoke(peer.fingerprint, served.state)
    assert codes(looked) == ["BS2007"]


def status_with(data_port: int) -> object:
    real = network.ask

    def ask(*words: object, **more: object) -> network.Answer:
        answer = real(*words, **more)  # type: ignore[arg-type]
        if words[4] == "/v1/status":
            return dataclasses.replace(answer, said={**answer.said, "data_port": data_port})
        return answer

    return ask


def test_the_data_port_is_closed(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = way(served)
    monkeypatch.setattr(network, "ask", status_with(free_port()))
    assert codes(looked) == ["BS2009"]


def test_packets_to_the_data_port_are_dropped(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = way(served)
    monkeypatch.setattr(network, "PROBE_SECONDS", 2.0)
    with silent() as port:
        monkeypatch.setattr(network, "ask", status_with(port))
        assert codes(looked) == ["BS2010"]


def test_something_else_answers_on_the_data_port(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = way(served)
    with answering(b"220 mail\r\n") as port:
        monkeypatch.setattr(network, "ask", status_with(port))
        assert codes(looked) == ["BS2011"]


@contextlib.contextmanager
def narrow(port: int, most: int) -> Iterator[int]:
    """A path on which a connection stalls after so many bytes outwards: what a lost ICMP does to large segments."""
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.ExitStack() as held:
        sock.settimeout(0.1)
        over = threading.Event()
        threads: list[threading.Thread] = []

        def forward(source: socket.socket, sink: socket.socket, left: int) -> None:
            with contextlib.suppress(OSError):
                while left > 0 and (data := source.recv(min(left, 65536))):
                    sink.sendall(data)
                    left -= len(data)
                if left > 0:
                    sink.shutdown(socket.SHUT_WR)
                over.wait()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError, socket.timeout):
                    near = held.enter_context(sock.accept()[0])
                    far = held.enter_context(socket.create_connection(("127.0.0.1", port)))
                    for words in ((near, far, most), (far, near, 1 << 30)):
                        threads.append(threading.Thread(target=forward, args=words, daemon=True))
                        threads[-1].start()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(sock.getsockname()[1])
        finally:
            over.set()
            thread.join()


def test_large_packets_vanish(served: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = way(served)
    monkeypatch.setattr(network, "PROBE_SECONDS", 1.5)
    with narrow(served.listening.control_port, 8000) as port:
        looked._port = port
        assert codes(looked) == ["BS2012"]
