"""Somebody writes to the target between two sessions of one pass: its claims are looked at again first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blocksync.engine import landing
from blocksync.engine.cancel import Cancel
from blocksync.engine.foreign import ForeignWrites
from blocksync.engine.local import local_receiver, local_route
from blocksync.engine.sender import Sender
from blocksync.engine.slot import Slot
from blocksync.errors import SourceError, TargetSyncError
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.store import SlotStore
from blocksync.options import SendOptions
from blocksync.results import Progress, SendResult
from blocksync.sources.memory import MemorySource
from blocksync.targets.disk import FileTarget
from fuzz.memory import MemoryFolder
from tests.claims import files_of

SIZE = 1 << 20
BLOCK = 64 << 10
HALF = SIZE // 2
ENOUGH = 4


class Failing(MemorySource):
    """Cannot be read from its middle on, until it is mended; by then enough blocks that were sent are claimed."""

    mended = False

    def __init__(self, claims: Path) -> None:
        super().__init__(SIZE)
        self._claims = claims
        self.write(0, b"x" * SIZE)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset + len(buffer) > HALF and not self.mended:
            deadline = time.monotonic() + 20
            while claimed(self._claims) < ENOUGH and time.monotonic() < deadline:
                time.sleep(0.001)
            raise SourceError("a bad sector")
        super().read_into(offset, buffer)


def claimed(folder: Path) -> int:
    """Blocks that a slot's state claims."""
    store = SlotStore.load_or_none(MemoryFolder(files_of(folder)))
    if store is None:
        return 0
    known = store.map.counts().known_blocks
    store.close()
    return known


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read at once, and windows, of one block."""
    monkeypatch.setattr("blocksync.geometry.DEFAULT_CHUNK_BYTES", BLOCK)
    monkeypatch.setattr("blocksync.engine.plan.STEP_BYTES", BLOCK)
    monkeypatch.setattr(landing, "WINDOW_BYTES", BLOCK)


class Ends:
    """A sender and a receiver in this process, which is started anew for each pass, or stays.

    Args:
        folder: for everything.
        stays: whether the receiver does.
    """

    def __init__(self, folder: Path, *, stays: bool) -> None:
        self.path = folder / "target.img"
        self.path.write_bytes(bytes(SIZE))
        self.source = Failing(folder / "slot")
        self.said: list[str] = []
        self._folder, self._stays = folder, stays
        self._receiver = self._start()

    def _start(self) -> object:
        target = FileTarget(str(self.path), overwrite=True, fresh=False, state_dir=None)
        return local_receiver({"a": Slot("a", target, OsFolder(self._folder / "slot"))})

    def send(self) -> SendResult:
        if not self._stays:
            self.close()
            self._receiver = self._start()
        options = SendOptions(
            to="", slot="a", connections=1, level=0, retry_seconds=0, all_blocks=True, progress=self._hear
        )
        with local_route(self._receiver, self._folder / "copy") as route:  # type: ignore[arg-type]
            return Sender(self.source, route, options, Cancel()).run()

    def _hear(self, progress: Progress) -> None:
        self.said.append(progress.message)

    def write(self, offset: int, data: bytes) -> None:
        """As somebody else; a clock's tick later, whatever the filesystem's is."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
        later = self.path.stat().st_mtime_ns + 1_000_000
        os.utime(self.path, ns=(later, later))

    def close(self) -> None:
        self._receiver.close()  # type: ignore[attr-defined]


@pytest.fixture(params=[True, False], ids=["the receiver stays", "it is started again"])
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Ends]:
    small(monkeypatch)
    made = Ends(tmp_path, stays=request.param)
    with pytest.raises(SourceError):
        made.send()
    made.source.mended = True
    yield made
    made.close()


def test_what_somebody_wrote_is_not_taken_for_ours(ends: Ends) -> None:
    ends.write(8192, b"foreign")
    result = ends.send()
    assert any("somebody wrote" in said for said in ends.said)
    assert ends.path.read_bytes() == b"x" * SIZE
    assert 0 < result.changed < SIZE


def test_where_nobody_wrote_nothing_is_read_again(ends: Ends) -> None:
    result = ends.send()
    assert not any("somebody wrote" in said for said in ends.said)
    assert result.resumed
    assert ends.path.read_bytes() == b"x" * SIZE


def test_who_writes_while_it_is_read_again_is_found_at_the_next_session(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = SlotStore.withdraw

    def withdraw(self: SlotStore, runs: list[tuple[int, int]]) -> None:
        honest(self, runs)
        monkeypatch.setattr(SlotStore, "withdraw", honest)
        ends.write(0, b"again")

    monkeypatch.setattr(SlotStore, "withdraw", withdraw)
    ends.write(BLOCK, b"foreign")
    ends.send()
    assert ends.path.read_bytes() == b"x" * SIZE


def test_a_sync_that_fails_at_a_sessions_end_is_not_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    ends = Ends(tmp_path, stays=True)
    opened: list[int] = []

    def on_reopen(call: Callable[[FileTarget], None]) -> Callable[[FileTarget], None]:
        def reopen(self: FileTarget) -> None:
            opened.append(1)
            call(self)

        return reopen

    def note(call: Callable[[ForeignWrites, SlotStore], object]) -> Callable[[ForeignWrites, SlotStore], object]:
        def noting(self: ForeignWrites, store: SlotStore) -> object:
            with monkeypatch.context() as broken:
                broken.setattr(FileTarget, "sync", failing)
                return call(self, store)

        return noting

    def failing(_self: FileTarget) -> None:
        raise TargetSyncError("lost")

    monkeypatch.setattr(FileTarget, "reopen", on_reopen(FileTarget.reopen))
    monkeypatch.setattr(ForeignWrites, "note", note(ForeignWrites.note))
    with pytest.raises(SourceError):
        ends.send()
    assert opened, "the descriptor on which a sync had failed is used again"
    ends.source.mended = True
    ends.send()
    assert ends.path.read_bytes() == b"x" * SIZE
    ends.close()
