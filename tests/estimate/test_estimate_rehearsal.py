"""Rehearsals between a real sender and a real receiver: what they measure, and what they must not touch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blocksync import api
from blocksync.engine.cancel import Cancel
from blocksync.engine.rehearsal import MAX_REHEARSAL_BYTES, MAX_REHEARSAL_SECONDS
from blocksync.errors import InterruptedTransferError, PeerError, ProtocolError, SlotBusyError
from blocksync.estimate.rehearsal import Rehearsal, rehearse
from blocksync.estimate.trial import TrialDisk, noise
from blocksync.options import SendOptions
from blocksync.protocol.messages import CONTROL_VERSION, OpenRequest
from tests.serving import MIB, Receiver, receiver


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


def rehearsed(
    served: Receiver, seconds: float = 0.4, connections: int = 2, cancel: Cancel | None = None
) -> Rehearsal:
    reach = served.reach(code=served.listening.code)
    try:
        with reach.rehearsal_route() as route:
            disk = TrialDisk(noise(random.Random(1)), 64 * MIB, seconds)
            options = SendOptions(to=served.to, slot="a", connections=connections, level=0)
            return rehearse(route, disk, options, cancel or Cancel())
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
