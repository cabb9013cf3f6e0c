"""How a disk is divided: sectors, pages, blocks, chunks, segments.

Pure arithmetic. Sizes are bytes, powers of two where they divide each other.

===========  ==============================  =====================================================
unit         size                            why
===========  ==============================  =====================================================
page         4 KiB                           what databases and filesystems change
block        4 KiB to 16 MiB (64 KiB)        unit of identity, one 128-bit digest
chunk        at least one block (1 MiB)      unit of reading, compression and framing
segment      256 MiB                         unit in which manifests are stored, synced and compared
===========  ==============================  =====================================================

A page's sub-digest has 32 bits. With 64 KiB blocks a manifest is (16 + 16 * 4) / 65536 = 0.122 % of the disk.
"""

from __future__ import annotations

from dataclasses import dataclass

from blocksync.errors import UsageError

PAGE_BYTES = 4096
DIGEST_BYTES = 16
PAGE_DIGEST_BYTES = 4
SEGMENT_BYTES = 256 << 20
MIN_BLOCK_BYTES = PAGE_BYTES
MAX_BLOCK_BYTES = 16 << 20
DEFAULT_BLOCK_BYTES = 64 << 10
DEFAULT_CHUNK_BYTES = 1 << 20
MAX_DISK_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Geometry:
    """The division of one disk.

    Args:
        size: of the disk in bytes, a multiple of 512; the last block, page and segment may be short.
        block_bytes: power of two, 4 KiB to 16 MiB.
        sector_bytes: the device's unit, 512 or 4096.
    """

    size: int
    block_bytes: int = DEFAULT_BLOCK_BYTES
    sector_bytes: int = 512

    def __post_init__(self) -> None:
        block = self.block_bytes
        if not MIN_BLOCK_BYTES <= block <= MAX_BLOCK_BYTES or block & (block - 1):
            raise UsageError(
                f"block size {block} is not a power of two from 4 KiB to 16 MiB",
                remedy="use for example --block-size 64K",
            )
        if not 0 < self.size <= MAX_DISK_BYTES:
            raise UsageError(f"disk size {self.size} is out of range", remedy="the disk must not be empty")
        if self.sector_bytes not in (512, 4096):
            raise UsageError(f"sector size {self.sector_bytes} is neither 512 nor 4096", remedy="")

    @property
    def block_count(self) -> int:
        return -(-self.size // self.block_bytes)

    @property
    def pages_per_block(self) -> int:
        """Sub-digests a block has in the manifest; 0 where a block is no larger than a page."""
        return self.block_bytes // PAGE_BYTES if self.block_bytes > PAGE_BYTES else 0

    @property
    def chunk_bytes(self) -> int:
        return max(DEFAULT_CHUNK_BYTES, self.block_bytes)

    @property
    def segment_blocks(self) -> int:
        return SEGMENT_BYTES // self.block_bytes

    @property
    def segment_count(self) -> int:
        return -(-self.size // SEGMENT_BYTES)

    def blocks_in_segment(self, segment: int) -> int:
        return min(self.segment_blocks, self.block_count - segment * self.segment_blocks)

    def block_length(self, block: int) -> int:
        """Bytes of a block: ``block_bytes``, but for the last one."""
        return min(self.block_bytes, self.size - block * self.block_bytes)

    def blocks_of(self, offset: int, length: int) -> tuple[int, int]:
        """``(first block, count)`` of a byte range made of whole blocks.

        Raises:
            ValueError: the range is empty, leaves the disk, or cuts a block.
        """
        end = offset + length
        block = self.block_bytes
        if offset < 0 or length <= 0 or end > self.size or offset % block or (end % block and end != self.size):
            raise ValueError(f"[{offset}, {end}) is not made of whole blocks of {block} within {self.size}")
        return offset // block, -(-end // block) - offset // block
