"""Looking at slots' durable state without a receiver, and making it anew from the target."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blocksync.engine.cancel import Cancel
from blocksync.engine.rehash import claim_content
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import slot_folder
from blocksync.errors import InterruptedTransferError, StateError, TargetError
from blocksync.geometry import Geometry
from blocksync.kernels import DigestKind
from blocksync.manifest.base import surviving_header
from blocksync.manifest.folder import OsFolder
from blocksync.manifest.format import Header
from blocksync.manifest.store import MANIFEST_FILE, SlotStore
from blocksync.results import Progress
from blocksync.targets import open_target

_AGAIN = "run the same command again: it reads the target from its beginning"
_ONLY_READ = "the target was only read, and the slot claims nothing that it does not hold"


def list_slots(state: Path) -> list[dict[str, Any]]:
    """The facts of each slot, by name."""
    slots = state / "slots"
    names = sorted(os.listdir(slots)) if slots.is_dir() else []
    facts = []
    for name in names:
        with OsFolder(slots / name) as folder:
            store = SlotStore.load_or_none(folder)
            if store is not None:
                facts.append(_facts(name, store, slots / name))
                store.close()
    return facts


def rebuild_slot(
    state: Path, slot: str, target_path: str, progress: Callable[[Progress], None] | None, cancel: Cancel
) -> dict[str, Any]:
    """Read the target and claim what it holds; the next pass then sends only what differs from the source.

    Raises:
        InterruptedTransferError: cancelled; what was read so far may be claimed, and is true.
        BlocksyncError: the target or the state cannot be used.
    """
    path = slot_folder(state, slot)
    if not path.is_dir():
        raise StateError(f"there is no slot {slot} in {state}", remedy="blocksync manifest lists the slots")
    with OsFolder(path) as folder:
        old = _what_it_was_for(folder)
        with open_target(
            target_path, overwrite=Slot.holds_state(folder), state_dir=state, watching=cancel.watching
        ) as target:
            if old is not None and old.geometry.size > target.size:
                raise TargetError(
                    f"slot {slot} is of {old.geometry.size} bytes, {target_path} has {target.size}",
                    remedy="name the slot's own target, and see whether somebody made it smaller",
                    safe="nothing was changed",
                )
            geometry = old.geometry if old is not None else Geometry(target.size, sector_bytes=target.sector_bytes)
            kind = old.kind if old is not None else DigestKind.XXH3
            identity = old.source_identity if old is not None else ""
            for name in folder.list():
                folder.remove(name)
            store = SlotStore.create(folder, geometry, kind, source_identity=identity)
            store.begin_epoch("rebuild", identity)

            def tell(done: int) -> None:
                if progress is not None:
                    progress(Progress(stage="rebuilding", slot=slot, size=geometry.size, done=done, read=done))
                if cancel.is_set():
                    raise InterruptedTransferError("interrupted", remedy=_AGAIN, safe=_ONLY_READ)

            try:
                target.sync()
                mark = target.write_mark()
                claim_content(target, store, tell)
                if mark:
                    store.rest(mark)
                facts = _facts(slot, store, path)
            finally:
                store.close()
    return facts


def _what_it_was_for(folder: OsFolder) -> Header | None:
    """Source and geometry, which a target that is larger than its source does not tell; None where they are lost."""
    if not folder.exists(MANIFEST_FILE):
        return None
    return surviving_header(folder.open(MANIFEST_FILE))


def _facts(name: str, store: SlotStore, path: Path) -> dict[str, Any]:
    geometry = store.geometry
    known = store.map.counts().known_blocks * geometry.block_bytes
    return {
        "slot": name,
        "size": geometry.size,
        "block_bytes": geometry.block_bytes,
        "digest": store.kind.name.lower(),
        "generation": store.generation,
        "pass_open": not store.complete,
        "known_bytes": min(known, geometry.size),
        "epoch": store.epoch,
        "manifest_bytes": sum(entry.stat().st_blocks * 512 for entry in path.iterdir() if entry.is_file()),
        "source_identity": store.source_identity,
        "root": store.map.root().hex(),
    }
