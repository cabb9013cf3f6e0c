"""What of a scanned chunk must be sent, and how: pages of known blocks, whole blocks, zeros. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from blocksync.geometry import PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import SAME_FLAG, ZERO_FLAG, page_runs
from blocksync.protocol.wire import BlockPatch, encode_patch_table

# A block of which more has changed is sent whole: the receiver then need not read it first.
PATCH_AT_MOST = 0.5
_ALL_SAME = bytes([SAME_FLAG, SAME_FLAG | ZERO_FLAG])


@dataclass(slots=True)
class Changes:
    """Runs of blocks ``(start, count)``, counted from the chunk's first block."""

    zero_runs: list[tuple[int, int]] = field(default_factory=list)
    data_runs: list[tuple[int, int]] = field(default_factory=list)
    patches: list[BlockPatch] = field(default_factory=list)

    @property
    def whole_runs(self) -> list[tuple[int, int]]:
        """Of blocks that are not patched."""
        return self.zero_runs + self.data_runs

    @property
    def all_runs(self) -> list[tuple[int, int]]:
        return self.whole_runs + [(patch.index, 1) for patch in self.patches]


def sort_blocks(
    flags: bytes,
    known: bytes | memoryview,
    old_pages: bytes | memoryview,
    new_pages: bytes | memoryview,
    geometry: Geometry,
    first: int,
) -> Changes | None:
    """Sort a chunk's blocks.

    Args:
        flags: of the scan, one byte a block.
        known: one byte a block, 1 where the receiver holds what the old digests say.
        old_pages, new_pages: sub-digests.
        geometry: of the disk.
        first: number of the chunk's first block.

    Returns:
        None where nothing changed.
    """
    count = len(flags)
    if 0 not in known and not flags.translate(None, _ALL_SAME):
        return None
    changes = Changes()
    per_block = geometry.pages_per_block * PAGE_DIGEST_BYTES
    for index in range(count):
        flag = flags[index]
        if known[index] and flag & SAME_FLAG:
            continue
        if flag & ZERO_FLAG:
            _extend(changes.zero_runs, index)
            continue
        if known[index] and per_block:
            part = slice(index * per_block, (index + 1) * per_block)
            runs = page_runs(old_pages[part], new_pages[part])
            changed = sum(pages for _, pages in runs) * PAGE_BYTES
            # No page differs where the whole does: a sub-digest collided, so the block goes whole.
            if runs and changed <= PATCH_AT_MOST * geometry.block_length(first + index):
                changes.patches.append(BlockPatch(index, tuple(runs)))
                continue
        _extend(changes.data_runs, index)
    return changes if changes.all_runs else None


def _extend(runs: list[tuple[int, int]], index: int) -> None:
    if runs and sum(runs[-1]) == index:
        runs[-1] = (runs[-1][0], runs[-1][1] + 1)
    else:
        runs.append((index, 1))


def patch_payload(patches: list[BlockPatch], plain: memoryview, block_bytes: int) -> bytes:
    """The plain payload of a PATCH: the table, then the pages in its order."""
    parts: list[bytes | memoryview] = [encode_patch_table(patches)]
    for patch in patches:
        start = patch.index * block_bytes
        end = min(start + block_bytes, len(plain))
        parts.extend(
            plain[start + page * PAGE_BYTES : min(start + (page + pages) * PAGE_BYTES, end)]
            for page, pages in patch.runs
        )
    return b"".join(parts)
