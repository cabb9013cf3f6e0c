"""What must hold, held against what a receiver's machine holds.

The oracle watches the real store and landing from outside (their methods are wrapped, not changed): which claims became
durable, which blocks landed, which epochs were handed out. What it checks stands in docs/RELIABILITY.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from blocksync.engine.landing import Landing
from blocksync.errors import BlocksyncError
from blocksync.geometry import DIGEST_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, scan
from blocksync.manifest.store import SlotStore
from tests.simulation.disks import Image, Machine, SimFolder
from tests.simulation.osmodule import Disk

FOLDER = "/R/slots/web/"
TARGET = "/R/target"


class ViolationError(AssertionError):
    """A promise was broken; ``trace`` says what happened before, where it was kept."""

    trace: list[str] = []  # noqa: RUF012 - replaced, never changed


class ToldError(Exception):
    """A disk lied, and the code found out and says so: the end of a run, and a good one."""


class Oracle:
    """Of one run.

    Args:
        tell: takes a line for the trace.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.durable: set[int] = set()
        """Blocks whose claims were made durable and not withdrawn since."""
        self.landed: set[int] = set()
        """Blocks that were taken from a sender since, and are not claimed yet."""
        self.foreign: set[int] = set()
        """Blocks that somebody else wrote to: their claims are wrong until a session opens."""
        self.epoch = 0
        self.most_lost_blocks = 0
        self.trusts_disk = True
        self.checks = 0

    # -- told by the watched code -----------------------------------------------------------------------------

    def synced(self, claims: set[int]) -> None:
        self.durable = claims
        self.landed -= claims

    def withdrawn(self, runs: list[tuple[int, int]]) -> None:
        for first, count in runs:
            self.durable.difference_update(range(first, first + count))

    def opened(self, epoch: int) -> None:
        if epoch <= self.epoch and self.trusts_disk:
            raise ViolationError(f"epoch {epoch} was handed out after epoch {self.epoch}")
        self.epoch = epoch
        again, most = len(self.landed - self.durable), self.most_lost_blocks
        if again > most:
            raise ViolationError(f"{again} blocks that were sent must be sent again, {most} are documented")
        self.landed = set()
        self.foreign = set()

    # -- checks -----------------------------------------------------------------------------------------------

    def check(self, disk: Disk, where: str, *, cached: bool) -> None:
        """Hold the state folder against the target, as the cache shows both or as they durably are.

        Raises:
            ViolationError: a false claim, a lost block, or state that cannot be read.
        """
        self.checks += 1
        names = disk.names if cached else disk.durable_names
        files = tuple(
            (name[len(FOLDER) :], bytes(inode.content if cached else inode.durable))
            for name, inode in sorted(names.items())
            if name.startswith(FOLDER)
        )
        target = names[TARGET].content if cached else names[TARGET].durable
        machine = Machine(Image(files, b""), 512)
        try:
            store = SlotStore.load_or_none(SimFolder(machine))
        except BlocksyncError as error:
            if not self.trusts_disk:
                raise ToldError(str(error)) from error
            raise ViolationError(f"{where}: the state cannot be read: {error}") from error
        if store is None:
            if self.durable and self.trusts_disk:
                raise ViolationError(f"{where}: the state is gone with {len(self.durable)} acknowledged blocks")
            return
        claimed = claimed_blocks(store)
        if self.trusts_disk:
            lost = self.durable - claimed
            if lost:
                raise ViolationError(f"{where}: acknowledged blocks {sorted(lost)} were lost")
            wrong = [
                block
                for block in sorted(claimed - self.foreign)
                if not true_claim(store, store.geometry, bytes(target), block)
            ]
            if wrong:
                raise ViolationError(f"{where}: blocks {wrong} are claimed and not on the target")
        self._tell(f"{where}: {len(claimed)} claims hold")
        store.close()


def claimed_blocks(store: SlotStore) -> set[int]:
    return {block for first, count in store.map.claimed_runs() for block in range(first, first + count)}


def true_claim(store: SlotStore, geometry: Geometry, target: bytes, block: int) -> bool:
    """Whether the target holds what a claim says."""
    at = block * geometry.block_bytes
    content = memoryview(target)[at : at + geometry.block_length(block)]
    digest, pages = digests_of(content, geometry, store.kind, store.key)
    _, said, said_pages = store.map.view(block, 1)
    return bytes(said) == digest and bytes(said_pages) == pages


def digests_of(content: memoryview, geometry: Geometry, kind: DigestKind, key: bytes) -> tuple[bytes, bytes]:
    digest = bytearray(DIGEST_BYTES)
    pages = bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block)
    scan(content, geometry.block_bytes, kind, key, digest, pages)
    return bytes(digest), bytes(pages)


_current: Oracle | None = None


def watch_with(oracle: Oracle | None) -> None:
    """Let this oracle watch from now on."""
    global _current  # noqa: PLW0603 - the watched classes have one watcher at a time
    _current = oracle


def _watching(
    owner: type, name: str, around: Callable[[Oracle, Any, Callable[[], Any], tuple[Any, ...]], Any]
) -> None:
    original = getattr(owner, name)

    @wraps(original)
    def watched(self: Any, *words: Any, **more: Any) -> Any:
        oracle = _current
        if oracle is None:
            return original(self, *words, **more)
        return around(oracle, self, lambda: original(self, *words, **more), words)

    setattr(owner, name, watched)


def _sync(oracle: Oracle, store: SlotStore, call: Callable[[], Any], _words: tuple[Any, ...]) -> None:
    claims = claimed_blocks(store)
    call()
    oracle.synced(claims)


def _intend(oracle: Oracle, _store: SlotStore, call: Callable[[], Any], words: tuple[Any, ...]) -> None:
    runs = list(words[0])
    oracle.withdrawn(runs)
    call()


def _commit(oracle: Oracle, store: SlotStore, call: Callable[[], int], _words: tuple[Any, ...]) -> int:
    claims = claimed_blocks(store)
    generation = call()
    oracle.synced(claims)
    return generation


def _reset(oracle: Oracle, _store: SlotStore, call: Callable[[], Any], _words: tuple[Any, ...]) -> None:
    oracle.durable = set()
    call()


def _begin(oracle: Oracle, _store: SlotStore, call: Callable[[], int], _words: tuple[Any, ...]) -> int:
    epoch = call()
    oracle.opened(epoch)
    return epoch


def _data(oracle: Oracle, landing: Landing, call: Callable[[], Any], words: tuple[Any, ...]) -> None:
    call()
    first, count = landing._geometry.blocks_of(words[0], len(words[1]))
    oracle.landed.update(range(first, first + count))


def _patch(oracle: Oracle, landing: Landing, call: Callable[[], Any], words: tuple[Any, ...]) -> None:
    call()
    first = words[0] // landing._geometry.block_bytes
    oracle.landed.update(first + patch.index for patch in words[1])


def watch() -> None:
    """Wrap what is watched; once a process, again does nothing."""
    if hasattr(SlotStore.sync, "__wrapped__"):
        return
    _watching(SlotStore, "sync", _sync)
    _watching(SlotStore, "intend", _intend)
    _watching(SlotStore, "withdraw", _intend)
    _watching(SlotStore, "commit", _commit)
    _watching(SlotStore, "reset", _reset)
    _watching(SlotStore, "begin_epoch", _begin)
    _watching(Landing, "data", _data)
    _watching(Landing, "patch", _patch)
