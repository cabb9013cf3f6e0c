"""A receiver's answers are held against what they should add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blocksync.engine.cancel import Cancel
from blocksync.engine.local import copy_disk
from blocksync.engine.port import PeerPort
from blocksync.engine.sync import sync_map
from blocksync.errors import IntegrityError, ProtocolError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.working import BlockMap
from blocksync.options import CopyOptions
from blocksync.protocol.messages import CommitAnswer, CommitRequest, ControlPort
from blocksync.sources.memory import MemorySource

KEY = bytes(range(32))
GEOMETRY = Geometry(8 * 4096, 4096)


class Lying(ControlPort):
    """Gives one map's segments under another one's digests.

    Args:
        told, given: maps.
    """

    def __init__(self, told: BlockMap, given: BlockMap) -> None:
        self._told, self._given = told, given

    def segment_digests(self, session: bytes) -> bytes:
        return self._told.segment_digests()

    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        return self._given.export_segment(index)

    open = heartbeat = commit = end = verify = None  # type: ignore[assignment]


def claimed(seed: int) -> BlockMap:
    blocks = BlockMap(GEOMETRY, DigestKind.XXH3, KEY)
    blocks.claim(0, bytes([seed]) * 32, b"")
    return blocks


def test_a_map_is_brought_up_to_date() -> None:
    theirs, ours = claimed(1), claimed(2)
    assert sync_map(Lying(theirs, theirs), b"", ours, theirs.root()) == 1
    assert ours.root() == theirs.root()


def test_segments_that_do_not_add_up_to_the_root_are_refused() -> None:
    with pytest.raises(ProtocolError, match="add up"):
        sync_map(Lying(claimed(1), claimed(3)), b"", claimed(2), claimed(1).root())


def test_digests_for_another_number_of_segments_are_refused() -> None:
    larger = BlockMap(Geometry(300 << 20, 4096), DigestKind.XXH3, KEY)
    with pytest.raises(ProtocolError, match="segment digests"):
        sync_map(Lying(larger, larger), b"", claimed(2), larger.root())


def test_a_local_target_that_somebody_wrote_to_is_read_again_in_the_same_run(tmp_path: Path) -> None:
    source, target = MemorySource(1 << 20), tmp_path / "target"
    source.write(0, b"x" * (1 << 20))
    copy_disk(source, str(target), tmp_path / "state", CopyOptions(create=True), Cancel())
    with target.open("r+b") as file:
        file.write(b"foreign")
    result = copy_disk(source, str(target), tmp_path / "state", CopyOptions(), Cancel())
    assert result.kind == "incremental"
    assert result.changed == 64 << 10  # the claim of one block was withdrawn
    assert target.read_bytes() == b"x" * (1 << 20)


def test_a_receiver_that_commits_another_root_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = PeerPort.commit

    def commit(self: PeerPort, session: bytes, request: CommitRequest) -> CommitAnswer:
        return replace(honest(self, session, request), root=bytes(16))

    monkeypatch.setattr(PeerPort, "commit", commit)
    source = MemorySource(1 << 20)
    source.write(0, b"x" * 4096)
    with pytest.raises(IntegrityError, match="another digest tree"):
        copy_disk(source, str(tmp_path / "target"), tmp_path / "state", CopyOptions(create=True), Cancel())
