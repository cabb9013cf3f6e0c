"""How calls reach what they work on: sources, snapshots below them, the receiver, and what is looked at before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from blocksync.engine.statedir import prepare
from blocksync.estimate.results import EstimateOptions
from blocksync.options import SendOptions, VerifyOptions
from blocksync.results import Progress
from blocksync.sources.base import Source

if TYPE_CHECKING:
    from blocksync.engine.cancel import Cancel
    from blocksync.engine.reach import Reach


@contextlib.contextmanager
def opened(source: str | Source, *, rescue: bool = False) -> Iterator[Source]:
    if isinstance(source, str):
        from blocksync.sources import open_source

        with open_source(source) as disk:
            yield rescued(disk, rescue)
    else:
        yield rescued(source, rescue)


def rescued(source: Source, rescue: bool) -> Source:
    if not rescue:
        return source
    from blocksync.sources.rescue import RescueSource

    return RescueSource(source)


def tracked(source: Source, path: str, options: EstimateOptions) -> None:
    """Let the device below a path tell what changes, where it keeps track by itself and nothing has to be made."""
    from blocksync.errors import ChangesUnknownError
    from blocksync.snapshots.tracking import device_tracker

    if source.tracker is not None:
        return
    try:
        source.tracker = device_tracker(path)
    except ChangesUnknownError as error:
        if options.progress is not None:
            options.progress(Progress(stage="watching", slot=options.slot, message=error.message))


@contextlib.contextmanager
def opened_together(sources: Sequence[str], *, rescue: bool) -> Iterator[list[Source]]:
    """All of them as they are."""
    from blocksync.sources import open_source

    with contextlib.ExitStack() as exits:
        yield [rescued(exits.enter_context(open_source(source)), rescue) for source in sources]


@contextlib.contextmanager
def sent(sources: Sequence[str | Source], options: SendOptions) -> Iterator[list[Source]]:
    """All sources of a transfer, with snapshots of one instant below those that are named by a path."""
    from blocksync.snapshots import SHADOWS_FOLDER, Wishes, take

    def say(message: str) -> None:
        if options.progress is not None:
            options.progress(Progress(stage="snapshot", slot=options.slot, message=message))

    wishes = Wishes(
        size=options.snapshot_bytes,
        track=options.track,
        say=say,
        shadows=prepare(options.state_dir) / SHADOWS_FOLDER,
    )
    named = [source for source in sources if isinstance(source, str)]
    with take(named, options.snapshot, wishes) as opened:
        waiting = iter(opened)
        disks = [next(waiting) if isinstance(source, str) else source for source in sources]
        yield [rescued(disk, options.rescue) for disk in disks]


@contextlib.contextmanager
def reached(options: SendOptions | VerifyOptions | EstimateOptions, cancel: Cancel) -> Iterator[Reach]:
    from blocksync.engine.reach import Reach as Reached

    reach = Reached(prepare(options.state_dir), options.to, options.code, options.ask_code, cancel=cancel)
    try:
        yield reach
    finally:
        reach.close()


def look_first(sources: Sequence[Source], reach: Reach, options: SendOptions) -> None:
    """The quick part of the preflight: refuse for errors, tell the rest."""
    from blocksync.preflight.findings import as_error, told
    from blocksync.preflight.quick import quick_findings

    size = sum(source.size for source in sources)
    for finding in quick_findings(
        [source.name for source in sources], size, reach.address, prepare(options.state_dir)
    ):
        if finding.exit_code:
            raise as_error(finding)
        if options.progress is not None:
            options.progress(Progress(stage="checking", slot=options.slot, size=size, message=told(finding)))
