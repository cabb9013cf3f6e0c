"""Rehearsals between a real sender and a real receiver: what they measure, and what they must not touch."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from blocksync import api
from blocksync.control.service import Peer
from blocksync.engine.cancel import Cancel
from blocksync.engine.rehearsal import MAX_REHEARSAL_BYTES, MAX_REHEARSAL_SECONDS
from blocksync.engine.sending import Transfer
from blocksync.errors import InterruptedTransferError, PeerError, ProtocolError, SlotBusyError
from blocksync.estimate.proof import Proof
from blocksync.estimate.rehearsal import Rehearsal, _Load, rehearse
from blocksync.estimate.sampling import Picture
from blocksync.estimate.trial import TrialDisk, noise
from blocksync.options import SendOptions
from blocksync.platforms.likeness import marks_of_machine
from blocksync.protocol.messages import CONTROL_VERSION, CommitRequest, OpenRequest, VerifyRequest
from blocksync.sources.memory import MemorySource
from tests.serving import MIB, Receiver, receiver

GIB = 1 << 30


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


def rehearsed(
    served: Receiver,
    seconds: float = 0.4,
    connections: int = 2,
    cancel: Cancel | None = None,
    *,
    verify: bool = False,
) -> Rehearsal:
    reach = served.reach(code=served.listening.code)
    try:
        with reach.rehearsal_route() as route:
            options = SendOptions(to=served.to, slot="a", connections=connections, level=0)
            with contextlib.closing(TrialDisk(noise(random.Random(1)), 64 * MIB, seconds)) as disk:
                return rehearse(route, disk, options, cancel or Cancel(), verify=verify)
    finally:
        reach.close()


def state_of(served: Receiver) -> dict[str, str]:
    """Everything below the receiver's folders, by content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(served.folder.rglob("*"))
        if path.is_file() and "sender" not in path.parts and not path.name.startswith(("grants.json", "hold"))
    }


def request(**changes: object) -> OpenRequest:
    wanted = OpenRequest(
        version=CONTROL_VERSION,
        run=bytes(16),
        slot="a",
        source_identity="x",
        source_name="x",
        size=4 * MIB,
        sector_bytes=512,
        block_bytes=64 << 10,
        digest=1,
        connections=1,
        replace=False,
        rehearsal=True,
    )
    return replace(wanted, **changes)  # type: ignore[arg-type]


def test_a_rehearsal_measures_a_pass_and_leaves_no_trace(served: Receiver) -> None:
    before = state_of(served)
    found = rehearsed(served)
    assert found.slot == "a"
    assert found.target == "file"
    assert found.connections == 2
    assert found.moments[-1].wire > 0
    assert found.link_rate > 0
    assert state_of(served) == before
    assert not (served.state / "rehearsal" / "receiver").exists()
    assert not list(served.folder.glob(".blocksync-scratch*"))


def test_a_rehearsal_is_no_news_of_its_slot(served: Receiver) -> None:
    rehearsed(served)
    slot = served.serving._receiver.slots["a"]
    assert slot.store is None
    assert slot.session is None
    assert served.serving._committed == []


def test_the_slot_can_be_sent_to_after_a_rehearsal(served: Receiver, tmp_path: Path) -> None:
    rehearsed(served)
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(2).randbytes(4 * MIB))
    result = api.send(str(disk), SendOptions(to=served.to, slot="a", state_dir=tmp_path / "sender"))
    assert (result.kind, result.generation, result.changed) == ("full", 1, 4 * MIB)
    assert (served.folder / "a.img").read_bytes() == disk.read_bytes()


def test_a_stranger_to_the_slot_cannot_rehearse(served: Receiver) -> None:
    served.reach(code=served.listening.code).close()
    reach = served.reach()
    try:
        with pytest.raises(PeerError):
            reach.control.open(request(slot=""))  # two are granted: it must be named
        with pytest.raises(Exception, match="no grant"):
            reach.control.open(request(slot="c"))
    finally:
        reach.close()


@pytest.mark.parametrize("size", [0, MAX_REHEARSAL_BYTES + 512])
def test_a_rehearsal_is_bounded_in_size(served: Receiver, size: int) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        with pytest.raises(ProtocolError, match="out of bounds"):
            reach.control.open(request(size=size))
    finally:
        reach.close()


def test_a_slot_in_use_is_not_rehearsed_on(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        answer = reach.control.open(request(rehearsal=False))
        assert answer.rehearsal == ""
        with pytest.raises(SlotBusyError, match="in use"):
            reach.control.open(request())
        assert reach.control.heartbeat(answer.session).epoch == answer.epoch
    finally:
        reach.close()


def test_a_second_rehearsal_of_the_same_sender_ends_the_first(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        first = reach.control.open(request())
        second = reach.control.open(request(run=bytes(15) + b"x"))
        assert reach.control.heartbeat(second.session).epoch == second.epoch
        with pytest.raises(Exception, match="ended"):
            reach.control.heartbeat(first.session)
    finally:
        reach.close()


def test_a_rehearsal_ends_when_its_time_is_up(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        answer = reach.control.open(request())
        timer = served.serving._receiver.rehearsals._timer
        assert timer is not None
        assert timer.interval == MAX_REHEARSAL_SECONDS
        timer.function(*timer.args)
        with pytest.raises(Exception, match="ended"):
            reach.control.heartbeat(answer.session)
        assert not (served.state / "rehearsal" / "receiver").exists()
    finally:
        reach.close()


def test_a_rehearsal_is_cancelled(served: Receiver) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(InterruptedTransferError):
        rehearsed(served, cancel=cancel)


def test_without_room_beside_the_target_nothing_is_written(
    served: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocksync.targets.disk.SCRATCH_SHARE", 1 << 40)
    assert rehearsed(served).target == "nowhere"


def proof_request(**changes: object) -> VerifyRequest:
    wanted = VerifyRequest(
        version=CONTROL_VERSION, slot="a", size=4 * MIB, offset=0, length=4 * MIB, piece_bytes=MIB, key=bytes(32),
        rehearsal=True,
    )  # fmt: skip
    return replace(wanted, **changes)  # type: ignore[arg-type]


def digest(content: bytes) -> bytes:
    return blake3(content, key=bytes(32)).digest()


@pytest.mark.parametrize("room", [True, False])
def test_a_verify_is_tried_on_what_was_sent_and_leaves_no_trace(
    served: Receiver, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    if not room:
        monkeypatch.setattr("blocksync.targets.disk.SCRATCH_SHARE", 1 << 40)
    monkeypatch.setattr("blocksync.estimate.proof.MOST_BYTES", 4 * MIB)  # the slot is no larger
    before = state_of(served)
    found = rehearsed(served, verify=True).proof
    assert found is not None
    assert found.each >= found.here > 0
    assert found.asking > 0
    assert state_of(served) == before
    assert not list(served.folder.glob(".blocksync-scratch*"))


def test_without_the_wish_no_verify_is_tried(served: Receiver) -> None:
    assert rehearsed(served).proof is None


def test_a_receiver_whose_target_is_smaller_than_what_was_sent_nowhere_gives_no_proof(
    served: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blocksync.targets.disk.SCRATCH_SHARE", 1 << 40)
    assert rehearsed(served, verify=True).proof is None


def test_what_was_rehearsed_is_read_until_the_session_is_ended(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        with pytest.raises(PeerError, match="no rehearsal"):
            reach.control.verify(proof_request())
        answer = reach.control.open(request(marks=marks_of_machine()))
        assert answer.together
        scratch = served.serving._receiver.rehearsals._slot
        assert scratch is not None
        scratch.target.write(0, memoryview(b"scratch".ljust(4 * MIB)))
        reach.control.commit(answer.session, CommitRequest(root=answer.root))
        _, parts = reach.control.verify(proof_request())
        assert b"".join(parts)[:32] == digest(b"scratch".ljust(MIB))
        reach.control.end(answer.session)
        with pytest.raises(PeerError, match="no rehearsal"):
            reach.control.verify(proof_request())
    finally:
        reach.close()


def test_nobody_else_reads_or_ends_a_rehearsal(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        answer = reach.control.open(request())
        assert not answer.together
        reach.control.commit(answer.session, CommitRequest(root=answer.root))
        rehearsals = served.serving._receiver.rehearsals
        other = Peer(fingerprint=bytes(32), name="other")
        with pytest.raises(PeerError, match="no rehearsal"):
            rehearsals.written(other, served.serving._receiver.slots["a"])
        rehearsals.leave(other, answer.session)
        assert rehearsals.slots()
    finally:
        reach.close()


def test_a_verify_takes_what_the_slower_end_takes_and_each_request_for_ranges_with_unused_pages() -> None:
    proof = Proof(asking=0.5, each=2.0 / GIB, here=1.0 / GIB, least=1.5 / GIB, most=4.0 / GIB)
    whole = Picture(size=4 * GIB, data=GIB, holes=3 * GIB, unused=0, stored=GIB, compared=2 * GIB)
    assert proof.span(whole, read_rate=1e12) == pytest.approx((0.5 + 4.0, 0.5 + 3.0, 0.5 + 8.0), rel=0.01)
    assert proof.span(whole, read_rate=GIB / 4) == pytest.approx((0.5 + 2 * 5.0,) * 3, rel=0.01)
    parted = Picture(size=4 * GIB, data=2 * GIB, holes=0, unused=2 * GIB, stored=GIB, compared=2 * GIB)
    assert proof.span(parted, read_rate=1e12)[0] == pytest.approx(16 * 0.5 + 4.0, rel=0.01)


def test_the_receivers_part_is_no_other_work_where_both_are_on_one_machine(served: Receiver) -> None:
    reach = served.reach(code=served.listening.code)
    try:
        with reach.rehearsal_route() as route:
            transfer = Transfer(MemorySource(MIB), route, SendOptions(to=served.to), Cancel())
    finally:
        reach.close()
    load = _Load([], transfer)
    load._first, load._last = (0.0, 0.0, 0.0), (6.0, 8.0, 2.0)
    load._began, load._ended = 0.0, 4.0
    assert load.foreign == 0.5
    transfer.hear(1.0, 10.0)
    assert load.foreign == 0.5
    transfer.hear(2.0, 10.3)
    transfer.hear(3.0, 11.6)
    assert load.foreign == pytest.approx((6.0 - 2.0 - 0.8 * 4) / 8)
    assert _Load([], None).foreign == 0.0
