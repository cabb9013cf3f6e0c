"""The public face: what an agent imports and what the command calls.

Blocking functions for threads, ``a``-functions for asyncio. Each takes a frozen options dataclass, reports through
its ``progress`` callback, and can be told to stop by a :class:`Cancel` (or by cancelling the task); stopping leaves
everything resumable. Errors are :class:`blocksync.errors.BlocksyncError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import default_state_dir, prepare
from blocksync.errors import TrustError
from blocksync.estimate.results import BenchOptions, BenchResult, EstimateOptions, EstimateResult
from blocksync.limits import Limits, RateWindow, Schedule
from blocksync.options import (
    BootOptions,
    CopyOptions,
    Digest,
    DiskOutcome,
    DiskSpec,
    FlattenOptions,
    FlattenResult,
    GroupResult,
    Listening,
    Progress,
    ReceiveOptions,
    ReceiveResult,
    SendOptions,
    SendResult,
    TargetSpec,
    TransferEvent,
    TransferOptions,
    VerifyOptions,
    VerifyResult,
)
from blocksync.preflight.findings import Finding
from blocksync.preflight.results import CheckOptions, CheckResult
from blocksync.sources.base import Source
from blocksync.transfers.figures import TransferResult, TransferStatus
from blocksync.transfers.receipt import ReceiptInfo

if TYPE_CHECKING:
    from blocksync.engine.reach import Reach
    from blocksync.flatten.boottest import BootReport
    from blocksync.flatten.check import Leftover
    from blocksync.flatten.outlook import Outlook
    from blocksync.flatten.repair import RepairReport
    from blocksync.volumes.layout import Layout

__all__ = [
    "BenchOptions",
    "BenchResult",
    "BootOptions",
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
    "FlattenOptions",
    "FlattenResult",
    "GroupResult",
    "Limits",
    "Listening",
    "ManifestInfo",
    "PeerInfo",
    "Progress",
    "RateWindow",
    "ReceiptInfo",
    "ReceiveOptions",
    "ReceiveResult",
    "Schedule",
    "SendOptions",
    "SendResult",
    "Source",
    "TargetSpec",
    "TransferEvent",
    "TransferOptions",
    "TransferResult",
    "TransferStatus",
    "VerifyOptions",
    "VerifyResult",
    "abench",
    "aestimate",
    "areceive",
    "asend",
    "atransfer",
    "averify",
    "bench",
    "boot_test",
    "check",
    "check_flattened",
    "clean_snapshots",
    "copy",
    "default_state_dir",
    "delete_transfer",
    "estimate",
    "flatten",
    "inspect",
    "kept_snapshots",
    "limit_transfer",
    "manifests",
    "peers",
    "plan_flatten",
    "rebuild",
    "receive",
    "repair_flattened",
    "revoke",
    "send",
    "send_disks",
    "stop_transfer",
    "transfer",
    "transfer_flattened",
    "transfers",
    "verify",
    "verify_receipt",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A sender that may use some slots.

    Args:
        name: that it gave itself when it paired.
        slots: that it may use.
        fingerprint: hex SHA-256 of its certificate.
        since: seconds since 1970, by the receiver's clock.
    """

    name: str
    fingerprint: str
    slots: tuple[str, ...]
    since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestInfo:
    """A slot's durable state.

    Args:
        slot: its name.
        size: of the disk, bytes.
        block_bytes: unit of identity.
        digest: ``xxh3`` or ``blake3``.
        generation: committed passes.
        pass_open: whether there are claims beyond the last commit.
        known_bytes: of blocks that are claimed.
        epoch: of the last session.
        manifest_bytes: that the manifest takes on disk.
        source_identity: of the disk that was sent.
        root: hex, of the digest tree.
    """

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
        offered = reach.slots_patiently([disk.slot for disk in disks], options, token)
        slots = match_slots([(disk.source, disk.slot) for disk in disks], offered)
        members = [Member(source=source, slot=slot) for source, slot in zip(sources, slots, strict=True)]
        return Group(members, lambda slot: reach.route(slot, own=True), options, token).run()


def transfer(
    disks: Sequence[DiskSpec], options: TransferOptions, *, cancel: Cancel | None = None
) -> TransferResult:
    """Work on a transfer: one pass, or passes until they are short, and the final one with the source standing still.

    Its states are kept in the sender's state folder (:func:`transfers`), where other processes can stop it and change
    its limits (:func:`stop_transfer`, :func:`limit_transfer`). One process works on a source at a time.

    Args:
        disks: at least one.

    Raises:
        NotConvergingError: passes do not get as short as was asked for.
        QuietError: the source could not be made to stand still, or did not stay so.
        TransferRunningError: another process sends one of the sources.
        BlocksyncError: as :func:`send` and :func:`send_disks`.
    """
    from blocksync.engine.group import match_slots
    from blocksync.engine.operation import Operation

    token = cancel or Cancel()
    names = [disk.source for disk in disks]
    rescue = options.send.rescue
    with contextlib.ExitStack() as exits:
        # A source that cannot be opened is told before anybody is asked for a pairing code.
        with _opened_together(names, rescue=rescue) as sources:
            reach = exits.enter_context(_reached(options.send))
            _look_first(sources, reach, options.send)
        offered = reach.slots_patiently([disk.slot for disk in disks], options.send, token)
        slots = match_slots([(disk.source, disk.slot) for disk in disks], offered)
        return Operation(
            state=prepare(options.send.state_dir),
            reach=reach,
            opening=lambda: _sent(names, dataclasses.replace(options.send, snapshot="none")),
            snapshots=lambda: _sent(names, options.send),
            disks=[DiskSpec(source=name, slot=slot) for name, slot in zip(names, slots, strict=True)],
            options=options,
            cancel=token,
        ).run()


def verify_receipt(
    path: Path, *, sender: str | None = None, receiver: str | None = None, state_dir: Path | None = None
) -> ReceiptInfo:
    """Check a receipt: its form, both signatures, and whose keys they are.

    Args:
        sender, receiver: fingerprints (at least 16 hex digits of their beginnings) that the keys must have.
        state_dir: whose pins and grants say who is known here.

    Raises:
        ReceiptError: it is not what both ends signed, or they were others.
    """
    from blocksync.engine.receipts import inspect_receipt

    return inspect_receipt(path, sender=sender, receiver=receiver, state=prepare(state_dir))


def transfer_flattened(
    sources: Sequence[str], options: TransferOptions, flatten: FlattenOptions, *, cancel: Cancel | None = None
) -> tuple[TransferResult, FlattenResult]:
    """As :func:`transfer`, with each logical volume of some disks going to a standard partition of one target.

    Args:
        sources: paths of all disks of the volume groups, the one that boots first.
        options: ``send.slot`` names the target's slot.
        flatten: ``table``, ``grow``, ``encrypted``, ``names`` and ``repair`` are looked at.

    Raises:
        FlattenRefusedError: the layout, before anything is written; each reason has its class.
        BlocksyncError: as :func:`transfer`, and of the repair.
    """
    from blocksync.flatten.sending import transfer_flattened as worked

    rescue = options.send.rescue
    with contextlib.ExitStack() as exits:
        with _opened_together(sources, rescue=rescue) as disks:
            reach = exits.enter_context(_reached(options.send))
            _look_first(disks, reach, options.send)
        return worked(
            lambda: _opened_together(sources, rescue=rescue),
            prepare(options.send.state_dir),
            reach,
            options,
            flatten,
            cancel or Cancel(),
            still=lambda paths: _sent(paths, dataclasses.replace(options.send, snapshot="none")),
            moving=lambda paths: _sent(paths, options.send),
        )


async def atransfer(disks: Sequence[DiskSpec], options: TransferOptions) -> TransferResult:
    """:func:`transfer` for asyncio; cancelling the task stops it and leaves it resumable."""
    return await _in_thread(lambda cancel: transfer(disks, options, cancel=cancel))


def transfers(state_dir: Path | None = None) -> list[TransferStatus]:
    """This sender's transfers, oldest first; idle ones whose validity is over expire here.

    Raises:
        StateError: the state folder cannot be read.
    """
    from blocksync.engine.transfers import list_transfers

    return list_transfers(prepare(state_dir))


def stop_transfer(which: str, state_dir: Path | None = None, *, final: bool = False) -> TransferStatus:
    """Stop a transfer, resumably; or let a running one make its final pass now.

    Args:
        which: the beginning of its id, or its source.

    Raises:
        TransferUnknownError: none or several are meant, or a final pass is asked of one that is not running.
    """
    from blocksync.engine.transfers import stop

    return stop(prepare(state_dir), which, final=final)


def delete_transfer(which: str, state_dir: Path | None = None) -> TransferStatus:
    """Remove what the sender keeps of a transfer: its record, receipt and copies of manifests.

    The receiver's slot is not touched.

    Raises:
        TransferRunningError: it is running.
        TransferUnknownError: none or several are meant.
    """
    from blocksync.engine.transfers import delete

    return delete(prepare(state_dir), which)


def limit_transfer(which: str, changes: Mapping[str, object], state_dir: Path | None = None) -> Limits:
    """Change what a running transfer may take.

    Args:
        which: the beginning of its id, its source, or empty for the only one that is running.
        changes: fields of :class:`Limits` and their new values.

    Returns:
        the limits that hold now.

    Raises:
        TransferUnknownError: it is not running, or several are.
        SourceError: a latency is to be kept to that the system does not tell.
    """
    from blocksync.engine.transfers import limit

    return limit(prepare(state_dir), which, changes)


def receive(options: ReceiveOptions, *, cancel: Cancel | None = None) -> ReceiveResult:
    """Offer targets to paired senders until cancelled (or, with ``once``, until each has a committed pass).

    Raises:
        TargetRefusedError: a target is not fit to be written (rule 9 of the design).
        NetworkError: a port is in use.
        BlocksyncError: others.
    """
    from blocksync.engine.serving import Serving
    from blocksync.flatten.dividing import Dividing

    token = cancel or Cancel()
    state = prepare(options.state_dir)
    dividing = Dividing(state, mend=options.repair, boot=options.boot_test)
    with contextlib.closing(Serving(options, state, dividing)) as serving:
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


def flatten(
    sources: Sequence[str], target: str, options: FlattenOptions | None = None, *, cancel: Cancel | None = None
) -> FlattenResult:
    """Make one pass from disks with LVM to a target with standard partitions, and repair the system there.

    Args:
        sources: paths of all disks of the volume groups, the one that boots first.

    Raises:
        FlattenRefusedError: the layout, before anything is written; each reason has its class.
        BlocksyncError: as :func:`copy`.
    """
    from blocksync.flatten.local import flatten_disks

    wanted = options or FlattenOptions()
    with _opened_together(sources, rescue=False) as disks:
        return flatten_disks(disks, target, prepare(wanted.state_dir), wanted, cancel or Cancel())


def plan_flatten(sources: Sequence[str], options: FlattenOptions | None = None) -> Outlook:
    """What :func:`flatten` would make of some disks, and which files it would edit; nothing is written or mounted.

    Raises:
        FlattenRefusedError: the layout cannot be flattened; each reason has its class.
    """
    from blocksync.flatten.local import wishes_of
    from blocksync.flatten.outlook import outlook
    from blocksync.flatten.sources import plan_for

    with _opened_together(sources, rescue=False) as disks:
        return outlook(disks, plan_for(disks, wishes_of(options or FlattenOptions())))


def repair_flattened(
    target: str,
    *,
    dry_run: bool = False,
    rebuild_initramfs: bool = False,
    skip: Sequence[str] = (),
    state_dir: Path | None = None,
) -> RepairReport:
    """Repair the system on a target that was flattened before; what it was made from is written down in it.

    Args:
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
    with open_target(target, overwrite=True, state_dir=state_dir) as disk:
        return repair(disk, None, wishes)


def check_flattened(target: str) -> list[Leftover]:
    """Whatever on a target still names volumes that are gone, and what will happen because of it.

    Raises:
        FlattenError: there is no system on it, or it cannot be reached.
    """
    from blocksync.flatten.check import check_target

    return check_target(target)


def boot_test(target: str, options: BootOptions | None = None, *, cancel: Cancel | None = None) -> BootReport:
    """Boot a throw-away overlay of a target in QEMU and say how far it comes; nothing of the target is written.

    Raises:
        BootTestError: the boot cannot be tried here. A boot that fails is a result, not an error.
    """
    from blocksync.flatten.boottest import boot_test as tried
    from blocksync.flatten.system import firmware_of

    wanted = options or BootOptions()
    token = cancel or Cancel()
    return tried(
        target,
        firmware=wanted.firmware or firmware_of(target),
        folder=wanted.folder or Path(f"{Path(target).name}.boot-test"),
        seconds=wanted.seconds,
        memory_mib=wanted.memory_mib,
        stopped=token.is_set,
    )


def verify(source: str | Source, options: VerifyOptions, *, cancel: Cancel | None = None) -> VerifyResult:
    """Read both sides whole and compare keyed BLAKE3; nothing of the manifests is trusted.

    Raises:
        BlocksyncError: when it could not be found out. A difference is a result, not an error.
    """
    from blocksync.engine.verify import Verifier

    token = cancel or Cancel()
    with _opened(source) as disk, _reached(options) as reach:
        try:
            return Verifier(
                disk,
                reach.control,
                options.slot,
                options.progress,
                token,
                all_blocks=options.all_blocks,
                exclude=options.exclude,
            ).run()
        except TrustError as error:
            if not reach.pair_again(error):
                raise
            return Verifier(
                disk,
                reach.control,
                options.slot,
                options.progress,
                token,
                all_blocks=options.all_blocks,
                exclude=options.exclude,
            ).run()


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
    with _opened(source) as disk:
        return Bench(disk, wanted, token).run()


async def abench(source: str | Source | None = None, options: BenchOptions | None = None) -> BenchResult:
    """:func:`bench` for asyncio."""
    return await _in_thread(lambda cancel: bench(source, options, cancel=cancel))


async def aestimate(source: str | Source, options: EstimateOptions | None = None) -> EstimateResult:
    """:func:`estimate` for asyncio."""
    return await _in_thread(lambda cancel: estimate(source, options, cancel=cancel))


async def averify(source: str | Source, options: VerifyOptions) -> VerifyResult:
    """:func:`verify` for asyncio."""
    return await _in_thread(lambda cancel: verify(source, options, cancel=cancel))


def clean_snapshots(*, kept: bool = False) -> list[str]:
    """Undo what transfers that died have left on this machine: suspended volumes, frozen filesystems, snapshots, rules.

    Args:
        kept: also remove the snapshots that are kept for the next pass; it will then compare everything.

    Returns:
        what was done, a line each.

    Raises:
        SnapshotError: something could not be undone; the rest is.
    """
    from blocksync.platforms.automation import clean as clean_rules
    from blocksync.snapshots.cleaning import clean

    done = [f"removed {path}, which kept udev from a target" for path in clean_rules()]
    return done + clean(kept=kept)


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
def _opened_together(sources: Sequence[str], *, rescue: bool) -> Iterator[list[Source]]:
    """All of them as they are."""
    from blocksync.sources import open_source

    with contextlib.ExitStack() as exits:
        yield [_rescued(exits.enter_context(open_source(source)), rescue) for source in sources]


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
