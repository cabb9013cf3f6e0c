"""What differs between two volumes of a thin pool: ``thin_delta``, on a metadata snapshot of the live pool."""

from __future__ import annotations

from collections.abc import Iterator

from blocksync.changes.xml import elements, number
from blocksync.errors import ChangesUnknownError
from blocksync.extents import Extent, merge
from blocksync.platforms.tools import run_tool

_SECTOR_BYTES = 512
# A metadata snapshot of gigabytes takes its time to be walked.
_SECONDS = 1800.0
_DIFFER = ("left_only", "right_only", "different")
_TOO_FAR = "the list of changes names a block beyond the disk"


def changed_blocks(metadata: str, before: int, now: int, size: int) -> Iterator[Extent]:
    """Ranges that are mapped differently.

    Args:
        metadata: device-mapper's name of the pool's metadata (``VG-POOL_tmeta``); its metadata snapshot stands.
        before, now: numbers of the two volumes in the pool.
        size: of the newer one, bytes.

    Raises:
        ChangesUnknownError: ``thin_delta`` is missing or fails, or one of the volumes is gone.
    """
    words = ["thin_delta", "-m", "--snap1", str(before), "--snap2", str(now), f"/dev/mapper/{metadata}"]
    said = run_tool(words, ChangesUnknownError, "cannot ask the thin pool what changed", timeout=_SECONDS)
    return parse_delta(said.output, size)


def parse_delta(text: str, size: int) -> Iterator[Extent]:
    """Read what ``thin_delta`` prints; blocks are in the superblock's unit of sectors.

    Raises:
        ChangesUnknownError: it is not what was expected.
    """
    unit = 0
    found: list[Extent] = []
    told = False
    for name, attributes in elements(text):
        if name == "superblock":
            unit = number(attributes, "data_block_size") * _SECTOR_BYTES
        elif name == "diff":
            told = True
        elif name in _DIFFER:
            start, length = number(attributes, "begin") * unit, number(attributes, "length") * unit
            if not unit or start >= size or not length or (found and found[-1].end > start):
                raise ChangesUnknownError(_TOO_FAR)
            found.append(Extent(start, min(length, size - start)))
        elif name != "same":
            raise ChangesUnknownError(f"the list of changes has an element {name}")
    if not told:
        raise ChangesUnknownError("the list of changes has no list")
    return merge(found)
