"""Who may do what with a slot and a session: checked on the receiver itself, below the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blocksync.control.service import Peer
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import ABANDONED_SECONDS, Session, Slot
from blocksync.errors import NetworkError, PeerError, ProtocolError, SlotBusyError, TargetRefusedError, TrustError
from blocksync.manifest.folder import OsFolder
from blocksync.protocol.messages import CONTROL_VERSION, CommitRequest, OpenAnswer, OpenRequest, VerifyRequest
from blocksync.protocol.receiver import DataReceiver
from blocksync.protocol.wire import Hello
from blocksync.targets.memory import MemoryTarget
from blocksync.transports.link import Link
from blocksync.transports.memory import memory_pair

SIZE = 4 * (64 << 10)
HERE = Peer(fingerprint=b"h" * 32, name="here")
THERE = Peer(fingerprint=b"t" * 32, name="there")


class Bench:
    def __init__(self, folder: OsFolder) -> None:
        self.links: list[Link] = []
        self.slot = Slot("web", MemoryTarget(SIZE), folder)
        self.denied: set[tuple[Peer, str]] = set()
        self.receiver = Receiver(
            {"web": self.slot}, lambda peer, slot: (peer, slot) not in self.denied, lambda _progress: None
        )

    def port(self, peer: Peer = HERE) -> PeerPort:
        return PeerPort(self.receiver, peer)

    def open(self, peer: Peer = HERE, run: bytes = b"1" * 16, **more: object) -> OpenAnswer:
        wanted = OpenRequest(
            version=CONTROL_VERSION,
            run=run,
            slot="web",
            source_identity="disk",
            source_name="disk",
            size=SIZE,
            sector_bytes=512,
            block_bytes=64 << 10,
            digest=1,
            connections=2,
            replace=False,
        )
        return self.port(peer).open(replace(wanted, **more))  # type: ignore[arg-type]

    def connect(self, answer: OpenAnswer, peer: Peer = HERE) -> Link:
        """A data connection that is proven and served."""
        ours, theirs = memory_pair()
        self.links.append(ours)
        core = DataReceiver()
        hello = Hello(session=answer.session, token=answer.token, ordinal=0)
        handler = self.receiver.authorise(hello, peer.fingerprint)
        core.state = core.state.GREETED
        threading.Thread(target=handler, args=(theirs, core), daemon=True).start()
        assert ours.recv_into(memoryview(bytearray(64))) == 64
        return ours

    def silence(self, seconds: float) -> None:
        """Make the session look as if nothing had been heard of it for so long."""
        assert self.slot.session is not None
        self.slot.session.last_seen -= seconds


def is_closed(link: Link) -> bool:
    """Wait until the other end has closed it; False where it does not."""
    link.hurry(20)
    try:
        link.recv_into(memoryview(bytearray(64)))
    except NetworkError as error:
        return not isinstance(error.__cause__, TimeoutError)
    return False


def whole(piece: int, slot: str = "web") -> VerifyRequest:
    return VerifyRequest(
        version=CONTROL_VERSION, slot=slot, size=SIZE, offset=0, length=SIZE, piece_bytes=piece, key=bytes(32)
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(OsFolder(tmp_path / "slot"))
    yield made
    for link in made.links:
        link.close()
    made.receiver.close()


def test_a_session_is_its_peers_alone(bench: Bench) -> None:
    answer = bench.open()
    hello = Hello(session=answer.session, token=answer.token, ordinal=0)
    with pytest.raises(NetworkError):
        bench.port(THERE).heartbeat(answer.session)
    with pytest.raises(NetworkError):
        bench.receiver.authorise(hello, THERE.fingerprint)
    assert bench.port().heartbeat(answer.session).epoch == answer.epoch


def test_a_slot_without_a_grant_is_neither_opened_nor_verified_nor_told(bench: Bench) -> None:
    bench.denied = {(THERE, "web")}
    for name in ("web", ""):
        with pytest.raises(TrustError, match="no grant"):
            bench.open(THERE, slot=name)
        with pytest.raises(TrustError, match="no grant"):
            bench.port(THERE).verify(whole(4096, slot=name))
    assert bench.receiver.allowed_slots(THERE) == []
    assert bench.slot.session is None
    assert bench.open(HERE).slot == "web"


def test_a_grant_that_is_withdrawn_ends_what_its_session_may_do(bench: Bench) -> None:
    """The peer may keep its place at the door: it can have grants for other slots."""
    answer = bench.open()
    bench.denied = {(HERE, "web")}
    hello = Hello(session=answer.session, token=answer.token, ordinal=0)
    for call in (
        lambda: bench.port().heartbeat(answer.session),
        lambda: bench.port().segment_digests(answer.session),
        lambda: bench.port().segment(answer.session, 0),
        lambda: bench.port().commit(answer.session, CommitRequest(root=answer.root)),
        lambda: bench.receiver.authorise(hello, HERE.fingerprint),
    ):
        with pytest.raises(TrustError, match="withdrawn"):
            call()
    assert bench.slot.store is not None
    assert bench.slot.store.generation == 0


def test_the_token_is_the_sessions(bench: Bench) -> None:
    answer = bench.open()
    with pytest.raises(TrustError):
        bench.receiver.authorise(Hello(session=answer.session, token=bytes(32), ordinal=0), HERE.fingerprint)


def test_another_sender_waits_until_the_first_is_silent(bench: Bench) -> None:
    bench.open()
    bench.silence(ABANDONED_SECONDS + 1)
    with pytest.raises(SlotBusyError, match="here"):
        bench.open(THERE)
    bench.silence(60)
    assert bench.open(THERE).epoch == 2


def test_the_same_run_takes_its_session_over_and_the_older_one_ends(bench: Bench) -> None:
    first = bench.open()
    link = bench.connect(first)
    second = bench.open()
    assert second.epoch == first.epoch + 1
    assert is_closed(link)
    with pytest.raises(NetworkError):
        bench.port().heartbeat(first.session)


def test_another_run_of_the_same_machine_waits_for_a_sender_that_is_alive(bench: Bench) -> None:
    first = bench.open()
    link = bench.connect(first)
    with pytest.raises(SlotBusyError):
        bench.open(run=b"2" * 16)
    assert bench.port().heartbeat(first.session).epoch == first.epoch
    link.close()


def test_a_session_that_is_ending_is_not_asked_again_and_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.open()
    session = bench.slot.session
    assert session is not None
    session.ended.set()
    monkeypatch.setattr(session.ended, "wait", lambda _seconds: pytest.fail("it has ended already"))
    bench.slot.await_abandoned(HERE, b"2" * 16)


def test_a_heartbeat_that_meets_the_sessions_end_does_not_fail_the_pass(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = bench.open()
    find = PeerPort._find

    def found_and_ended(self: PeerPort, session: bytes) -> tuple[Slot, Session]:
        slot, found = find(self, session)
        slot.end(found)  # as its commit does, at that moment
        return slot, found

    monkeypatch.setattr(PeerPort, "_find", found_and_ended)
    # One heartbeat that is not answered is none; any other error ends the pass.
    with pytest.raises(NetworkError, match="has ended"):
        bench.port().heartbeat(answer.session)


def test_a_data_connection_that_comes_late_is_not_served(bench: Bench) -> None:
    answer = bench.open()
    handler = bench.receiver.authorise(
        Hello(session=answer.session, token=answer.token, ordinal=0), HERE.fingerprint
    )
    bench.port().end(answer.session)
    ours, theirs = memory_pair()
    bench.links.append(ours)
    handler(theirs, DataReceiver())
    assert is_closed(ours)


def test_a_session_is_not_committed_while_a_connection_is_open(bench: Bench) -> None:
    answer = bench.open()
    link = bench.connect(answer)
    session = bench.slot.session
    assert session is not None
    with pytest.raises(PeerError, match="connections"):
        bench.slot.commit(session, answer.root)
    link.close()
    assert bench.port().commit(answer.session, CommitRequest(root=answer.root)).generation == 1


def test_ending_a_session_closes_its_connections(bench: Bench) -> None:
    answer = bench.open()
    link = bench.connect(answer)
    ended = threading.Thread(target=bench.port().end, args=(answer.session,), daemon=True)
    ended.start()
    assert is_closed(link)
    ended.join(20)
    assert bench.slot.session is None


@pytest.mark.parametrize("index", [-1, 1, 1 << 40])
def test_there_are_no_segments_but_the_disks(bench: Bench, index: int) -> None:
    answer = bench.open()
    assert bench.port().segment(answer.session, 0)[0] == 0
    with pytest.raises(ProtocolError):
        bench.port().segment(answer.session, index)


@pytest.mark.parametrize("piece", [0, 512, 4096 + 512, 2048, 128 << 20])
def test_verify_is_in_pieces_within_bounds(bench: Bench, piece: int) -> None:
    with pytest.raises(ProtocolError):
        bench.port().verify(whole(piece))


@pytest.mark.parametrize("more", [512, 4096])
def test_a_target_that_is_too_small_is_refused(bench: Bench, more: int) -> None:
    with pytest.raises(TargetRefusedError):
        bench.open(size=SIZE + more)
    assert bench.slot.store is None


def test_another_disk_needs_consent_and_starts_anew(bench: Bench) -> None:
    answer = bench.open()
    assert bench.slot.store is not None
    bench.slot.store.claim_zero(0, 4)
    bench.slot.store.sync()
    bench.port().end(answer.session)
    with pytest.raises(PeerError, match="another disk"):
        bench.open(source_identity="other")
    other = bench.open(source_identity="other", replace=True)
    assert other.known_bytes == 0
    assert other.manifest_id != answer.manifest_id
    assert other.notice
