"""The repair of a target: names in its files, then its boot loaders. Repeatable; what was there first is kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blocksync.errors import FlattenError, GuestFileError, ProtocolError, UsageError
from blocksync.flatten import bootloader, record
from blocksync.flatten.aliases import AliasMap
from blocksync.flatten.changes import (
    MOST_CONFIGURATION_BYTES,
    RECORD,
    Change,
    apply_changes,
    diff,
    find_changes,
)
from blocksync.flatten.grow import grow_filesystem
from blocksync.flatten.initramfs import rebuild_initramfs
from blocksync.flatten.leftovers import unknown_numbers
from blocksync.flatten.mounts import privately
from blocksync.flatten.plan import Plan
from blocksync.flatten.rules import STEPS
from blocksync.flatten.system import System, TargetDisk, Touch, assembled, look_at
from blocksync.flatten.tree import Guest
from blocksync.targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairWishes:
    """How to repair.

    Args:
        dry_run: find out what would change, and change nothing.
        initramfs: rebuild it with the system's own tools, in a chroot: runs code of the system.
        skip: steps that are left out, by name.

    Raises:
        UsageError: there is no such step.
    """

    dry_run: bool = False
    initramfs: bool = False
    skip: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        strange = sorted(self.skip - STEPS)
        if strange:
            raise UsageError(
                f"the repair has no step {', '.join(strange)}", remedy=f"it has {', '.join(sorted(STEPS))}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What the repair did, or would do.

    Args:
        root: number of the partition with the system, on target ``root_target``, which counts from 1.
        changed: ``(rule, path)`` of each file.
        diff: of them.
        loaders: what was done about booting, in lines.
        notes: what could not be done.
    """

    root: int
    changed: tuple[tuple[str, str], ...]
    diff: str
    loaders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    root_target: int = 1


def repair(
    targets: Sequence[Target], plan: Plan | None, wishes: RepairWishes, *, touch: Touch | None = None
) -> RepairReport:
    """Repair the system on a target, or on several.

    Args:
        targets: open and ours; their names are their paths. In the plan's order, where there is a plan.
        plan: None takes the one that an earlier repair left in the system.
        touch: told of partitions before they are written to.

    Raises:
        FlattenError: and its kinds.
    """
    work: Callable[[], RepairReport] = lambda: _repair(targets, plan, wishes, touch)  # noqa: E731 - typed for below
    return privately(work) if os.geteuid() == 0 else work()


def _repair(
    targets: Sequence[Target], plan: Plan | None, wishes: RepairWishes, touch: Touch | None
) -> RepairReport:
    disk = look_at(*(target.name for target in targets))
    known = plan
    if known is None:
        with assembled(disk, None, write=False) as system:
            known = recorded_plan(system.guest)
        if known is None:
            paths = ", ".join(target.name for target in targets)
            raise FlattenError(
                f"the system on {paths} has no record of being flattened",
                remedy="flatten it with blocksync flatten SOURCE TARGET, which knows its volumes' names",
            )
        disk = in_order(disk, known)
    aliases = known.alias_map()
    first = next(target for target in targets if target.name == disk.path)
    with assembled(disk, aliases, write=not wishes.dry_run, touch=touch) as system:
        report = _repair_system(first, system, known, aliases, wishes)
    if not wishes.dry_run:
        grown = [
            grow_filesystem(each, number)
            for each, part in zip(disk.disks, known.targets, strict=True)
            for number in part.grown
        ]
        for target in targets:
            target.sync()
        return dataclasses.replace(report, notes=(*report.notes, *grown))
    return report


def in_order(disk: TargetDisk, plan: Plan) -> TargetDisk:
    """The targets of a system in the order of its plan, whatever order they were named in.

    Raises:
        FlattenError: they are not all of them, or others.
    """
    wanted = [target.identity for target in plan.targets]
    given = {each.identity: each.path for each in disk.disks}
    if len(wanted) == len(disk.disks) == 1:
        return disk  # whatever became of its identity since
    if len(given) != len(disk.disks) or sorted(given) != sorted(wanted):
        raise FlattenError(
            f"the system lies on {len(wanted)} targets, and these are not they: {', '.join(given.values())}",
            remedy="name all its targets together, and no others: blocksync flatten --check TARGET TARGET2",
        )
    return look_at(*(given[identity] for identity in wanted))


def _repair_system(
    target: Target, system: System, plan: Plan, aliases: AliasMap, wishes: RepairWishes
) -> RepairReport:
    changes: list[Change] = find_changes(system.guest, aliases, skip=wishes.skip)
    loaders = bootloader.Loaders(done=(), notes=())
    if not wishes.dry_run:
        apply_changes(system.guest, changes, record.to_json(plan))
        if "loader" not in wishes.skip:
            loaders = bootloader.rebuild(system, lambda offset, data: _write(target, offset, data))
        if wishes.initramfs:
            loaders = bootloader.Loaders(done=(*loaders.done, *rebuild_initramfs(system)), notes=loaders.notes)
        system.guest.sync()
    return RepairReport(
        root=system.root.number,
        root_target=system.root.target + 1,
        changed=tuple((change.rule, change.path) for change in changes),
        diff=diff(changes),
        loaders=loaders.done,
        notes=(*system.notes, *loaders.notes, *unknown_numbers(system.guest, aliases)),
    )


def recorded_plan(guest: Guest) -> Plan | None:
    """What an earlier repair wrote down in the system; None where there was none."""
    import json

    content = guest.read(RECORD, MOST_CONFIGURATION_BYTES)
    if content is None:
        return None
    try:
        return record.from_json(json.loads(content))
    except (ValueError, RecursionError, ProtocolError) as error:
        raise GuestFileError(f"{RECORD} of the system is unusable") from error


def _write(target: Target, offset: int, data: bytes) -> None:
    target.write(offset, memoryview(data))
