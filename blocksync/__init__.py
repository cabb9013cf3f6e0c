"""blocksync: moves whole disks between machines, block by block, and proves that the copy is identical."""

from __future__ import annotations

__version__ = "0.1.0"
