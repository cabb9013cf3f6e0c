"""``blocksync flatten``: disks of this machine to a target of this machine, each volume with its own manifest.

The volumes go as a group of ordinary passes: the sender, receiver, journal and refusals are those of ``copy``, so
that a second run sends what changed, and a run that was cut short goes on. The repair comes last; what it wrote is
read again before the next pass, which puts the source's bytes back and is repaired anew.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from blocksync.engine.cancel import Cancel
from blocksync.engine.group import Group, Member
from blocksync.engine.local import local_receiver, local_route
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import local_folder
from blocksync.flatten.ground import Ground, part_slot
from blocksync.flatten.plan import Copy, Plan
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.repair import RepairReport, RepairWishes, repair
from blocksync.flatten.sources import pieces, plan_for
from blocksync.manifest.folder import OsFolder
from blocksync.options import FlattenOptions, SendOptions
from blocksync.results import FlattenResult, GroupResult
from blocksync.sources.base import Source
from blocksync.targets import open_target
from blocksync.targets.fitness import refuse_itself

_SLOT = "target"
# A part that is being read again, since a repair wrote to it, is waited for as long as that takes.
_PATIENCE_SECONDS = 5.0


def wishes_of(options: FlattenOptions) -> Wishes:
    """What the options ask of a plan."""
    return Wishes(
        table=options.table,
        grow=dict(options.grow),
        encrypted=frozenset(options.encrypted),
        names=options.names,
    )


def flatten_disks(
    disks: Sequence[Source], target_path: str, state: Path, options: FlattenOptions, cancel: Cancel
) -> FlattenResult:
    """Flatten open disks to a local target.

    Raises:
        FlattenRefusedError: the layout, before anything is written.
        TargetRefusedError: see rule 9.
        GroupIncompleteError: some volumes failed; what is durable stays.
        FlattenError: the repair.
    """
    refuse_itself(target_path, [disk.name for disk in disks])
    plan = plan_for(disks, wishes_of(options))
    folder = local_folder(state, target_path) / "flatten"
    with contextlib.ExitStack() as exits:
        ground_folder = exits.enter_context(OsFolder(folder / "ground"))
        known = Ground.known_plan(ground_folder) is not None
        target = exits.enter_context(
            open_target(
                target_path,
                create_size=plan.size if options.create else None,
                overwrite=options.overwrite or known,
                state_dir=state,
            )
        )
        # Again, now that the target's size and sectors are known.
        plan = plan_for(
            disks, wishes_of(options), target_bytes=target.size, target_sector_bytes=target.sector_bytes
        )
        ground = Ground(target, ground_folder, lambda: _forget(folder))
        ground.begin(plan, replace=options.replace or (options.overwrite and not known))
        found = exits.enter_context(pieces(disks, plan))
        group = _copied(found, ground, plan, folder, options, cancel)
        ground.settle()
        report = RepairReport(root=0, changed=(), diff="")
        if options.repair:
            wishes = RepairWishes(initramfs=options.rebuild_initramfs, skip=frozenset(options.skip))
            try:
                report = repair(target, plan, wishes, touch=ground.touch)
            finally:
                ground.settle()
    return FlattenResult(
        group=group,
        table=plan.table,
        partitions=tuple((copy.to, copy.name) for copy in plan.copies),
        root=report.root,
        changed=report.changed,
        loaders=report.loaders,
        notes=(*plan.notes, *report.notes),
    )


def _copied(
    found: list[tuple[Copy, Source]],
    ground: Ground,
    plan: Plan,
    folder: Path,
    options: FlattenOptions,
    cancel: Cancel,
) -> GroupResult:
    slots: dict[str, Slot] = {}
    with contextlib.ExitStack() as exits:
        targets = ground.parts(plan)
        for target in targets.values():
            exits.callback(target.close)
        for number, target in targets.items():
            name = part_slot(_SLOT, number)
            slots[name] = Slot(name, target, OsFolder(folder / f"p{number}"))
            exits.callback(slots[name].close)
        receiver = local_receiver(slots)

        @contextlib.contextmanager
        def route(slot: str) -> Iterator[Route]:
            with local_route(receiver, folder / f"{slot.rpartition('.')[2]}-copy") as way:
                yield way

        members = [Member(source=source, slot=part_slot(_SLOT, copy.to)) for copy, source in found]
        wanted = SendOptions(
            to="",
            digest=options.digest,
            block_bytes=options.block_bytes,
            level=0,
            retry_seconds=_PATIENCE_SECONDS,
            replace=options.replace,
            progress=options.progress,
        )
        return Group(members, route, wanted, cancel).run()


def _forget(folder: Path) -> None:
    """Drop what is known of the parts: the target is divided anew."""
    for part in sorted(folder.glob("p[0-9]*")):
        shutil.rmtree(part)
