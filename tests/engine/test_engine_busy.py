"""Who keeps a slot, and for how long: a verify that ends in any way gives it back, a dead one is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.control.service import Peer
from blocksync.engine import slot as slot_module
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.errors import SlotBusyError, StateError
from blocksync.manifest import folder as folder_module
from blocksync.manifest.folder import OsFolder
from blocksync.protocol.messages import OpenRequest, VerifyRequest
from blocksync.targets.memory import MemoryTarget

SIZE = 1 << 20
OURS = Peer(fingerprint=bytes(32), name="ours")
OTHER = Peer(fingerprint=bytes([1]) * 32, name="other")
OPEN = OpenRequest(
    version=1, run=bytes(16), slot="a", source_identity="disk", source_name="disk", size=SIZE, sector_bytes=512,
    block_bytes=65536, digest=1, connections=1, replace=False,
)  # fmt: skip
VERIFY = VerifyRequest(version=1, slot="a", size=SIZE, offset=0, length=SIZE, piece_bytes=1 << 16, key=bytes(32))


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(slot_module, "ABANDONED_SECONDS", 0.02)
    slot = Slot("a", MemoryTarget(SIZE), OsFolder(tmp_path / "slot"))
    made = Receiver({"a": slot}, lambda _peer, _slot: True, lambda _progress: None)
    yield made
    made.close()


def test_a_verify_that_was_answered_and_never_read_gives_the_slot_back(receiver: Receiver) -> None:
    _, parts = PeerPort(receiver, OURS).verify(VERIFY)
    with pytest.raises(SlotBusyError, match="being verified"):
        PeerPort(receiver, OTHER).open(OPEN)
    parts.close()  # type: ignore[attr-defined]
    PeerPort(receiver, OTHER).open(OPEN)


def test_a_verify_that_was_read_to_its_end_gives_the_slot_back(receiver: Receiver) -> None:
    _, parts = PeerPort(receiver, OURS).verify(VERIFY)
    assert len(b"".join(parts)) == 32 * (SIZE >> 16)
    PeerPort(receiver, OTHER).open(OPEN)


def test_the_same_machine_waits_for_its_verify_that_was_just_killed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_module, "ABANDONED_SECONDS", 30.0)
    _, parts = PeerPort(receiver, OURS).verify(VERIFY)
    opened = threading.Event()

    def run() -> None:
        PeerPort(receiver, OURS).open(OPEN)
        opened.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert not opened.wait(0.05)
    parts.close()  # type: ignore[attr-defined]
    thread.join(30)
    assert opened.is_set()


def test_verify_takes_over_from_a_sender_of_the_same_machine_that_was_killed(receiver: Receiver) -> None:
    PeerPort(receiver, OURS).open(OPEN)
    with pytest.raises(SlotBusyError, match="written to by ours"):
        PeerPort(receiver, OTHER).verify(VERIFY)
    _, parts = PeerPort(receiver, OURS).verify(VERIFY)
    assert next(parts)


def test_a_lock_that_fails_is_an_error_of_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_descriptor: int) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folder_module, "hold_file", broken)
    with pytest.raises(StateError, match="cannot hold"):
        OsFolder(tmp_path / "slot")
