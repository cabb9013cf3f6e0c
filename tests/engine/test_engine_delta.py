"""Which of a chunk's blocks are left out, and how the others travel."""

from __future__ import annotations

import pytest

from blocksync.engine.delta import sort_blocks
from blocksync.geometry import PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import SAME_FLAG, ZERO_FLAG
from blocksync.protocol.wire import BlockPatch

PAGES = 4
GEOMETRY = Geometry(3 * PAGES * PAGE_BYTES, PAGES * PAGE_BYTES)
OLD = bytes(PAGE_DIGEST_BYTES * PAGES * 3)
# One page differs: the second of the middle block.
NEW = OLD[: PAGE_DIGEST_BYTES * (PAGES + 1)] + b"\1" * PAGE_DIGEST_BYTES + OLD[PAGE_DIGEST_BYTES * (PAGES + 2) :]
CHANGED = 0


def test_nothing_is_sent_of_known_blocks_that_are_the_same() -> None:
    flags = bytes([SAME_FLAG, SAME_FLAG | ZERO_FLAG, SAME_FLAG])
    assert sort_blocks(flags, b"\1\1\1", OLD, OLD, GEOMETRY, 0) is None


@pytest.mark.parametrize(
    ("flag", "zeros", "data"), [(SAME_FLAG, [], [(1, 1)]), (SAME_FLAG | ZERO_FLAG, [(1, 1)], [])]
)
def test_a_block_that_the_receiver_does_not_hold_is_sent_whatever_its_old_digest_says(
    flag: int, zeros: list[tuple[int, int]], data: list[tuple[int, int]]
) -> None:
    changes = sort_blocks(bytes([SAME_FLAG, flag, SAME_FLAG]), b"\1\0\1", OLD, OLD, GEOMETRY, 0)
    assert changes is not None
    assert (changes.zero_runs, changes.data_runs, changes.patches) == (zeros, data, [])


def test_the_changed_page_of_a_known_block_is_a_patch() -> None:
    changes = sort_blocks(bytes([SAME_FLAG, CHANGED, SAME_FLAG]), b"\1\1\1", OLD, NEW, GEOMETRY, 0)
    assert changes is not None
    assert (changes.whole_runs, changes.patches) == ([], [BlockPatch(1, ((1, 1),))])


def test_the_changed_page_of_a_block_that_the_receiver_does_not_hold_is_no_patch() -> None:
    changes = sort_blocks(bytes([SAME_FLAG, CHANGED, SAME_FLAG]), b"\1\0\1", OLD, NEW, GEOMETRY, 0)
    assert changes is not None
    assert (changes.data_runs, changes.patches) == ([(1, 1)], [])
