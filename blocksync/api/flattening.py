"""From logical volumes to partitions on this machine: plan, apply, repair, look, boot."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blocksync.api.opening import opened_together
from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import prepare
from blocksync.options import BootOptions, FlattenOptions
from blocksync.results import FlattenResult

if TYPE_CHECKING:
    from blocksync.flatten.boottest import BootReport
    from blocksync.flatten.leftovers import Leftover
    from blocksync.flatten.outlook import Outlook
    from blocksync.flatten.repair import RepairReport


def flatten(
    sources: Sequence[str], target: str, options: FlattenOptions | None = None, *, cancel: Cancel | None = None
) -> FlattenResult:
    """Make one pass from disks with LVM to a target with standard partitions, and repair the system there.

    Args:
        sources: paths of all disks of the volume groups, the one that boots first.
        target: its path; ``options.onto`` has further ones.

    Raises:
        FlattenRefusedError: the layout, before anything is written; each reason has its class.
        BlocksyncError: as :func:`copy`.
    """
    from blocksync.flatten.local import flatten_disks

    wanted = options or FlattenOptions()
    token = cancel or Cancel()
    with opened_together(sources, token, rescue=False) as disks:
        return flatten_disks(disks, target, prepare(wanted.state_dir), wanted, token)


def plan_flatten(
    sources: Sequence[str], options: FlattenOptions | None = None, *, targets: int | None = None
) -> Outlook:
    """What :func:`flatten` would make of some disks, and which files it would edit; nothing is written or mounted.

    Args:
        targets: how many there will be, as many as ``options`` names where left out; the plan has the further ones in
            its ``beside``.

    Raises:
        FlattenRefusedError: the layout cannot be flattened; each reason has its class.
    """
    from blocksync.flatten.local import wishes_of
    from blocksync.flatten.outlook import outlook
    from blocksync.flatten.sources import plan_for

    with opened_together(sources, Cancel(), rescue=False) as disks:
        wishes = wishes_of(options or FlattenOptions())
        return outlook(disks, plan_for(disks, dataclasses.replace(wishes, targets=targets or wishes.targets)))


def repair_flattened(
    target: str,
    *,
    beside: Sequence[str] = (),
    dry_run: bool = False,
    rebuild_initramfs: bool = False,
    skip: Sequence[str] = (),
    state_dir: Path | None = None,
) -> RepairReport:
    """Repair the system on a target that was flattened before; what it was made from is written down in it.

    Args:
        beside: the further targets of the system, where it lies on several.
        dry_run: change nothing; the report's ``diff`` says what would be.
        rebuild_initramfs: runs code of the system, in a chroot.
        skip: steps that are left out, by name.

    Raises:
        TargetRefusedError: the target is in use (rule 9 of the design).
        FlattenError: and its kinds.
    """
    from blocksync.flatten.repair import RepairWishes, repair
    from blocksync.targets import open_target

    wishes = RepairWishes(dry_run=dry_run, initramfs=rebuild_initramfs, skip=frozenset(skip))
    # The target is this system's already: what is on it is consented to.
    with contextlib.ExitStack() as exits:
        disks = [
            exits.enter_context(open_target(path, overwrite=True, state_dir=state_dir))
            for path in (target, *beside)
        ]
        return repair(disks, None, wishes)


def check_flattened(target: str, *, beside: Sequence[str] = ()) -> list[Leftover]:
    """Whatever on a target still names volumes that are gone, and what will happen because of it.

    Args:
        beside: the further targets of the system, where it lies on several.

    Raises:
        FlattenError: there is no system on it, or it cannot be reached.
    """
    from blocksync.flatten.check import check_target

    return check_target(target, *beside)


def boot_test(
    target: str,
    options: BootOptions | None = None,
    *,
    beside: Sequence[str] = (),
    cancel: Cancel | None = None,
) -> BootReport:
    """Boot a throw-away overlay of a target in QEMU and say how far it comes; nothing of the target is written.

    Args:
        beside: the further targets of the system, in their order, where it lies on several.

    Raises:
        BootTestError: the boot cannot be tried here. A boot that fails is a result, not an error.
    """
    from blocksync.flatten.boottest import boot_test as tried
    from blocksync.flatten.system import firmware_of

    wanted = options or BootOptions()
    token = cancel or Cancel()
    return tried(
        target,
        firmware=wanted.firmware or firmware_of(target, *beside),
        folder=wanted.folder or Path(f"{Path(target).name}.boot-test"),
        seconds=wanted.seconds,
        memory_mib=wanted.memory_mib,
        stopped=token.is_set,
        beside=beside,
    )
