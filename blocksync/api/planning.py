"""Before a transfer: what a disk holds, what this machine can do, how long it will take, whether it will work."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blocksync.api.opening import opened, reached, refuse_itself, told_as_stopped, tracked
from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import prepare
from blocksync.errors import TrustError
from blocksync.estimate.results import BenchOptions, BenchResult, EstimateOptions, EstimateResult, Range
from blocksync.preflight.results import CheckOptions, CheckResult
from blocksync.sources.base import Source

if TYPE_CHECKING:
    from blocksync.volumes.layout import Layout


def inspect(disks: Sequence[str]) -> Layout:
    """What is on disks or disk images: partition tables, LVM, filesystems, and how much of them is used.

    Args:
        disks: paths; all disks of a volume group together.

    Raises:
        SourceError: a disk cannot be opened or read. What is damaged or unknown is told in the layout.
    """
    from blocksync.sources import open_source
    from blocksync.volumes.layout import read_layout
    from blocksync.volumes.reader import SourceReader

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_source(disk)) for disk in disks]
        return read_layout([(disk.name, SourceReader(disk)) for disk in opened])


def bench(
    source: str | Source | None = None, options: BenchOptions | None = None, *, cancel: Cancel | None = None
) -> BenchResult:
    """Measure each stage of a pass on this machine by itself, and say which would be the narrowest.

    Args:
        source: samples of it are read; None for a sample made for the purpose.

    Raises:
        BlocksyncError: a stage cannot be measured.
    """
    from blocksync.estimate.machine import Bench

    token, wanted = cancel or Cancel(), options or BenchOptions()
    if source is None:
        return Bench(None, wanted, token).run()
    with opened(source, token) as disk, told_as_stopped(token):
        return Bench(disk, wanted, token).run()


def estimate(
    source: str | Source, options: EstimateOptions | None = None, *, cancel: Cancel | None = None
) -> EstimateResult:
    """Predict a migration: samples of the source, and a rehearsal on the link to the receiver.

    Nothing is written to the target: see *Rehearsals* in docs/PROTOCOL.md. The prediction is kept with this machine's
    state, and the next first pass to that slot says how far off it was.

    Raises:
        BlocksyncError: what was to be measured cannot be.
    """
    from blocksync.estimate.estimator import Estimator

    wanted = options or EstimateOptions()
    token = cancel or Cancel()
    with contextlib.ExitStack() as exits:
        disk = exits.enter_context(opened(source, token))
        if wanted.watch and isinstance(source, str):
            tracked(disk, source, wanted)
        if wanted.to:
            refuse_itself(disk, wanted.to, token)
        reach = exits.enter_context(reached(wanted, token)) if wanted.to else None
        flattening = _foreseen(disk, wanted) if wanted.flatten else None
        with told_as_stopped(token):
            try:
                result = Estimator(disk, reach, wanted, token).run()
            except TrustError as error:
                if reach is None or not reach.pair_again(error):
                    raise
                result = Estimator(disk, reach, wanted, token).run()
        if flattening is None:
            return result
        divide, repair = flattening
        if reach is not None:
            reach.outlooks().add(result.slot, disk.identity, disk.size, divide=divide.span, repair=repair.span)
        return dataclasses.replace(result, divide=divide, repair=repair)


def _foreseen(disk: Source, options: EstimateOptions) -> tuple[Range, Range]:
    """Of dividing and repairing; first, since a layout that cannot be flattened ends an estimate."""
    from blocksync.flatten.foresight import foresee
    from blocksync.flatten.refusals import Wishes

    told = foresee([disk], Wishes(), prepare(options.state_dir))
    divide, repair = (Range(likely=span[0], low=span[1], high=span[2]) for span in (told.divide, told.repair))
    return divide, repair


def check(options: CheckOptions, *, cancel: Cancel | None = None) -> CheckResult:
    """Look for what would stop or spoil a transfer, on this end and on the way to the receiver; nothing is changed.

    Faults of the world are findings, not errors.

    Raises:
        InterruptedTransferError: cancelled.
    """
    from blocksync.preflight.checker import check as look

    return look(options, cancel or Cancel())
