"""What a slot's state claims, held against what its target holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blocksync.engine.rehash import withdraw_changed
from blocksync.manifest.store import SlotStore
from blocksync.targets.memory import MemoryTarget
from fuzz.memory import MemoryFolder


def false_claims(files: Mapping[str, bytes | bytearray], content: bytes) -> int:
    """Blocks that are claimed and not there.

    Args:
        files: of the slot's folder, by name; they stay as they are.
        content: of the target.

    Raises:
        BlocksyncError: the state says that it is damaged.
    """
    store = SlotStore.load_or_none(MemoryFolder({name: bytes(raw) for name, raw in files.items()}))
    if store is None:
        return 0
    try:
        return withdraw_changed(filled(content), store)
    finally:
        store.close()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a slot's folder as they are now; none where there is no folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def filled(content: bytes) -> MemoryTarget:
    """A target that durably holds these bytes."""
    target = MemoryTarget(len(content))
    target.write(0, memoryview(content))
    target.sync()
    return target
