"""Partition tables: what both formats have in common, and which of them a disk has.

The rule is the kernel's: a GUID partition table counts where the master boot record announces one by an entry of
type 0xEE; otherwise the master boot record itself is the table. Where neither is there, a GPT that nothing
announces is given with ``announced`` False: the kernel overlooks it, and it may be a leftover.
See :mod:`~blocksync.volumes.gpt` and :mod:`~blocksync.volumes.mbr` for the formats.
"""

from __future__ import annotations

from blocksync.errors import LayoutDamagedError
from blocksync.volumes import gpt, mbr
from blocksync.volumes.reader import Reader, Window, read_bounded
from blocksync.volumes.tables import Partition, PartitionTable

__all__ = ["Partition", "PartitionTable", "partition_reader", "read_partitions"]

SECTOR_SIZES = (512, 4096)


def read_partitions(reader: Reader, *, sector_bytes: int | None = None) -> PartitionTable | None:
    """The partition table of a disk, or None where there is none (a filesystem, a physical volume, nothing).

    Args:
        sector_bytes: the unit that the table counts in, 512 or 4096; left out, a GPT is looked for with both, and
            a master boot record is taken to count in 512.

    Raises:
        LayoutDamagedError: a table is there, and it is damaged beyond its backup, or it contradicts itself.
        LayoutUnknownError: a GPT of another revision.
    """
    if reader.size < SECTOR_SIZES[0] * 2:
        return None
    sizes = SECTOR_SIZES if sector_bytes is None else (sector_bytes,)
    boot = read_bounded(reader, 0, 512, "master boot record")
    if mbr.announces_gpt(boot):
        return _read_announced(reader, sizes)
    table = mbr.read(reader, boot, sector_bytes or SECTOR_SIZES[0])
    if table is None or not table.partitions:
        for size in sizes:
            if gpt.has_signature(reader, size):
                return gpt.read(reader, size).unannounced()
    return table


def _read_announced(reader: Reader, sizes: tuple[int, ...]) -> PartitionTable:
    failures: list[LayoutDamagedError] = []
    # A damaged primary may have lost its signature, so the backup is looked for with each size of sector.
    for size in sorted(sizes, key=lambda size: not gpt.has_signature(reader, size)):
        try:
            return gpt.read(reader, size)
        except LayoutDamagedError as error:
            failures.append(error)
    raise failures[0]


def partition_reader(reader: Reader, partition: Partition) -> Window:
    """A partition as a reader of its own."""
    return Window(reader, partition.offset, partition.size)
