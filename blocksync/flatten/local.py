"""``blocksync flatten``: disks of this machine to targets of this machine, each volume with its own manifest.

The volumes go as a group of ordinary passes: the sender, receiver, journal and refusals are those of ``copy``, so
that a second run sends what changed, and a run that was cut short goes on. The repair comes last; what it wrote is
read again before the next pass, which puts the source's bytes back and is repaired anew.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.engine.cancel import Cancel
from blocksync.engine.group import Group, Member
from blocksync.engine.local import local_receiver, local_route
from blocksync.engine.sending import Route
from blocksync.engine.slot import Slot
from blocksync.engine.statedir import local_folder
from blocksync.errors import FlattenSectorError, UsageError
from blocksync.flatten.ground import Ground, part_slot, settle_all
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
        grow=options.grow,
        encrypted=frozenset(options.encrypted),
        names=options.names,
        targets=1 + len(options.onto),
        place=dict(options.place),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """A target of this machine that is being flattened to.

    Args:
        slot: what its parts' slots begin with.
        folder: of the state.
        known: it was divided before, by us.
    """

    slot: str
    folder: Path
    ground: Ground
    known: bool


def flatten_disks(
    disks: Sequence[Source], target_path: str, state: Path, options: FlattenOptions, cancel: Cancel
) -> FlattenResult:
    """Flatten open disks to a local target, or to that and those of ``options.onto``.

    Raises:
        FlattenRefusedError: the layout, before anything is written.
        TargetRefusedError: see rule 9.
        GroupIncompleteError: some volumes failed; what is durable stays.
        FlattenError: the repair.
    """
    paths = (target_path, *options.onto)
    if len({os.path.realpath(path) for path in paths}) != len(paths):
        raise UsageError("a target is named twice")
    for path in paths:
        refuse_itself(path, [disk.name for disk in disks])
    wishes = wishes_of(options)
    wanted = RepairWishes(initramfs=options.rebuild_initramfs, skip=frozenset(options.skip))
    plan = plan_for(disks, wishes)
    with contextlib.ExitStack() as exits:
        sites = [
            _opened(exits, index, path, state, alone.size, options)
            for index, (path, alone) in enumerate(zip(paths, plan.targets, strict=True))
        ]
        targets = [site.ground.target for site in sites]
        plan = _divided(disks, sites, wishes, options)
        found = exits.enter_context(pieces(disks, plan))
        group = _copied(found, sites, plan, options, cancel)
        grounds = [site.ground for site in sites]
        settle_all(grounds)
        report = RepairReport(root=0, changed=(), diff="")
        if options.repair:
            try:
                report = repair(targets, plan, wanted, touch=lambda part: grounds[part.target].touch([part.number]))
            finally:
                settle_all(grounds)
    return FlattenResult(
        group=group,
        table=plan.table,
        partitions=tuple((copy.to, copy.name) for _, copy in plan.placed()),
        root=report.root,
        changed=report.changed,
        loaders=report.loaders,
        notes=(*plan.notes, *report.notes),
        tables=tuple(alone.table for alone in plan.targets),
        targets=tuple(index + 1 for index, _ in plan.placed()),
        root_target=report.root_target,
    )


def _divided(disks: Sequence[Source], sites: Sequence[_Site], wishes: Wishes, options: FlattenOptions) -> Plan:
    """Plan again, now that the targets' sizes and sectors are known, and write the tables where they are not there."""
    targets = [site.ground.target for site in sites]
    sectors = {target.sector_bytes for target in targets}
    if len(sectors) > 1:
        raise FlattenSectorError("the targets count in sectors of different sizes")
    plan = plan_for(
        disks, wishes, target_bytes=[target.size for target in targets], target_sector_bytes=sectors.pop()
    )
    works = [
        (site.ground, alone, options.replace or (_consented(options, index) and not site.known))
        for index, (site, alone) in enumerate(zip(sites, plan.targets, strict=True))
    ]
    for ground, alone, replace in works:  # all of them, before any is written to
        ground.examine(alone, replace=replace)
    for ground, alone, replace in works:
        ground.begin(alone, replace=replace)
    return plan


def _consented(options: FlattenOptions, index: int) -> bool:
    """Whether a target may be overwritten; each is consented to by its own name."""
    if not index:
        return options.overwrite
    return options.onto[index - 1] in options.overwrite_onto


def _opened(
    exits: contextlib.ExitStack, index: int, path: str, state: Path, size: int, options: FlattenOptions
) -> _Site:
    folder = local_folder(state, path) / "flatten"
    ground_folder = exits.enter_context(OsFolder(folder / "ground"))
    known = Ground.known_plan(ground_folder) is not None
    target = exits.enter_context(
        open_target(
            path,
            create_size=size if options.create else None,
            overwrite=known or _consented(options, index),
            state_dir=state,
        )
    )
    ground = Ground(target, ground_folder, lambda: _forget(folder))
    slot = f"{_SLOT}-{index + 1}" if index else _SLOT
    return _Site(slot=slot, folder=folder, ground=ground, known=known)


def _copied(
    found: list[tuple[int, Copy, Source]],
    sites: list[_Site],
    plan: Plan,
    options: FlattenOptions,
    cancel: Cancel,
) -> GroupResult:
    slots: dict[str, Slot] = {}
    folders: dict[str, Path] = {}
    with contextlib.ExitStack() as exits:
        for site, alone in zip(sites, plan.targets, strict=True):
            targets = site.ground.parts(alone)
            for target in targets.values():
                exits.callback(target.close)
            for number, target in targets.items():
                name = part_slot(site.slot, number)
                slots[name] = Slot(name, target, OsFolder(site.folder / f"p{number}"))
                exits.callback(slots[name].close)
                folders[name] = site.folder / f"p{number}-copy"
        receiver = local_receiver(slots)

        @contextlib.contextmanager
        def route(slot: str) -> Iterator[Route]:
            with local_route(receiver, folders[slot]) as way:
                yield way

        members = [
            Member(source=source, slot=part_slot(sites[index].slot, copy.to)) for index, copy, source in found
        ]
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
