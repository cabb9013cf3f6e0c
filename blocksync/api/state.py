"""What the state folder keeps: transfers, receipts, known peers, manifests; and snapshots that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blocksync.api.opening import told_as_stopped
from blocksync.engine.cancel import Cancel
from blocksync.engine.statedir import prepare
from blocksync.limits import Limits
from blocksync.results import Progress
from blocksync.transfers.figures import TransferStatus
from blocksync.transfers.receipt import ReceiptInfo


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
    slot: str,
    target: str,
    state_dir: Path | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> ManifestInfo:
    """Make a slot's manifest anew by reading its target, when its state was damaged or lost.

    Args:
        slot: its name.
        target: the target's path.
        progress: told how far it is, from this thread.
        cancel: stops it after the chunk that is being read; the same call begins anew.

    Raises:
        InterruptedTransferError: it was cancelled.
        BlocksyncError: the target or the state cannot be used.
    """
    from blocksync.engine.inventory import rebuild_slot

    token = cancel or Cancel()
    with told_as_stopped(token):
        return ManifestInfo(**rebuild_slot(prepare(state_dir), slot, target, progress, token))


def clean_snapshots(*, kept: bool = False, state_dir: Path | None = None) -> list[str]:
    """Undo what transfers that died have left on this machine: suspended volumes, frozen filesystems, snapshots, rules.

    Args:
        kept: also remove the snapshots that are kept for the next pass; it will then compare everything.
        state_dir: where shadow copies are noted; None for the system's.

    Returns:
        what was done, a line each.

    Raises:
        SnapshotError: something could not be undone; the rest is.
    """
    from blocksync.platforms.automation import clean as clean_rules
    from blocksync.snapshots import SHADOWS_FOLDER
    from blocksync.snapshots.cleaning import clean
    from blocksync.snapshots.shadowing import clean_shadows

    done = [f"removed {path}, which kept udev from a target" for path in clean_rules()]
    done += clean(kept=kept)
    return done + clean_shadows(prepare(state_dir) / SHADOWS_FOLDER)


def kept_snapshots() -> list[str]:
    """The snapshots that are kept on this machine to tell next passes what changed.

    Raises:
        SnapshotError: LVM does not answer.
    """
    from blocksync.snapshots.cleaning import kept_snapshots as listed

    return listed()
