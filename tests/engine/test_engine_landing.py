"""Windows: what they hold, when they close, who waits for whom, and that nothing is forgiven."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.engine import landing as landing_module
from blocksync.engine.landing import Landing
from blocksync.errors import BlocksyncError, IncompleteError, ProtocolError, StateError, TargetSyncError
from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.store import SlotStore
from blocksync.protocol.wire import BlockPatch
from blocksync.targets.memory import MemoryTarget

BLOCK = 16 << 10
BLOCKS = 8
KEY = bytes(range(32))
GEOMETRY = Geometry(BLOCK * BLOCKS, BLOCK)


class Watched(MemoryTarget):
    """Stops at writes and syncs where a test wants it to."""

    def __init__(self) -> None:
        super().__init__(GEOMETRY.size)
        self.writes: list[int] = []
        self.at_write: threading.Event | None = None
        self.at_sync: threading.Event | None = None
        self.waiting = threading.Event()
        self.failing = False

    def write(self, offset: int, data: memoryview) -> None:
        if self.at_write is not None:
            self.waiting.set()
            assert self.at_write.wait(20)
        self.writes.append(offset)
        super().write(offset, data)

    def sync(self) -> None:
        if self.at_sync is not None:
            self.waiting.set()
            assert self.at_sync.wait(20)
        if self.failing:
            raise TargetSyncError("simulated: a sync failed")
        super().sync()


class Bench:
    def __init__(self, folder: OsFolder) -> None:
        self.target = Watched()
        self.store = SlotStore.create(folder, GEOMETRY, DigestKind.XXH3, source_identity="disk", key=KEY)
        self.landing = Landing(self.target, self.store)
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def data(self, block: int, fill: int, count: int = 1) -> None:
        plain = bytes([fill]) * (BLOCK * count)
        self.landing.data(block * BLOCK, memoryview(plain), folded(plain))

    def beside(self, call: object, *words: object) -> threading.Thread:
        def run() -> None:
            try:
                call(*words)  # type: ignore[operator]
            except BlocksyncError as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread


def folded(plain: bytes) -> bytes:
    digests = bytearray(DIGEST_BYTES * (len(plain) // BLOCK))
    pages = bytearray(PAGE_DIGEST_BYTES * (len(plain) // PAGE_BYTES))
    scan(plain, BLOCK, DigestKind.XXH3, KEY, digests, pages)
    return fold(DigestKind.XXH3, KEY, digests)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with OsFolder(tmp_path / "slot") as folder:
        made = Bench(folder)
        yield made
        made.landing.fail(IncompleteError("the test is over"))
        for thread in made.threads:
            thread.join(20)
        made.store.close()


def test_bytes_are_durable_when_their_claims_are(bench: Bench) -> None:
    bench.data(0, 1)
    assert bench.landing.durable_bytes == 0
    bench.landing.checkpoint()
    assert bench.landing.durable_bytes == BLOCK


def test_bytes_whose_claims_could_not_be_synced_are_not_acknowledged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise StateError("simulated: a sync failed")

    monkeypatch.setattr(bench.store, "sync", failing)
    bench.data(0, 1)
    with pytest.raises(StateError, match="simulated"):
        bench.landing.checkpoint()
    assert bench.landing.durable_bytes == 0


def test_a_window_settles_when_its_last_writer_is_done(bench: Bench) -> None:
    bench.target.at_write = threading.Event()
    writing = bench.beside(bench.data, 0, 1)
    assert bench.target.waiting.wait(20)
    settling = bench.beside(bench.landing.checkpoint)
    settling.join(0.2)
    assert settling.is_alive(), "the target is synced before the window's last write"
    bench.target.at_write.set()
    writing.join(20)
    settling.join(20)
    assert bench.errors == []
    assert bench.landing.durable_bytes == BLOCK
    assert bytes(bench.store.map.view(0, 1)[0]) == b"\1"


def test_a_window_is_full_by_its_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_module, "WINDOW_BYTES", 2 * BLOCK)
    bench.data(0, 1)
    assert not bench.landing.due.is_set()
    bench.data(1, 1)
    assert bench.landing.due.is_set()


def test_overwrites_in_memory_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing_module, "HELD_BYTES", BLOCK)
    bench.data(0, 1)
    bench.landing.checkpoint()
    bench.landing.due.clear()
    bench.data(0, 2)
    assert bench.target.writes == [0], "a claimed block is held back"
    assert bench.landing.due.is_set()


def test_a_block_of_a_settling_window_waits(bench: Bench) -> None:
    bench.data(0, 1)
    bench.target.at_sync = threading.Event()
    settling = bench.beside(bench.landing.checkpoint)
    assert bench.target.waiting.wait(20)
    bench.data(1, 1)
    again = bench.beside(bench.data, 0, 2)
    again.join(0.2)
    assert again.is_alive(), "its claim would be written for content that is being replaced"
    bench.target.at_sync.set()
    bench.target.at_sync = None
    settling.join(20)
    # Now it is in the way of block 1's window only, and lands.
    again.join(20)
    assert not again.is_alive()
    bench.landing.checkpoint()
    assert bench.errors == []
    assert bytes(bench.store.map.view(0, 1)[0]) == b"\1"


def test_two_connections_with_one_block_take_turns(bench: Bench) -> None:
    bench.target.at_write = threading.Event()
    one = bench.beside(bench.data, 0, 1)
    assert bench.target.waiting.wait(20)
    bench.target.waiting.clear()
    other = bench.beside(bench.data, 0, 2)
    assert not bench.target.waiting.wait(0.2), "both write the same block"
    bench.target.at_write.set()
    one.join(20)
    bench.beside(bench.landing.checkpoint).join(20)
    other.join(20)
    assert bench.errors == []
    assert bench.target.writes == [0], "the second one is held back: the block is claimed by now"


def test_when_a_session_has_ended_none_of_its_frames_writes(bench: Bench) -> None:
    bench.target.at_write = threading.Event()
    bench.beside(bench.data, 0, 1)
    assert bench.target.waiting.wait(20)
    drained = bench.beside(bench.landing.drain)
    drained.join(0.2)
    assert drained.is_alive(), "a frame is still writing"
    bench.target.at_write.set()
    drained.join(20)
    assert not drained.is_alive()
    with pytest.raises(IncompleteError):
        bench.data(1, 1)
    assert bench.target.writes == [0]


def test_a_failed_sync_fails_the_session_for_good(bench: Bench) -> None:
    bench.data(0, 1)
    bench.target.failing = True
    with pytest.raises(TargetSyncError):
        bench.landing.checkpoint()
    bench.target.failing = False
    for call in (bench.landing.checkpoint, lambda: bench.data(1, 1)):
        with pytest.raises(TargetSyncError):
            call()
    assert bench.landing.durable_bytes == 0
    assert bytes(bench.store.map.view(0, 1)[0]) == b"\0"
    assert bench.target.writes == [0]


@pytest.mark.parametrize(
    ("block", "runs", "pages", "told"),
    [
        (BLOCKS - 1, ((0, ((0, 1),)), (1, ((0, 1),))), 2, "leaves the slot"),
        (0, ((0, ((0, 1),)),), 2, "more pages"),
        (0, ((0, ((0, 2),)),), 1, "fewer pages"),
    ],
    ids=["leaves the slot", "more than its table", "less than its table"],
)
def test_patches_that_do_not_fit_write_nothing(
    bench: Bench, block: int, runs: tuple[tuple[int, tuple[tuple[int, int], ...]], ...], pages: int, told: str
) -> None:
    bench.data(0, 1, BLOCKS)
    bench.landing.checkpoint()
    patches = [BlockPatch(index, table) for index, table in runs]
    body = memoryview(b"\7" * (pages * PAGE_BYTES))
    with pytest.raises(ProtocolError, match=told):
        bench.landing.patch(block * BLOCK, patches, body, bytes(DIGEST_BYTES))
    assert bench.target.writes == [0]
