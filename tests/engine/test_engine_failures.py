"""A receiver whose disks fail for a while goes on by itself when they work again, without being started anew.

Each of these was found by a seed of ``tests.simulation`` before it was mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.control.service import Peer
from blocksync.engine.port import PeerPort
from blocksync.engine.receiver import Receiver
from blocksync.engine.slot import Slot
from blocksync.errors import StateError, TargetError, TargetSyncError
from blocksync.manifest.folder import OsFile, OsFolder
from blocksync.manifest.store import SlotStore
from blocksync.protocol.messages import CONTROL_VERSION, CommitRequest, OpenRequest, VerifyRequest
from blocksync.targets.disk import FileTarget

PEER = Peer(fingerprint=b"p" * 32, name="sender")
SIZE = 4 * (64 << 10)


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    (tmp_path / "target").write_bytes(bytes(SIZE))
    target = FileTarget(str(tmp_path / "target"), overwrite=True, fresh=False, state_dir=None)
    made = Slot("web", target, OsFolder(tmp_path / "slot"))
    yield made
    made.close()


def port(slot: Slot) -> PeerPort:
    return PeerPort(Receiver({"web": slot}, lambda _peer, _slot: True, lambda _progress: None), PEER)


def request(run: bytes = b"r" * 16) -> OpenRequest:
    return OpenRequest(
        version=CONTROL_VERSION,
        run=run,
        slot="web",
        source_identity="disk",
        source_name="disk",
        size=SIZE,
        sector_bytes=512,
        block_bytes=64 << 10,
        digest=1,
        connections=1,
        replace=False,
    )


def failing(*_: object, **__: object) -> None:
    raise StateError("simulated: the disk is full")


def test_a_commit_that_failed_can_be_made_later(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = port(slot).open(request())
    with monkeypatch.context() as patched:
        patched.setattr(OsFile, "sync", failing)
        with pytest.raises(StateError):
            port(slot).commit(answer.session, CommitRequest(root=answer.root))
    again = port(slot).open(request())
    assert again.epoch > answer.epoch
    assert port(slot).commit(again.session, CommitRequest(root=again.root)).generation == 1


def test_a_slot_that_was_begun_by_half_is_not_begun_again(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        # The manifest and its journal are there already when reading them back fails.
        patched.setattr(SlotStore, "open", failing)
        with pytest.raises(StateError):
            port(slot).open(request())
    begun = SlotStore.open(slot._folder)
    identity = begun.manifest_id
    begun.close()
    assert port(slot).open(request()).manifest_id == identity


def test_a_target_that_could_not_be_opened_again_is_opened_later(
    slot: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = port(slot).open(request())
    assert slot.session is not None
    slot.session.landing.fail(TargetSyncError("simulated: a sync failed"))

    def refused(self: FileTarget) -> None:
        raise TargetError("simulated: it cannot be opened")

    with monkeypatch.context() as patched:
        patched.setattr(FileTarget, "_open", refused)
        with pytest.raises(TargetError):
            port(slot).end(answer.session)
    wanted = VerifyRequest(
        version=CONTROL_VERSION, slot="web", size=SIZE, offset=0, length=SIZE, piece_bytes=4096, key=bytes(32)
    )
    _, digests = port(slot).verify(wanted)
    assert len(b"".join(digests)) == SIZE // 4096 * 32
    assert port(slot).open(request(b"s" * 16)).epoch == answer.epoch + 1
