"""The repair of a target: names in its files, then its boot loaders. Repeatable; what was there first is kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from blocksync.errors import FlattenError, GuestFileError, ProtocolError
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
from blocksync.flatten.mounts import privately
from blocksync.flatten.plan import Plan
from blocksync.flatten.system import System, Touch, assembled, look_at
from blocksync.flatten.tree import Guest
from blocksync.targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairWishes:
    """How to repair.

    Args:
        dry_run: find out what would change, and change nothing.
        initramfs: rebuild it with the system's own tools, in a chroot: runs code of the system.
        skip: rules that are left out, by name.
    """

    dry_run: bool = False
    initramfs: bool = False
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What the repair did, or would do.

    Args:
        root: number of the partition with the system.
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


def repair(target: Target, plan: Plan | None, wishes: RepairWishes, *, touch: Touch | None = None) -> RepairReport:
    """Repair the system on a target.

    Args:
        target: open and ours; its name is its path.
        plan: None takes the one that an earlier repair left in the system.
        touch: told the numbers of partitions before they are written to.

    Raises:
        FlattenError: and its kinds.
    """
    work: Callable[[], RepairReport] = lambda: _repair(target, plan, wishes, touch)  # noqa: E731 - typed for below
    return privately(work) if os.geteuid() == 0 else work()


def _repair(target: Target, plan: Plan | None, wishes: RepairWishes, touch: Touch | None) -> RepairReport:
    disk = look_at(target.name)
    known = plan
    if known is None:
        with assembled(disk, None, write=False) as system:
            known = recorded_plan(system.guest)
        if known is None:
            raise FlattenError(
                f"the system on {target.name} has no record of being flattened",
                remedy="flatten it with blocksync flatten SOURCE TARGET, which knows its volumes' names",
            )
    aliases = known.alias_map()
    with assembled(disk, aliases, write=not wishes.dry_run, touch=touch) as system:
        report = _repair_system(target, system, known, aliases, wishes)
    if not wishes.dry_run:
        grown = [grow_filesystem(disk, number) for number in known.grown]
        target.sync()
        return RepairReport(
            root=report.root,
            changed=report.changed,
            diff=report.diff,
            loaders=report.loaders,
            notes=(*report.notes, *grown),
        )
    return report


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
        changed=tuple((change.rule, change.path) for change in changes),
        diff=diff(changes),
        loaders=loaders.done,
        notes=(*system.notes, *loaders.notes),
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
