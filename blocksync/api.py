"""The public face: what an agent imports and what the command calls.

Blocking functions for threads, ``a``-functions for asyncio. Each takes a frozen options dataclass, reports through
its ``progress`` callback, and can be told to stop by a :class:`Cancel` (or by cancelling the task); stopping leaves
everything resumable. Errors are :class:`blocksync.errors.BlocksyncError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import default_state_dir, prepare
from blocksync.errors import TrustError
from blocksync.estimate.results import EstimateOptions, EstimateResult
from blocksync.options import (
    CopyOptions,
    Digest,
    DiskOutcome,
    DiskSpec,
    GroupResult,
    Listening,
    Progress,
    ReceiveOptions,
    ReceiveResult,
    SendOptions,
    SendResult,
    TargetSpec,
    VerifyOptions,
    VerifyResult,
)
from blocksync.preflight.findings import Finding
from blocksync.preflight.results import CheckOptions, CheckResult
from blocksync.sources.base import Source

if TYPE_CHECKING:
    from blocksync.engine.reach import Reach
    from blocksync.volumes.layout import Layout

__all__ = [
    "Cancel",
    "CheckOptions",
    "CheckResult",
    "CopyOptions",
    "Digest",
    "DiskOutcome",
    "DiskSpec",
    "EstimateOptions",
    "EstimateResult",
    "Finding",
    "GroupResult",
    "Listening",
    "ManifestInfo",
    "PeerInfo",
    "Progress",
    "ReceiveOptions",
    "ReceiveResult",
    "SendOptions",
    "SendResult",
    "Source",
    "TargetSpec",
    "VerifyOptions",
    "VerifyResult",
    "aestimate",
    "areceive",
    "asend",
    "averify",
    "check",
    "clean_snapshots",
    "copy",
    "default_state_dir",
    "estimate",
    "inspect",
    "kept_snapshots",
    "manifests",
    "peers",
    "rebuild",
    "receive",
    "revoke",
    "send",
    "send_disks",
    "verify",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A sender that may use some slots.

    Args:
        fingerprint: hex SHA-256 of its certificate.
        since: seconds since 1970, by the receiver's clock.
    """

    name: str
    fingerprint: str
    slots: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestInfo:
    """A slot's durable state; sizes in bytes, root and identities as text."""

    slot: str
    size: int
    block_bytes: int
    digest: str
    generation: int
    pass_open: bool
    known_bytes: int
    epoch: int
    manifest_bytes: int
    source_identity: str
    root: str


def send(source: str | Source, options: SendOptions, *, cancel: Cancel | None = None) -> SendResult:
    """Make one pass from a source to a receiver's slot; resumes what was interrupted, sends only what changed.

    Args:
        source: a path, or an open source, which stays the caller's to close.

    Returns:
        what was transferred. *Transferred* is not *identical*: see :func:`verify`.

    Raises:
        BlocksyncError: each with its exit code and remedy.
    """
    from blocksync.engine.sender import Sender

    token = cancel or Cancel()
    with _reached(options) as reach, _sent([source], options) as (disk,):
        _look_first([disk], reach, options)
        with reach.route(options.slot) as route:
            try:
                return Sender(disk, route, options, token).run()
            except TrustError as error:
                if not reach.pair_again(error):
                    raise
        with reach.route(options.slot) as route:
            return Sender(disk, route, options, token).run()


def send_disks(disks: Sequence[DiskSpec], options: SendOptions, *, cancel: Cancel | None = None) -> GroupResult:
    """Make one pass of several disks of this machine as one transfer.

    A disk that fails does not stop the others, and each one's state advances by itself.

    Args:
        disks: at least one; ``options.slot`` is not looked at.

    Raises:
        GroupIncompleteError: some disks failed; its ``outcomes`` say what became of each.
        BlocksyncError: as :func:`send`.
    """
    from blocksync.engine.group import Group, Member, match_slots

    token = cancel or Cancel()
    names = [disk.source for disk in disks]
    with _reached(options) as reach, _sent(names, options) as sources:
        _look_first(sources, reach, options)
        slots = match_slots([(disk.source, disk.slot) for disk in disks], reach.slots())
        members = [Member(source=source, slot=slot) for source, slot in zip(sources, slots, strict=True)]
        return Group(members, lambda slot: reach.route(slot, own=True), options, token).run()


def receive(options: ReceiveOptions, *, cancel: Cancel | None = None) -> ReceiveResult:
    """Offer targets to paired senders until cancelled (or, with ``once``, until each has a committed pass).

    Raises:
        TargetRefusedError: a target is not fit to be written (rule 9 of the design).
        NetworkError: a port is in use.
        BlocksyncError: others.
    """
    from blocksync.engine.serving import Serving

    token = cancel or Cancel()
    with contextlib.closing(Serving(options, prepare(options.state_dir))) as serving:
        listening = serving.listening()
        if options.on_listening is not None:
            options.on_listening(listening)
        return serving.run(token)


def copy(
    source: str | Source, target: str, options: CopyOptions | None = None, *, cancel: Cancel | None = None
) -> SendResult:
    """One pass to a target on this machine: both ends in this process, with manifest, resume and refusals.

    Raises:
        BlocksyncError: as :func:`send` and :func:`receive`.
    """
    from blocksync.engine.local import copy_disk

    wanted = options or CopyOptions()
    with _opened(source, rescue=wanted.rescue) as disk:
        return copy_disk(disk, target, prepare(wanted.state_dir), wanted, cancel or Cancel())


def verify(source: str | Source, options: VerifyOptions, *, cancel: Cancel | None = None) -> VerifyResult:
    """Read both sides whole and compare keyed BLAKE3; nothing of the manifests is trusted.

    Raises:
        BlocksyncError: when it could not be found out. A difference is a result, not an error.
    """
    from blocksync.engine.verify import Verifier

    token = cancel or Cancel()
    with _opened(source) as disk, _reached(options) as reach:
        try:
            return Verifier(disk, reach.control, options.slot, options.progress, token).run()
        except TrustError as error:
            if not reach.pair_again(error):
                raise
            return Verifier(disk, reach.control, options.slot, options.progress, token).run()


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
        disk = exits.enter_context(_opened(source))
        reach = exits.enter_context(_reached(wanted)) if wanted.to else None
        try:
            return Estimator(disk, reach, wanted, token).run()
        except TrustError as error:
            if reach is None or not reach.pair_again(error):
                raise
            return Estimator(disk, reach, wanted, token).run()


def check(options: CheckOptions) -> CheckResult:
    """Look for what would stop or spoil a transfer, on this end and on the way to the receiver; nothing is changed.

    Faults of the world are findings, not errors.
    """
    from blocksync.preflight.checker import check as look

    return look(options)


async def asend(source: str | Source, options: SendOptions) -> SendResult:
    """:func:`send` for asyncio; cancelling the task stops the pass and leaves it resumable."""
    return await _in_thread(lambda cancel: send(source, options, cancel=cancel))


async def areceive(options: ReceiveOptions) -> ReceiveResult:
    """:func:`receive` for asyncio; cancelling the task closes the ports."""
    return await _in_thread(lambda cancel: receive(options, cancel=cancel))


async def aestimate(source: str | Source, options: EstimateOptions | None = None) -> EstimateResult:
    """:func:`estimate` for asyncio."""
    return await _in_thread(lambda cancel: estimate(source, options, cancel=cancel))


async def averify(source: str | Source, options: VerifyOptions) -> VerifyResult:
    """:func:`verify` for asyncio."""
    return await _in_thread(lambda cancel: verify(source, options, cancel=cancel))


def clean_snapshots(*, kept: bool = False) -> list[str]:
    """Undo what transfers that died have left on this machine: suspended volumes, frozen filesystems, snapshots.

    Args:
        kept: also remove the snapshots that are kept for the next pass; it will then compare everything.

    Returns:
        what was done, a line each.

    Raises:
        SnapshotError: something could not be undone; the rest is.
    """
    from blocksync.snapshots.cleaning import clean

    return clean(kept=kept)


def kept_snapshots() -> list[str]:
    """The snapshots that are kept on this machine to tell next passes what changed.

    Raises:
        SnapshotError: LVM does not answer.
    """
    from blocksync.snapshots.cleaning import kept_snapshots as listed

    return listed()


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


def peers(state_dir: Path | None = None) -> list[PeerInfo]:
    """The senders that this receiver's state grants slots to."""
    from blocksync.trust.grants import Grants

    return [
        PeerInfo(name=grant.name, fingerprint=grant.fingerprint.hex(), slots=grant.slots, since=grant.since)
        for grant in Grants(prepare(state_dir)).peers()
    ]


def revoke(who: str, state_dir: Path | None = None) -> list[PeerInfo]:
    """Withdraw a peer's grant, also from a receiver that is running.

    Args:
        who: name, or at least four digits of the fingerprint.

    Raises:
        TrustError: nobody or several are meant.
    """
    from blocksync.trust.grants import Grants

    grant = Grants(prepare(state_dir)).revoke(who)
    return [PeerInfo(name=grant.name, fingerprint=grant.fingerprint.hex(), slots=grant.slots, since=grant.since)]


def manifests(state_dir: Path | None = None) -> list[ManifestInfo]:
    """What each slot of this receiver durably holds.

    Raises:
        StateBusyError: a receiver is running on this state.
        StateDamagedError: a slot's state is damaged.
    """
    from blocksync.engine.inventory import list_slots

    return [ManifestInfo(**facts) for facts in list_slots(prepare(state_dir))]


def rebuild(
    slot: str, target: str, state_dir: Path | None = None, *, progress: Callable[[Progress], None] | None = None
) -> ManifestInfo:
    """Make a slot's manifest anew by reading its target, when its state was damaged or lost.

    Args:
        slot: its name.
        target: the target's path.

    Raises:
        BlocksyncError: the target or the state cannot be used.
    """
    from blocksync.engine.inventory import rebuild_slot

    return ManifestInfo(**rebuild_slot(prepare(state_dir), slot, target, progress))


@contextlib.contextmanager
def _opened(source: str | Source, *, rescue: bool = False) -> Iterator[Source]:
    if isinstance(source, str):
        from blocksync.sources import open_source

        with open_source(source) as disk:
            yield _rescued(disk, rescue)
    else:
        yield _rescued(source, rescue)


def _rescued(source: Source, rescue: bool) -> Source:
    if not rescue:
        return source
    from blocksync.sources.rescue import RescueSource

    return RescueSource(source)


@contextlib.contextmanager
def _sent(sources: Sequence[str | Source], options: SendOptions) -> Iterator[list[Source]]:
    """All sources of a transfer, with snapshots of one instant below those that are named by a path."""
    from blocksync.snapshots import Wishes, take

    def say(message: str) -> None:
        if options.progress is not None:
            options.progress(Progress(stage="snapshot", slot=options.slot, message=message))

    wishes = Wishes(size=options.snapshot_bytes, track=options.track, say=say)
    named = [source for source in sources if isinstance(source, str)]
    with take(named, options.snapshot, wishes) as opened:
        waiting = iter(opened)
        disks = [next(waiting) if isinstance(source, str) else source for source in sources]
        yield [_rescued(disk, options.rescue) for disk in disks]


@contextlib.contextmanager
def _reached(options: SendOptions | VerifyOptions | EstimateOptions) -> Iterator[Reach]:
    from blocksync.engine.reach import Reach as Reached

    reach = Reached(prepare(options.state_dir), options.to, options.code, options.ask_code)
    try:
        yield reach
    finally:
        reach.close()


def _look_first(sources: Sequence[Source], reach: Reach, options: SendOptions) -> None:
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


async def _in_thread(work: Callable[[Cancel], T]) -> T:
    import asyncio

    cancel = Cancel()
    task = asyncio.ensure_future(asyncio.to_thread(work, cancel))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancel.set()
        # The thread closes its connections and files before the caller goes on.
        await asyncio.wait([task])
        task.exception()
        raise
