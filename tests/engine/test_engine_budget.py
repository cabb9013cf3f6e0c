"""What many senders may take of one receiver's memory, all together, and that none waits for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocksync.engine.budget import Budget
from blocksync.engine.landing import Landing
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.errors import ReceiverFullError
from blocksync.geometry import DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.store import SlotStore
from blocksync.targets.memory import MemoryTarget

MIB = 1 << 20
SMALL = Geometry(64 * MIB)
LARGE = Geometry(64 * MIB, 16 * MIB)


def test_who_comes_first_takes_nothing_from_who_comes_later() -> None:
    budget = Budget(buffer_bytes=512 * MIB, slots=32)
    granted = [budget.admit(SMALL, 16).limits.connections for _ in range(32)]
    assert set(granted) == {3}
    assert budget.connection_bytes <= 512 * MIB * 5 // 8


def test_a_receiver_of_one_slot_gives_what_a_session_may_have() -> None:
    assert Budget().admit(SMALL, 16).limits.connections == 16


def test_one_sender_more_than_may_be_is_refused_until_one_has_gone() -> None:
    budget = Budget(slots=2, senders=2)
    first = budget.admit(SMALL, 4)
    budget.admit(SMALL, 4)
    with pytest.raises(ReceiverFullError, match="serves 2 senders"):
        budget.admit(SMALL, 4)
    first.close()
    first.close()
    budget.admit(SMALL, 4)


def test_blocks_whose_buffers_do_not_fit_are_refused_and_leave_room_for_the_others() -> None:
    budget = Budget(buffer_bytes=256 * MIB, slots=32)
    assert budget.admit(LARGE, 4).limits.connections == 1
    with pytest.raises(ReceiverFullError, match="blocks of 16777216 bytes"):
        budget.admit(LARGE, 4)
    assert len([budget.admit(SMALL, 4) for _ in range(31)]) == 31


def test_held_overwrites_stay_within_the_budget_and_an_equal_share() -> None:
    budget = Budget(buffer_bytes=64 * MIB, slots=4)  # 24 MiB for what is held
    shares = [budget.admit(SMALL, 1) for _ in range(4)]
    for share in shares:
        for _ in range(64):
            share.take(MIB)
    assert [share.held for share in shares] == [6 * MIB] * 4
    assert budget.held_bytes == budget.most_held_bytes == 24 * MIB
    shares[0].close()
    assert budget.held_bytes == 18 * MIB
    assert not shares[1].take(3 * MIB)


def test_who_holds_nothing_may_always_hold_one_frame() -> None:
    budget = Budget(buffer_bytes=64 * MIB, slots=2)
    first = budget.admit(SMALL, 1)
    for _ in range(64):
        first.take(MIB)
    late = budget.admit(SMALL, 1)
    assert late.take(30 * MIB)
    assert not late.take(1)
    late.give(30 * MIB)
    assert late.take(1)


def test_a_landing_settles_what_it_holds_before_it_holds_more(tmp_path: Path) -> None:
    block = 64 << 10
    geometry = Geometry(64 * block)
    budget = Budget()
    budget._for_held = 3 * block
    with OsFolder(tmp_path / "slot") as folder:
        store = SlotStore.create(folder, geometry, DigestKind.XXH3, source_identity="disk")
        landing = Landing(MemoryTarget(geometry.size), store, budget.admit(geometry, 1))

        def put(at: int, fill: int) -> None:
            plain = bytes([fill]) * block
            digests = bytearray(DIGEST_BYTES)
            pages = bytearray(4 * geometry.pages_per_block)
            scan(plain, block, store.kind, store.key, digests, pages)
            landing.data(at * block, memoryview(plain), fold(store.kind, store.key, bytes(digests)))

        for at in range(4):
            put(at, 1)
        assert budget.held_bytes == 0  # nothing was claimed there: written at once
        landing.checkpoint()
        for at in range(4):
            put(at, 2)
            assert budget.held_bytes <= 3 * block
            if landing.due.is_set():
                landing.checkpoint()
                assert budget.held_bytes == 0
        assert 0 < budget.most_held_bytes <= 3 * block
        landing.drain()
        assert budget.held_bytes == budget.connection_bytes == 0
        store.close()


def test_a_session_that_ends_gives_its_share_back(tmp_path: Path) -> None:
    from tests.engine.test_engine_busy import OPEN, OURS, SIZE

    budget = Budget(senders=1)
    slot = Slot("a", MemoryTarget(SIZE), OsFolder(tmp_path / "slot"), budget)
    receiver = Receiver({"a": slot}, lambda _peer, _slot: True, lambda _progress: None)
    for _ in range(3):
        session, _ = slot.open(OURS, OPEN)
        assert budget.connection_bytes > 0
        slot.end(session)
        assert budget.connection_bytes == 0
    receiver.close()
