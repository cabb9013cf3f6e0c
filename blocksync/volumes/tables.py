"""What a partition table says, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from blocksync.errors import LayoutDamagedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition.

    Args:
        number: as the system counts it; logical partitions of a master boot record start at 5.
        offset: bytes from the start of the disk.
        size: bytes.
        type_id: ``"0x83"`` in a master boot record, a lower-case GUID in a GPT.
        uuid: PARTUUID as Linux shows it.
        name: GPT only.
        bootable: the active flag of a master boot record, "legacy BIOS bootable" of a GPT.
        attributes: the 64 attribute bits of a GPT entry.
        container: an extended partition: it holds logical ones and no data of its own.
    """

    number: int
    offset: int
    size: int
    type_id: str
    uuid: str
    name: str = ""
    bootable: bool = False
    attributes: int = 0
    container: bool = False

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTable:
    """A partition table.

    Args:
        kind: ``"mbr"`` or ``"gpt"``.
        sector_bytes: the unit that the table counts in.
        identity: the disk's GUID, or the eight hex digits of a master boot record.
        partitions: in the order of their numbers.
        reserved: byte ranges ``(offset, length)`` that hold the table itself, wherever its copies lie.
        announced: False for a GPT that no master boot record points at: the kernel would not use it, and it may be
            left over from an earlier use of the disk.
        notes: what was odd, yet could be read around.
    """

    kind: str
    sector_bytes: int
    identity: str
    partitions: tuple[Partition, ...]
    reserved: tuple[tuple[int, int], ...] = ()
    announced: bool = True
    notes: tuple[str, ...] = ()

    def unannounced(self) -> PartitionTable:
        note = "no protective master boot record announces this table"
        return replace(self, announced=False, notes=(*self.notes, note))


def refuse_overlap(partitions: list[Partition]) -> None:
    """Raise :class:`LayoutDamagedError` where two partitions share bytes."""
    ordered = sorted(partitions, key=lambda partition: partition.offset)
    for left, right in pairwise(ordered):
        if left.end > right.offset:
            raise LayoutDamagedError(f"partitions {left.number} and {right.number} overlap")
