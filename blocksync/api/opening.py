"""How calls reach what they work on: sources, snapshots below them, the receiver, and what is looked at before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from blocksync.engine.statedir import prepare
from blocksync.errors import BlocksyncError, InterruptedTransferError
from blocksync.estimate.results import EstimateOptions
from blocksync.options import SendOptions, VerifyOptions
from blocksync.results import Progress
from blocksync.sources.base import Source

if TYPE_CHECKING:
    from blocksync.engine.cancel import Cancel
    from blocksync.engine.reach import Reach


@contextlib.contextmanager
def opened(source: str | Source, cancel: Cancel, *, rescue: bool = False) -> Iterator[Source]:
    if isinstance(source, str):
        with _open(source, cancel) as disk:
            yield rescued(disk, rescue)
    else:
        yield rescued(source, rescue)


@contextlib.contextmanager
def told_as_stopped(cancel: Cancel) -> Iterator[None]:
    """Whoever stopped a wait is told that it was stopped, and not how it looked from within.

    Raises:
        InterruptedTransferError: cancelled, and so something failed.
    """
    try:
        yield
    except InterruptedTransferError:
        raise
    except BlocksyncError as error:
        cancel.check(error)
        raise


def _open(path: str, cancel: Cancel) -> Source:
    """What is opened so is given up when cancelled, and so is a wait for it."""
    from blocksync.sources import open_source

    with told_as_stopped(cancel):
        return open_source(path, cancel.watching)


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
def opened_together(sources: Sequence[str], cancel: Cancel, *, rescue: bool) -> Iterator[list[Source]]:
    """All of them as they are."""
    with contextlib.ExitStack() as exits:
        yield [rescued(exits.enter_context(_open(source, cancel)), rescue) for source in sources]


@contextlib.contextmanager
def sent(sources: Sequence[str | Source], options: SendOptions, cancel: Cancel) -> Iterator[list[Source]]:
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
        watching=cancel.watching,
    )
    named = [source for source in sources if isinstance(source, str)]
    with contextlib.ExitStack() as exits:
        with told_as_stopped(cancel):
            waiting = iter(exits.enter_context(take(named, options.snapshot, wishes)))
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


def look_first(sources: Sequence[Source], options: SendOptions, cancel: Cancel) -> None:
    """The quick part of the preflight: refuse for errors, tell the rest.

    It needs no pairing: nobody is asked for a code where it is known already that nothing will come of it.
    """
    from blocksync.engine.reach import parse_address
    from blocksync.preflight.findings import as_error, told
    from blocksync.preflight.quick import quick_findings

    size = sum(source.size for source in sources)
    names = [source.name for source in sources]
    for finding in quick_findings(names, size, parse_address(options.to), prepare(options.state_dir), cancel):
        if finding.exit_code:
            raise as_error(finding)
        if options.progress is not None:
            options.progress(Progress(stage="checking", slot=options.slot, size=size, message=told(finding)))
    cancel.check()


def refuse_itself(source: Source, to: str, cancel: Cancel) -> None:
    """A disk is not measured against itself, nor called identical with itself.

    Raises:
        TargetRefusedError: the receiver is on this machine, and the source is one of its targets.
    """
    import http.client

    from blocksync.engine.reach import parse_address
    from blocksync.preflight.findings import TARGET_ITSELF, as_error
    from blocksync.preflight.network import greet, hello_findings

    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        answer = greet(*parse_address(to), [source.name], cancel)
        for finding in hello_findings(answer, to):
            if finding.code == TARGET_ITSELF.code:
                raise as_error(finding)
    cancel.check()
