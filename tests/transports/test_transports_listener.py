"""The data port against strangers, slow ones, noise, and liars; and its links when they break."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.engine.reach import Reach
from blocksync.errors import BlocksyncError, NetworkError, ProtocolError, TrustError
from blocksync.protocol.messages import CONTROL_VERSION, OpenAnswer, OpenRequest
from blocksync.protocol.sender import DataSender
from blocksync.protocol.states import State
from blocksync.protocol.wire import Codec, Hello
from blocksync.transports import listener
from blocksync.transports.link import Link
from blocksync.transports.memory import memory_pair
from tests.serving import MIB, Receiver, receiver


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


@pytest.fixture
def reach(served: Receiver) -> Iterator[Reach]:
    made = served.reach(code=served.listening.code)
    yield made
    made.close()


@pytest.fixture
def session(reach: Reach) -> OpenAnswer:
    return reach.control.open(
        OpenRequest(
            version=CONTROL_VERSION, run=bytes(16), slot="a", source_identity="disk", source_name="disk",
            size=4 * MIB, sector_bytes=512, block_bytes=65536, digest=1, connections=2, replace=False,
        )
    )  # fmt: skip


def answer(link: Link, core: DataSender) -> list[tuple[int, int]]:
    while True:
        complete = core.reader.filled(link.recv_into(core.reader.want()))
        if complete is not None:
            return core.heard(*complete)


def greet(link: Link, opened: OpenAnswer, **changes: object) -> DataSender:
    values = {"session": opened.session, "token": opened.token, "ordinal": 0} | changes
    core = DataSender(opened.epoch)
    link.send(core.hello(Hello(**values)))  # type: ignore[arg-type]  # the table above
    answer(link, core)
    return core


def is_closed(sock: socket.socket) -> bool:
    sock.settimeout(20)
    try:
        return sock.recv(100) == b""
    except ConnectionError:
        return True


def test_a_connection_from_hello_to_done(reach: Reach, session: OpenAnswer) -> None:
    link = reach._connect_data(session)
    core = greet(link, session)
    link.send(core.zero(0, 4 * MIB))
    link.send(core.end())
    assert answer(link, core) == []
    assert core.state is State.CLOSED
    link.close()


@pytest.mark.parametrize(
    "changes",
    [{"token": bytes(32)}, {"session": bytes(16)}, {"token": b"x" * 32}],
    ids=["token", "session", "both"],
)
def test_a_hello_without_the_sessions_secret_is_refused(
    reach: Reach, session: OpenAnswer, changes: dict[str, object]
) -> None:
    link = reach._connect_data(session)
    with pytest.raises(BlocksyncError) as told:
        greet(link, session, **changes)
    assert told.value.exit_code in (7, 8, 12)
    link.close()


def test_a_frame_whose_content_is_not_its_digest_ends_the_session_and_writes_nothing(
    served: Receiver, reach: Reach, session: OpenAnswer
) -> None:
    link = reach._connect_data(session)
    core = greet(link, session)
    link.send(core.data(0, 65536, 65536, Codec.RAW, bytes(16)), b"x" * 65536)
    link.send(core.end())  # a receiver that took the frame answers this
    with pytest.raises(ProtocolError, match="digest"):
        answer(link, core)
    link.close()
    assert not any((served.folder / "a.img").read_bytes())


def test_a_bomb_is_refused_before_it_is_unpacked(served: Receiver, reach: Reach, session: OpenAnswer) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(64 * MIB))
    link = reach._connect_data(session)
    core = greet(link, session)
    link.send(core.data(0, 65536, len(bomb), Codec.ZSTD, bytes(16)), bomb)
    with pytest.raises(ProtocolError):
        answer(link, core)
    link.close()


def test_a_close_without_end_is_no_end(served: Receiver, reach: Reach, session: OpenAnswer) -> None:
    link = reach._connect_data(session)
    core = greet(link, session)
    link.send(core.zero(0, 65536))
    link.close()
    # The session is still there, and nothing was committed by the close.
    assert reach.control.heartbeat(session.session).epoch == session.epoch


def test_more_connections_than_agreed_are_closed(reach: Reach, session: OpenAnswer) -> None:
    links = [reach._connect_data(session) for _ in range(session.connections + 1)]
    for ordinal, link in enumerate(links[:-1]):
        greet(link, session, ordinal=ordinal)
    with pytest.raises(BlocksyncError):
        greet(links[-1], session, ordinal=9)
    for link in links:
        link.close()


def test_noise_is_dropped_and_others_are_served(served: Receiver, reach: Reach, session: OpenAnswer) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), b"\x16\x03\x01" + b"\xff" * 500):
        with socket.create_connection(("127.0.0.1", served.listening.data_port), timeout=20) as sock:
            sock.sendall(noise)
            # A TLS alert may come before the close.
            while not is_closed(sock):
                pass
    link = reach._connect_data(session)
    greet(link, session)
    link.close()


def test_silent_strangers_are_dropped_at_the_deadline(monkeypatch: pytest.MonkeyPatch, served: Receiver) -> None:
    monkeypatch.setattr(listener, "PROVEN_WITHIN_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", served.listening.data_port), timeout=20) as sock:
        assert is_closed(sock)


def test_a_crowd_of_strangers_has_bounded_room_and_a_proven_sender_gets_in(
    monkeypatch: pytest.MonkeyPatch, served: Receiver, reach: Reach, session: OpenAnswer
) -> None:
    # Out of the way, so that whoever has to go goes for want of room.
    monkeypatch.setattr(listener, "PROVEN_WITHIN_SECONDS", 600.0)
    crowd = [
        socket.create_connection(("127.0.0.1", served.listening.data_port), timeout=20)
        for _ in range(3 * listener.MAX_PENDING_PER_ADDRESS)
    ]
    link = reach._connect_data(session)
    greet(link, session)
    link.close()
    # Those that came first had to go.
    assert is_closed(crowd[0])
    for sock in crowd:
        sock.close()


def test_the_port_is_free_again_after_closing(tmp_path: Path) -> None:
    with receiver(tmp_path) as made:
        port = made.listening.data_port
        with socket.create_connection(("127.0.0.1", port), timeout=20):
            pass
    listener.listen("127.0.0.1", port, "data", "--data-port").close()
    assert not [thread for thread in threading.enumerate() if thread.name in ("data-port", "data-inbound")]


def test_abort_wakes_a_thread_that_waits_for_bytes() -> None:
    ours, theirs = memory_pair()
    woken: list[BlocksyncError] = []

    def wait() -> None:
        try:
            ours.recv_into(memoryview(bytearray(10)))
        except BlocksyncError as error:
            woken.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ours.abort()
    thread.join(20)
    assert [type(error) for error in woken] == [NetworkError]
    ours.close()
    ours.close()
    theirs.close()


def test_a_close_shows_as_a_broken_connection_on_the_other_side() -> None:
    ours, theirs = memory_pair()
    ours.send(b"abc", memoryview(b"def"))
    ours.close()
    buffer = bytearray(6)
    got = 0
    while got < 6:
        got += theirs.recv_into(memoryview(buffer)[got:])
    assert bytes(buffer) == b"abcdef"
    with pytest.raises(NetworkError, match="without an END"):
        theirs.recv_into(memoryview(buffer))
    theirs.close()


def test_a_receiver_with_another_key_is_refused_before_hello(reach: Reach, session: OpenAnswer) -> None:
    from blocksync.transports.dial import Dial
    from blocksync.transports.tls import connect
    from blocksync.trust.tls import client_context

    context = client_context(reach._identity, pin=bytes(32))
    with pytest.raises(TrustError):
        connect(Dial("127.0.0.1", session.data_port, context), bytes(32), timeout=10)


@pytest.mark.parametrize("host", ["a..b", "203.0.113.1"])
def test_an_address_that_is_not_of_this_machine_is_told_as_that(host: str) -> None:
    with pytest.raises(NetworkError) as caught:
        listener.listen(host, 0, "data", "--data-port")
    assert "--listen" in str(caught.value.remedy)
    assert "Unknown error" not in caught.value.message
