"""Passes, transfers and their proof: what reads a disk here and writes it there."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from blocksync.api.opening import look_first, opened, opened_together, reached, refuse_itself, sent, told_as_stopped
from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import local_folder, prepare
from blocksync.errors import TrustError
from blocksync.options import (
    CopyOptions,
    DiskSpec,
    FlattenOptions,
    ReceiveOptions,
    SendOptions,
    TransferOptions,
    VerifyOptions,
)
from blocksync.results import FlattenResult, GroupResult, ReceiveResult, SendResult, VerifyResult
from blocksync.sources.base import Source
from blocksync.transfers.figures import TransferResult


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
    with reached(options, token) as reach, sent([source], options, token) as (disk,):
        look_first([disk], options, token)
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
    with reached(options, token) as reach, sent(names, options, token) as sources:
        look_first(sources, options, token)
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
        with opened_together(names, token, rescue=rescue) as sources:
            look_first(sources, options.send, token)
            reach = exits.enter_context(reached(options.send, token))
        offered = reach.slots_patiently([disk.slot for disk in disks], options.send, token)
        slots = match_slots([(disk.source, disk.slot) for disk in disks], offered)
        return Operation(
            state=prepare(options.send.state_dir),
            reach=reach,
            opening=lambda: sent(names, dataclasses.replace(options.send, snapshot="none"), token),
            snapshots=lambda: sent(names, options.send, token),
            disks=[DiskSpec(source=name, slot=slot) for name, slot in zip(names, slots, strict=True)],
            options=options,
            cancel=token,
        ).run()


def transfer_flattened(
    sources: Sequence[str], options: TransferOptions, flatten: FlattenOptions, *, cancel: Cancel | None = None
) -> tuple[TransferResult, FlattenResult]:
    """As :func:`transfer`, with each logical volume of some disks going to a standard partition of a target.

    Args:
        sources: paths of all disks of the volume groups, the one that boots first.
        options: ``send.slot`` names the target's slot, the first one's of several; the others are ``flatten.onto``.
        flatten: ``table``, ``grow``, ``encrypted``, ``names``, ``repair``, ``onto`` and ``place`` are looked at.

    Raises:
        FlattenRefusedError: the layout, before anything is written; each reason has its class.
        BlocksyncError: as :func:`transfer`, and of the repair.
    """
    from blocksync.flatten.sending import transfer_flattened as worked

    rescue = options.send.rescue
    token = cancel or Cancel()
    with contextlib.ExitStack() as exits:
        with opened_together(sources, token, rescue=rescue) as disks:
            look_first(disks, options.send, token)
            reach = exits.enter_context(reached(options.send, token))
        return worked(
            lambda: opened_together(sources, token, rescue=rescue),
            prepare(options.send.state_dir),
            reach,
            options,
            flatten,
            token,
            still=lambda paths: sent(paths, dataclasses.replace(options.send, snapshot="none"), token),
            moving=lambda paths: sent(paths, options.send, token),
        )


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
    with told_as_stopped(token):
        made = Serving(options, state, dividing, token.watching)
    with contextlib.closing(made) as serving:
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
    state = prepare(wanted.state_dir)
    division = None
    if wanted.remove_excluded:
        from blocksync.flatten.dividing import Dividing

        division = Dividing(local_folder(state, target))
    token = cancel or Cancel()
    with opened(source, token, rescue=wanted.rescue) as disk, told_as_stopped(token):
        return copy_disk(disk, target, state, wanted, token, division)


def verify(source: str | Source, options: VerifyOptions, *, cancel: Cancel | None = None) -> VerifyResult:
    """Read both sides whole and compare keyed BLAKE3; nothing of the manifests is trusted.

    Raises:
        BlocksyncError: when it could not be found out. A difference is a result, not an error.
    """
    from blocksync.engine.verify import Verifier

    token = cancel or Cancel()
    with contextlib.ExitStack() as exits:
        exits.enter_context(told_as_stopped(token))
        disk = exits.enter_context(opened(source, token))
        refuse_itself(disk, options.to, token)
        reach = exits.enter_context(reached(options, token))
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
