"""From the layout of some disks to that of one or several with standard partitions. Pure: nothing is read or written.

What a plan holds follows from the disks alone (identities too, they are derived and not drawn), so that the next pass
makes the same plan and finds the partitions it made. Partitions that are none of LVM's are kept, with their numbers
where the new table allows; each logical volume becomes one partition, in the numbers that are free. What goes to
which of several targets is :mod:`~blocksync.flatten.placing`'s; each of them then has a plan like any other.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blocksync.errors import (
    FlattenNothingError,
    FlattenSpaceError,
    FlattenTableError,
)
from blocksync.flatten.aliases import Alias, AliasMap, partition_names, volume_alias
from blocksync.flatten.kinds import BIOS_BOOT_TYPE, ESP_TYPE, LINUX_TYPE, SWAP_TYPE, SWAPS, blkid_name, type_in
from blocksync.flatten.placing import Share, flattened_volumes, growth, kept_partitions, shares
from blocksync.flatten.refusals import Wishes, refusals
from blocksync.flatten.remarks import printable, remarks, shared_uuids
from blocksync.flatten.table import ALIGNMENT_BYTES, GPT_ENTRIES, MBR_MOST_PARTITIONS, Slice, table_tail_bytes
from blocksync.volumes.layout import Layout, Partition

_NAMES = uuid.UUID("0f3a3c1e-5d0e-5c8e-9a53-6a1c1f7b2d10")  # of ours: identities are derived in it
_MBR_REACH_BYTES = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Content that is copied raw.

    Args:
        disk: index of a source disk; None for a logical volume.
        partition: its number; 0 for the whole disk.
        group, volume: of LVM.
        size: bytes.
        to: number of the partition it goes to.
        filesystem: its kind, empty where none was recognised.
        uuid, label: of the filesystem.
    """

    to: int
    size: int
    disk: int | None = None
    partition: int = 0
    group: str = ""
    volume: str = ""
    filesystem: str = ""
    uuid: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """What a person calls it."""
        if self.volume:
            return f"{self.group}/{self.volume}"
        return f"disk {(self.disk or 0) + 1}" + (f" partition {self.partition}" if self.partition else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A target to be, and those beside it.

    Args:
        table: ``gpt`` or ``mbr``.
        identity: of the table.
        size: bytes that the target must have at least.
        firmware: ``bios``, ``uefi`` or ``both``: what the source was made to boot with.
        slices: the partitions, by their numbers.
        copies: what goes where.
        aliases: names and what replaces them.
        grown: numbers of the partitions that are larger than what they hold by wish.
        notes: what the reader should know, about all targets.
        beside: the further targets, in their order; they have none beside them.
    """

    table: str
    identity: str
    sector_bytes: int
    size: int
    firmware: str
    slices: tuple[Slice, ...]
    copies: tuple[Copy, ...]
    aliases: tuple[Alias, ...]
    grown: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    beside: tuple[Plan, ...] = ()

    @property
    def targets(self) -> tuple[Plan, ...]:
        """The plan of each target alone."""
        return (dataclasses.replace(self, beside=()) if self.beside else self, *self.beside)

    def placed(self) -> tuple[tuple[int, Copy], ...]:
        """What is copied, each with the index of its target."""
        return tuple((index, copy) for index, target in enumerate(self.targets) for copy in target.copies)

    def alias_map(self) -> AliasMap:
        """The names of all targets' content."""
        targets = self.targets
        found = [
            dataclasses.replace(alias, target=index)
            for index, target in enumerate(targets)
            for alias in target.aliases
        ]
        return AliasMap(found, *(target.table for target in targets))

    def slice(self, number: int) -> Slice:
        return next(part for part in self.slices if part.number == number)


def make_plan(
    layout: Layout,
    wishes: Wishes | None = None,
    *,
    target_bytes: Sequence[int] = (),
    target_sector_bytes: int = 512,
) -> Plan:
    """Plan the targets.

    Args:
        target_bytes: the size of each that exists already.

    Raises:
        FlattenRefusedError: and its kinds; nothing was written.
        UsageError: a wish names what is not there.
    """
    wanted = wishes or Wishes()
    refused = refusals(layout, wanted, target_sector_bytes)
    if refused:
        raise refused[0]
    volumes = flattened_volumes(layout)
    if not volumes:
        raise FlattenNothingError("the disks hold no logical volume that can become a partition")
    grow = growth(volumes, wanted)
    plans: list[Plan] = []
    for share in shares(layout, wanted):
        room = target_bytes[share.index] if share.index < len(target_bytes) else None
        known = {plan.identity for plan in plans}
        plans.append(_Planning(layout, wanted, share, grow, room, target_sector_bytes, known).plan())
    notes = [*remarks(layout), *(note for plan in plans for note in plan.notes)]
    beside = tuple(dataclasses.replace(plan, notes=()) for plan in plans[1:])
    return dataclasses.replace(plans[0], notes=tuple(notes), beside=beside)


class _Planning:
    """The plan of one target in the making.

    Args:
        share: what goes there.
        grow: bytes of partitions by the paths of their volumes.
        target_bytes: its size, where it exists already.
        known: identities of the targets before it.
    """

    def __init__(
        self,
        layout: Layout,
        wishes: Wishes,
        share: Share,
        grow: Mapping[str, int],
        target_bytes: int | None,
        sector_bytes: int,
        known: set[str],
    ) -> None:
        self.layout = layout
        self.wishes = wishes
        self.index = share.index
        self.called = f"target {share.index + 1}" if wishes.targets > 1 else "the target"
        self.first = share.disks[0] if share.disks else None
        self.volumes = share.volumes
        self.kept = share.kept
        self.grow = grow
        self.target_bytes = target_bytes
        self.sector_bytes = sector_bytes
        self.known = known
        self.shared = shared_uuids(layout)
        self.notes: list[str] = []
        # Whatever identifies the source: the same disks give the same identities.
        seed = "/".join([*(disk.identity for disk in layout.disks), *(group.uuid for group in layout.groups)])
        self.seed = f"{seed}@{share.index}" if share.index else seed

    def plan(self) -> Plan:
        firmware = self._firmware()
        table = self._table()
        numbers = self._numbers(table)
        slices, copies, aliases, grown = [], [], [], []
        at = ALIGNMENT_BYTES
        identity = self._identity(table)
        bios_boot = table == "gpt" and firmware != "uefi" and not self.index
        if bios_boot and not any(part.type_id == BIOS_BOOT_TYPE for _, part in self.kept):
            number = self._free(numbers.values(), table)
            slices.append(self._slice(number, at, ALIGNMENT_BYTES, BIOS_BOOT_TYPE, "bios_grub"))
            at += ALIGNMENT_BYTES
        for key, number in numbers.items():
            size, kind, name, copy, alias = self._content(key, number, table, identity)
            room = max(_aligned(size), _aligned(self.grow.get(copy.name if copy else "", 0)))
            if copy is not None and copy.name in self.grow and room > _aligned(size):
                grown.append(number)
            slices.append(self._slice(number, at, room, kind, name, self._old(key), table))
            at += room
            copies += [copy] if copy is not None else []
            aliases += [alias] if alias is not None else []
        size = _aligned(at + table_tail_bytes(table, self.sector_bytes))
        self._check(table, at, size)
        return Plan(
            table=table,
            identity=identity,
            sector_bytes=self.sector_bytes,
            size=size,
            firmware=firmware,
            slices=tuple(sorted(slices, key=lambda part: part.number)),
            copies=tuple(copies),
            aliases=tuple(aliases),
            grown=tuple(grown),
            notes=tuple(self.notes),
        )

    # -- parts ------------------------------------------------------------------------------------------------

    def _firmware(self) -> str:
        types = [part.type_id for _, part in kept_partitions(self.layout)]
        uefi = ESP_TYPE in types or "0xef" in types
        bios = BIOS_BOOT_TYPE in types or any(disk.table == "mbr" for disk in self.layout.disks[:1])
        if uefi:
            return "both" if BIOS_BOOT_TYPE in types else "uefi"
        if not bios and not self.index:
            self.notes.append("the first disk shows no way to boot: it is prepared for a BIOS")
        return "bios"

    def _table(self) -> str:
        first = self.layout.disks[self.first].table if self.first is not None else ""
        wanted = self.wishes.table or first or "gpt"
        if wanted == "gpt":
            if first == "mbr":
                self.notes.append(f"{self.called} gets a GUID partition table instead of a master boot record")
            return "gpt"
        partitions = len(self.volumes) + sum(part.type_id != BIOS_BOOT_TYPE for _, part in self.kept)
        total = sum(_aligned(volume.size) for volume in self.volumes) + sum(part.size for _, part in self.kept)
        total += sum(self.grow.get(volume.path, 0) for volume in self.volumes)
        if partitions <= MBR_MOST_PARTITIONS and total < _MBR_REACH_BYTES * self.sector_bytes:
            return "mbr"
        why = f"{partitions} partitions" if partitions > MBR_MOST_PARTITIONS else "2 TiB"
        if self.wishes.table == "mbr":
            raise FlattenTableError(f"a master boot record holds 4 partitions below 2 TiB, and this needs {why}")
        self.notes.append(f"{self.called} gets a GUID partition table: a master boot record cannot hold {why}")
        return "gpt"

    def _numbers(self, table: str) -> dict[tuple[int, int] | str, int]:
        """The number of each partition to be, by what goes there; kept ones first."""
        most = GPT_ENTRIES if table == "gpt" else MBR_MOST_PARTITIONS
        kept = [(disk, part) for disk, part in self.kept if table == "gpt" or part.type_id != BIOS_BOOT_TYPE]
        taken: dict[tuple[int, int] | str, int] = {}
        for disk, part in kept:
            if disk == self.first and 1 <= part.number <= min(most, 128) and part.number not in taken.values():
                taken[disk, part.number] = part.number
        for disk, part in kept:
            if (disk, part.number) not in taken:
                taken[disk, part.number] = self._free(taken.values(), table)
        for volume in self.volumes:
            taken[volume.path] = self._free(taken.values(), table)
        return taken

    def _free(self, taken: Iterable[int], table: str) -> int:
        used = set(taken)
        most = GPT_ENTRIES if table == "gpt" else MBR_MOST_PARTITIONS
        number = next((number for number in range(1, most + 1) if number not in used), 0)
        if not number:
            raise FlattenTableError(f"there are more than {most} partitions")
        return number

    def _identity(self, table: str) -> str:
        first = self.layout.disks[self.first] if self.first is not None else None
        if first is not None and first.table == table and first.identity and first.identity not in self.known:
            return first.identity
        derived = uuid.uuid5(_NAMES, self.seed)
        return str(derived) if table == "gpt" else f"{derived.time_low or 1:08x}"

    def _old(self, key: tuple[int, int] | str) -> Partition | None:
        if isinstance(key, str):
            return None
        return next(part for disk, part in self.kept if (disk, part.number) == key)

    def _slice(
        self,
        number: int,
        at: int,
        size: int,
        kind: str,
        name: str,
        old: Partition | None = None,
        table: str = "gpt",
    ) -> Slice:
        same = old is not None and table == "gpt" and len(old.uuid) == 36
        return Slice(
            number=number,
            offset=at,
            size=size,
            type_id=kind,
            uuid=old.uuid if same and old is not None else str(uuid.uuid5(_NAMES, f"{self.seed}#{number}{name}")),
            name=name,
            bootable=old.bootable if old is not None else False,
            attributes=old.attributes if same and old is not None else 0,
        )

    def _content(
        self, key: tuple[int, int] | str, number: int, table: str, identity: str
    ) -> tuple[int, str, str, Copy | None, Alias | None]:
        """Size, type, name, copy and alias of a partition to be."""
        if isinstance(key, str):
            return self._volume_content(key, number, table, identity)
        part = self._old(key)
        assert part is not None
        disk = self.layout.disks[key[0]]
        kind = type_in(table, part.type_id, disk.table, part.filesystem)
        if part.type_id == BIOS_BOOT_TYPE:
            return part.size, kind, part.name, None, None
        content = part.filesystem
        copy = Copy(
            to=number,
            size=part.size,
            disk=key[0],
            partition=part.number,
            filesystem=content.kind if content else "",
            uuid=content.uuid if content else "",
            label=printable(content.label) if content else "",
        )
        names = partition_names(self.wishes.names, key[0], part.number)
        fresh = self._partuuid(table, identity, number, part.name, part)
        if part.uuid and part.uuid != fresh:
            names += (f"PARTUUID={part.uuid}", f"/dev/disk/by-partuuid/{part.uuid}")
        alias = Alias(
            names=names,
            number=number,
            partuuid=fresh,
            uuid=self._telling(copy.uuid),
            filesystem=blkid_name(content),
        )
        return part.size, kind, part.name, copy, alias if names else None

    def _volume_content(
        self, path: str, number: int, table: str, identity: str
    ) -> tuple[int, str, str, Copy | None, Alias | None]:
        volume = next(volume for volume in self.volumes if volume.path == path)
        group = next(group for group in self.layout.groups if volume in group.volumes)
        content = volume.filesystem
        kind = SWAP_TYPE if content is not None and content.kind in SWAPS else LINUX_TYPE
        name = f"{group.name}-{volume.name}"[:36]
        copy = Copy(
            to=number,
            size=volume.size,
            group=group.name,
            volume=volume.name,
            filesystem=content.kind if content else "",
            uuid=content.uuid if content else "",
            label=printable(content.label) if content else "",
        )
        alias = volume_alias(
            group=group.name,
            volume=volume.name,
            group_uuid=group.uuid,
            volume_uuid=volume.uuid,
            number=number,
            partuuid=self._partuuid(table, identity, number, name, None),
            uuid=self._telling(copy.uuid),
            filesystem=blkid_name(content),
            minor=self.wishes.numbers.get(path),
        )
        return volume.size, type_in(table, kind, "gpt", content), name, copy, alias

    def _telling(self, uuid: str) -> str:
        """A filesystem's UUID, where that means it alone: a name that means two must not stand in fstab."""
        return "" if uuid in self.shared else uuid

    def _partuuid(self, table: str, identity: str, number: int, name: str, old: Partition | None) -> str:
        if table == "mbr":
            return f"{identity}-{number:02x}"
        return self._slice(number, 0, 0, LINUX_TYPE, name, old, table).uuid

    def _check(self, table: str, end: int, size: int) -> None:
        if table == "mbr" and end > _MBR_REACH_BYTES * self.sector_bytes:
            raise FlattenTableError("a master boot record reaches 2 TiB, and the partitions end beyond")
        if self.target_bytes is not None and self.target_bytes < size:
            raise FlattenSpaceError(f"the partitions need {size} bytes, and {self.called} has {self.target_bytes}")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
