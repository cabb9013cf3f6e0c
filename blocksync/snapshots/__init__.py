"""Point-in-time views of disks that are in use: taken, opened as sources, removed again whatever happens."""

from __future__ import annotations

from blocksync.snapshots.shadowing import SHADOWS_FOLDER
from blocksync.snapshots.taking import Wishes, take

__all__ = ["SHADOWS_FOLDER", "Wishes", "take"]
