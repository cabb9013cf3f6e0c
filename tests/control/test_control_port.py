"""The control port over real TLS on loopback: what a paired sender may ask, and what everybody else gets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from blocksync.control import server
from blocksync.control.client import HttpControl, refusal
from blocksync.engine.reach import Reach
from blocksync.engine.statedir import prepare
from blocksync.errors import (
    BlocksyncError,
    IncompleteError,
    NetworkError,
    PeerError,
    SlotBusyError,
    TargetRefusedError,
    TrustError,
    VersionSkewError,
)
from blocksync.geometry import Geometry
from blocksync.protocol.messages import CONTROL_VERSION, CommitRequest, OpenRequest, VerifyRequest
from blocksync.trust.grants import Grants
from blocksync.trust.identity import Identity
from blocksync.trust.tls import client_context
from tests.serving import MIB, Receiver


def request(**changes: object) -> OpenRequest:
    values: dict[str, object] = {
        "version": CONTROL_VERSION, "run": bytes(16), "slot": "a", "source_identity": "disk", "source_name": "disk",
        "size": 4 * MIB, "sector_bytes": 512, "block_bytes": 65536, "digest": 1, "connections": 2, "replace": False,
    }  # fmt: skip
    return OpenRequest(**(values | changes))  # type: ignore[arg-type]  # the table above


def ask(
    served: Receiver, identity: Identity | None, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes]:
    """A request by hand."""
    context = client_context(identity, pin=bytes.fromhex(served.listening.fingerprint))
    with (
        socket.create_connection(("127.0.0.1", served.listening.control_port), timeout=20) as plain,
        context.wrap_socket(plain) as secure,
    ):
        connection = http.client.HTTPConnection("x")
        connection.sock = secure
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def code_of(body: bytes) -> str:
    return str(json.loads(body)["code"])


def test_a_session_from_open_to_commit(reach: Reach) -> None:
    answer = reach.control.open(request())
    assert (answer.slot, answer.epoch, answer.generation, answer.known_bytes) == ("a", 1, 0, 0)
    geometry = Geometry(answer.size, answer.block_bytes, answer.sector_bytes)
    assert len(reach.control.segment_digests(answer.session)) == 16 * geometry.segment_count
    state, payload = reach.control.segment(answer.session, 0)
    assert (state, payload) == (0, b"")
    assert reach.control.heartbeat(answer.session).epoch == 1
    committed = reach.control.commit(answer.session, CommitRequest(root=answer.root))
    assert committed.generation == 1
    with pytest.raises(BlocksyncError):
        reach.control.heartbeat(answer.session)


def test_a_wrong_root_commits_nothing(reach: Reach) -> None:
    answer = reach.control.open(request())
    with pytest.raises(BlocksyncError) as told:
        reach.control.commit(answer.session, CommitRequest(root=bytes(16)))
    assert told.value.exit_code == 9
    assert reach.control.open(request()).generation == 0


def test_errors_keep_their_class_and_remedy_across_the_wire(reach: Reach) -> None:
    with pytest.raises(TargetRefusedError) as told:
        reach.control.open(request(size=8 * MIB))
    assert "at least as large" in told.value.remedy
    reach.control.open(request())
    with pytest.raises(PeerError, match="another disk"):
        reach.control.open(request(source_identity="another"))


def test_each_open_is_a_new_epoch_and_ends_the_one_before(reach: Reach) -> None:
    first = reach.control.open(request())
    second = reach.control.open(request())
    assert second.epoch == first.epoch + 1
    assert second.session != first.session
    with pytest.raises(NetworkError, match="ended"):
        reach.control.heartbeat(first.session)


def test_a_session_that_was_left_is_taken_over_by_the_next_run_of_its_sender(reach: Reach) -> None:
    assert reach.control.open(request()).epoch == 1
    assert reach.control.open(request(run=b"x" * 16)).epoch == 2


def test_another_version_is_refused_as_such(served: Receiver, reach: Reach, tmp_path: Path) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "sender"))
    body = json.dumps({"version": 99, "news": True}).encode()
    for path in ("/v1/sessions", "/v1/verify"):
        status, answer = ask(served, identity, "POST", path, body)
        assert (status, code_of(answer)) == (400, VersionSkewError.code)
    with pytest.raises(VersionSkewError):
        reach.control.open(request(version=2))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/health"), ("GET", "/v1/status"), ("POST", "/v1/sessions"), ("POST", "/v1/verify"),
        ("GET", f"/v1/sessions/{'0' * 32}/segments"), ("GET", f"/v1/sessions/{'0' * 32}/segments/0"),
        ("POST", f"/v1/sessions/{'0' * 32}/heartbeat"), ("POST", f"/v1/sessions/{'0' * 32}/commit"),
        ("DELETE", f"/v1/sessions/{'0' * 32}"),
    ],
)  # fmt: skip
def test_strangers_get_nothing(served: Receiver, tmp_path: Path, method: str, path: str) -> None:
    status, answer = ask(served, None, method, path, b"{}")
    assert (status, code_of(answer)) == (403, TrustError.code)
    stranger = Identity.load_or_create(prepare(tmp_path / "stranger"))
    # Its certificate is not among those granted: TLS itself refuses it, or the port does.
    try:
        status, answer = ask(served, stranger, method, path, b"{}")
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return
    assert (status, code_of(answer)) == (403, TrustError.code)


def test_a_sender_touches_only_the_slots_it_was_granted(served: Receiver, reach: Reach) -> None:
    grants = Grants(served.state)
    (grant,) = grants.peers()
    grants.revoke(grant.fingerprint.hex())
    grants.add(replace(grant, slots=("a",)))
    # A slot of another's, none at all, and a path: which of them it was is not told.
    for slot in ("b", "c", "../a"):
        with pytest.raises(TrustError, match="no grant"):
            reach.control.open(request(slot=slot))
    assert reach.control.open(request()).slot == "a"


def test_a_revoked_sender_is_refused_in_the_middle_of_its_session(served: Receiver, reach: Reach) -> None:
    answer = reach.control.open(request())
    Grants(served.state).revoke(Grants(served.state).peers()[0].fingerprint.hex())
    with pytest.raises((TrustError, NetworkError)):
        reach.control.heartbeat(answer.session)
    with pytest.raises((TrustError, NetworkError)):
        reach.control.open(request())


def test_another_receiver_in_its_place_is_refused_before_anything_is_sent(reach: Reach, served: Receiver) -> None:
    wrong = HttpControl("127.0.0.1", served.listening.control_port, reach._identity, bytes(32))
    with pytest.raises(TrustError):
        wrong.open(request())
    wrong.close()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"{}", b"\xff\xfe", b"[" * 20_000, json.dumps({"version": "1"}).encode()]
)
def test_bodies_that_are_no_message_are_refused(
    served: Receiver, reach: Reach, tmp_path: Path, body: bytes
) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "sender"))
    for path in ("/v1/sessions", "/v1/verify", "/v1/pair"):
        status, answer = ask(served, identity, "POST", path, body)
        assert 400 <= status < 500, (path, status)
        assert json.loads(answer)["remedy"]


def test_fields_out_of_bounds_are_refused_not_crashed_on(reach: Reach) -> None:
    for changes in (
        {"size": 0}, {"size": (1 << 63) - 1}, {"sector_bytes": 7}, {"block_bytes": 5}, {"block_bytes": 1 << 40},
        {"digest": 9}, {"source_name": "x" * 5000}, {"slot": "\x1b[31m"},
    ):  # fmt: skip
        with pytest.raises(BlocksyncError) as told:
            reach.control.open(request(**changes))
        assert told.value.exit_code in (2, 5, 7, 12), changes


@pytest.mark.parametrize("path", ["/v1/pair", "/v1/sessions", "/v1/divide", "/v1/verify", "/v1/receipt"])
def test_large_bodies_are_not_read(served: Receiver, reach: Reach, tmp_path: Path, path: str) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "sender"))
    try:
        status, _ = ask(served, identity, "POST", path, b" " * (2 << 20))
    except (ConnectionError, ssl.SSLError):
        return
    assert status == 413


def test_unknown_paths_and_methods(served: Receiver) -> None:
    assert ask(served, None, "GET", "/nothing")[0] == 404
    assert ask(served, None, "GET", "/")[0] == 403, "the status page is for paired peers"
    assert ask(served, None, "GET", "/v1/sessions/../../etc/passwd")[0] == 404
    assert ask(served, None, "PUT", "/v1/sessions")[0] == 405
    assert json.loads(ask(served, None, "GET", "/v1/hello")[1])["control"] == CONTROL_VERSION


def test_verify_is_bounded_and_streams(reach: Reach) -> None:
    wanted = VerifyRequest(
        version=CONTROL_VERSION, slot="a", size=4 * MIB, offset=0, length=4 * MIB, piece_bytes=4096, key=bytes(32)
    )
    answer, parts = reach.control.verify(wanted)
    assert answer.slot == "a"
    digests = b"".join(parts)
    assert len(digests) == 32 * 1024
    assert len({digests[at : at + 32] for at in range(0, len(digests), 32)}) == 1
    for changes in (
        {"piece_bytes": 1}, {"piece_bytes": 1 << 40}, {"length": 0}, {"offset": 4096, "length": 4 * MIB},
        {"size": 8 * MIB}, {"key": b"short"}, {"offset": 100},
    ):  # fmt: skip
        values = {name: getattr(wanted, name) for name in wanted.__slots__} | changes
        with pytest.raises(PeerError):
            reach.control.verify(VerifyRequest(**values))


def test_a_verify_tells_what_it_found_while_it_goes_on(
    served: Receiver, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the two ends read one after the other, and a slow disk is taken for a dead receiver."""
    heard = threading.Event()
    target = served.serving._receiver.slots["a"].target
    target.write(0, memoryview(b"x" * (4 * MIB)))
    read = target.read_into

    def waiting(offset: int, buffer: memoryview) -> None:
        assert offset < 2 * MIB or heard.wait(60)
        read(offset, buffer)

    monkeypatch.setattr(target, "read_into", waiting)
    monkeypatch.setattr(server, "STREAM_PART_SECONDS", 0.0)
    wanted = VerifyRequest(
        version=CONTROL_VERSION, slot="a", size=4 * MIB, offset=0, length=4 * MIB, piece_bytes=MIB, key=bytes(32)
    )
    _, parts = reach.control.verify(wanted)
    first = next(parts)
    heard.set()
    assert len(first + b"".join(parts)) == 4 * 32


def test_a_verify_that_is_left_early_frees_the_slot(reach: Reach) -> None:
    wanted = VerifyRequest(
        version=CONTROL_VERSION, slot="a", size=4 * MIB, offset=0, length=4 * MIB, piece_bytes=4096, key=bytes(32)
    )
    _, parts = reach.control.verify(wanted)
    next(parts)
    parts.close()  # type: ignore[attr-defined]  # it is a generator
    for _ in range(100):
        with contextlib.suppress(SlotBusyError):
            assert reach.control.open(request()).slot == "a"
            return
        threading.Event().wait(0.1)
    raise AssertionError("the slot is still being verified")


def test_abort_ends_calls_that_wait_and_later_ones_work(reach: Reach) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    control = HttpControl("127.0.0.1", silent.getsockname()[1], reach._identity, bytes(32))
    failed: list[BlocksyncError] = []

    def call() -> None:
        try:
            control.heartbeat(bytes(16))
        except BlocksyncError as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    accepted, _ = silent.accept()
    control.abort()
    thread.join(30)
    assert not thread.is_alive()
    assert [type(error) for error in failed] == [IncompleteError]
    control.close()
    accepted.close()
    silent.close()


def test_nobody_at_the_port_and_something_else_there(tmp_path: Path) -> None:
    identity = Identity.load_or_create(prepare(tmp_path / "sender"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    control = HttpControl("127.0.0.1", port, identity, bytes(32))
    with pytest.raises(NetworkError) as told:
        control.heartbeat(bytes(16))
    assert str(port) in told.value.message
    assert told.value.remedy
    control.close()


def test_the_receivers_port_in_use_is_told_with_the_option(served: Receiver, tmp_path: Path) -> None:
    from blocksync.transports.listener import listen

    with pytest.raises(NetworkError) as told:
        listen("127.0.0.1", served.listening.control_port, "control", "--control-port")
    assert "--control-port" in told.value.remedy


def test_a_request_that_is_held_on_its_way_is_worth_another_attempt(
    served: Receiver, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
    context = client_context(reach.identity, pin=bytes.fromhex(served.listening.fingerprint))
    with (
        socket.create_connection(("127.0.0.1", served.listening.control_port), timeout=20) as plain,
        context.wrap_socket(plain) as secure,
    ):
        secure.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
        answer = http.client.HTTPResponse(secure)
        answer.begin()
        told = refusal(answer.read())
    assert isinstance(told, NetworkError), told
    assert told.retryable
