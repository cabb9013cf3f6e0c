"""Every exception blocksync raises on purpose, as one tree.

Callers match on classes, people read the text, scripts read the exit code: so each class carries its exit
code, a stable catalogue code, whether trying again can help, and a remedy in words that a person can act on.
Anything that escapes and is not a :class:`BlocksyncError` is a bug of ours.

::

    BlocksyncError                 1
    ├── UsageError                 2   the request itself makes no sense
    │   ├── KernelsError           2   the native kernels were insisted on and cannot be had
    │   └── PrivilegesError        2   --user cannot be followed
    ├── IncompleteError            3   stopped early; what is durable stays, the same command resumes
    │   ├── GroupIncompleteError   3   some disks of a transfer failed, others are committed
    │   └── NotConvergingError     3   passes do not get short on this link
    ├── SourceError                4
    │   ├── SnapshotError          4   a snapshot cannot be taken, or its view broke
    │   │   ├── SnapshotSpaceError    4
    │   │   ├── SnapshotOverflowError 4
    │   │   └── ShadowCopyError       4   VSS makes or removes no shadow copy
    │   ├── ChangesUnknownError    4   change tracking cannot say; told, then everything is read
    │   ├── NbdSourceError         4   an NBD server answered, and the answer is an error
    │   ├── NbdSourceLostError     4   an NBD server cannot be reached, or went away
    │   └── NbdSourceProtocolError 4   what an NBD server sent is no NBD
    │   └── QuietError             4   the source could not be made quiet, or did not stay so
    ├── TargetError                5
    │   ├── NbdTargetError         5
    │   ├── NbdTargetLostError     5
    │   ├── NbdTargetProtocolError 5
    │   ├── TargetRefusedError     5   rule 9: too small, mounted, held, not consented to
    │   └── TargetSyncError        5   a sync failed; the window is unknown
    ├── StateError                 6
    │   ├── StateDamagedError      6   a checksum in durable state does not match
    │   ├── StateBusyError         6   another process of ours holds it
    │   │   └── TransferRunningError 6 another process works on this transfer or source
    │   └── TransferUnknownError   6   none or several transfers are meant
    ├── PeerError                  7   the peer answered, and the answer is no
    │   ├── ProtocolError          7   bytes that are no frame of ours
    │   ├── VersionSkewError       7
    │   ├── SlotBusyError          7   somebody else is sending to this slot
    │   ├── SlotPreparingError     7   the target is being re-hashed; ask again
    │   └── ReceiverFullError      7   too many senders at a time; ask again
    ├── NetworkError               8
    ├── IntegrityError             9   digests differ where they must not
    │   └── ReceiptError           9   a receipt is not what both ends signed
    ├── LayoutError               10   partition tables, LVM metadata, filesystems
    │   ├── LayoutDamagedError    10   a checksum or a bound does not hold
    │   ├── LayoutUnknownError    10   a kind, version or feature that is not read here
    │   ├── VolumeMissingError    10   no volume of that name
    │   ├── VolumeIncompleteError 10   a physical volume is missing, or the group is exported
    │   ├── VolumeUnsettledError  10   pvmove, merge, reshape or resync is under way, or legs are out of sync
    │   ├── SnapshotInvalidError  10   a snapshot overflowed
    │   └── FilesystemDirtyError  10   not cleanly unmounted: its allocation map may lag behind
    ├── FlattenError              11
    │   ├── FlattenRefusedError   11   the layout cannot be flattened as it is; one class a reason
    │   │   ├── FlattenMissingError, FlattenExportedError, FlattenMotionError, FlattenUnsyncedError,
    │   │   │   FlattenCacheError, FlattenVdoError, FlattenEncryptedError, FlattenSectorError,
    │   │   └── FlattenSpaceError, FlattenTableError, FlattenChangedError, FlattenNothingError
    │   ├── GuestFileError        11   a file of the system is not what it should be
    │   ├── GuestPathError        11   a path inside the system leads nowhere that may be written
    │   ├── GuestMountError       11   a filesystem of the target cannot be reached
    │   ├── BootLoaderError       11
    │   ├── BootTestError         11   the boot could not be tried
    │   └── BootFailedError       11   it was tried, and the system did not come up
    ├── TrustError                12   identity, pairing, grants
    └── InterruptedTransferError 130   the user (or the agent) said stop
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar


class BlocksyncError(Exception):
    """Base of all deliberate errors.

    Args:
        message: what happened, in one line, without a trailing period.
        remedy: what the reader can do next; the class's default when left out.
        safe: what is safe now (data, state), when that is worth saying.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "BS0001"
    retryable: ClassVar[bool] = False
    default_remedy: ClassVar[str] = "report this with the output of the same command and -v"

    def __init__(self, message: str, *, remedy: str | None = None, safe: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy if remedy is not None else self.default_remedy
        self.safe = safe

    def __str__(self) -> str:
        return self.message


class UsageError(BlocksyncError):
    exit_code = 2
    code = "BS0200"
    default_remedy = "see blocksync --help"


class PrivilegesError(UsageError):
    """``--user`` cannot be followed."""

    code = "BS1700"
    default_remedy = "see docs/TRUST.md, or leave --user out"


class KernelsError(UsageError):
    code = "BS0201"
    default_remedy = (
        "install Rust and reinstall with BLOCKSYNC_BUILD_NATIVE=yes pip install --force-reinstall --no-cache-dir; "
        "or unset BLOCKSYNC_KERNELS to use the Python kernels"
    )


class IncompleteError(BlocksyncError):
    exit_code = 3
    code = "BS0300"
    retryable = True
    default_remedy = "run the same command again: it resumes where the receiver's journal ends"


class GroupIncompleteError(IncompleteError):
    """Several disks went as one transfer, and not all of them arrived.

    Args:
        outcomes: what became of each disk (:class:`blocksync.results.DiskOutcome`), in the order they were given.
        causes: the errors of the disks that failed.
    """

    code = "BS1600"
    retryable = False
    default_remedy = "run the same command again: the disks that failed resume, the others send what changed"

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        safe: str | None = None,
        outcomes: tuple[object, ...] = (),
        causes: tuple[BlocksyncError, ...] = (),
    ) -> None:
        super().__init__(message, remedy=remedy, safe=safe)
        self.outcomes = outcomes
        self.causes = causes


class NotConvergingError(IncompleteError):
    code = "BS1601"
    retryable = False
    default_remedy = (
        "give it more bandwidth (--bwlimit, --connections), write less to the source, or accept a longer pause"
    )


class SourceError(BlocksyncError):
    exit_code = 4
    code = "BS0400"
    default_remedy = "check the path and that you may read it"


class SnapshotError(SourceError):
    code = "BS1400"
    default_remedy = "look at what lvs -a and dmsetup info say, or read the disk as it is with --live"


class SnapshotSpaceError(SnapshotError):
    code = "BS1401"
    default_remedy = "free space in the volume group (vgs), or read the disk as it is with --live"


class SnapshotOverflowError(SnapshotError):
    """Its view broke while it was read: nothing of the pass is committed."""

    code = "BS1402"
    default_remedy = "make it bigger with --snapshot-size, or send when less is written"


class ShadowCopyError(SnapshotError):
    """The Volume Shadow Copy Service of Windows said no; its number and name are in the message."""

    code = "BS1403"
    default_remedy = "look into the event log (VSS, volsnap), or read the disk as it is with --live"


class ChangesUnknownError(SourceError):
    """Never ends a pass: the engine says why, and compares everything by digests."""

    code = "BS1410"
    default_remedy = "nothing: everything is read and compared by digests"


class NbdSourceError(SourceError):
    code = "BS1500"
    default_remedy = "look at the NBD server's messages and at the image behind it"


class NbdSourceLostError(SourceError):
    code = "BS1501"
    retryable = True
    default_remedy = "check that the NBD server runs, its address, and the firewall"


class NbdSourceProtocolError(SourceError):
    code = "BS1502"
    default_remedy = "make sure that an NBD server answers at this address (qemu-nbd, nbdkit), and update it"


class UnreadableError(SourceError):
    """The medium fails: these bytes cannot be read, others perhaps can (see ``--rescue``)."""

    code = "BS0401"
    default_remedy = (
        "look at the kernel log for the disk's errors; --rescue sends what can be read and lists the rest"
    )


class QuietError(SourceError):
    """A hook failed, a filesystem could not be frozen, or was thawed before the final pass was over."""

    code = "BS1602"
    default_remedy = "use --pre-final and --post-final to stop and start what writes to the source"


class TargetError(BlocksyncError):
    exit_code = 5
    code = "BS0500"
    default_remedy = "check the target disk, then run the same command again"


class TargetRefusedError(TargetError):
    code = "BS0501"
    default_remedy = "choose another target, or free this one"


class TargetSyncError(TargetError):
    code = "BS0502"
    retryable = True
    default_remedy = "look at the kernel log for the disk's errors; the affected window will be sent again"


class NbdTargetError(TargetError):
    code = "BS1510"
    default_remedy = "look at the NBD server's messages and at the image behind it"


class NbdTargetLostError(TargetError):
    """What was written since the last sync may be gone with the server."""

    code = "BS1511"
    retryable = True
    default_remedy = "check that the NBD server runs, its address, and the firewall"


class NbdTargetProtocolError(TargetError):
    code = "BS1512"
    default_remedy = "make sure that an NBD server answers at this address (qemu-nbd, nbdkit), and update it"


class StateError(BlocksyncError):
    exit_code = 6
    code = "BS0600"
    default_remedy = "check the state folder's space and permissions, or name another with --state-dir"


class StateDamagedError(StateError):
    code = "BS0601"
    default_remedy = "make it anew by reading the target: blocksync manifest rebuild SLOT --target PATH"


class StateBusyError(StateError):
    code = "BS0602"
    default_remedy = "wait for the other process to end, or stop it"


class TransferRunningError(StateBusyError):
    code = "BS1603"
    default_remedy = "blocksync status shows it; blocksync stop stops it"


class TransferUnknownError(StateError):
    code = "BS1604"
    default_remedy = "blocksync status lists the transfers; name one by its id or its source"


class PeerError(BlocksyncError):
    exit_code = 7
    code = "BS0700"
    default_remedy = "look at the other end's messages"


class ProtocolError(PeerError):
    code = "BS0701"
    default_remedy = "make sure that both ports belong to blocksync and both ends run the same version"


class VersionSkewError(PeerError):
    code = "BS0702"
    default_remedy = "install the same version of blocksync-engine on both ends"


class SlotBusyError(PeerError):
    code = "BS0703"
    default_remedy = "wait until the other sender has ended, or name another slot with --slot"


class SlotPreparingError(PeerError):
    """The receiver is re-hashing the target; it can be asked again."""

    code = "BS0704"
    retryable = True
    default_remedy = "wait: the sender asks again by itself"


class ReceiverFullError(PeerError):
    """The receiver serves as many senders as it may, or has no buffers left; it can be asked again."""

    code = "BS0705"
    retryable = True
    default_remedy = "wait: the sender asks again by itself; blocksync recv --senders and --memory say how many fit"


class NetworkError(BlocksyncError):
    exit_code = 8
    code = "BS0800"
    retryable = True
    default_remedy = "check the address, the route and the firewall for the control and the data port"


class IntegrityError(BlocksyncError):
    exit_code = 9
    code = "BS0900"
    default_remedy = "run blocksync verify to list the ranges that differ, then send again"


class ReceiptError(IntegrityError):
    code = "BS1605"
    default_remedy = "get the receipt again from the sender's state folder: it was changed or is damaged"


class LayoutError(BlocksyncError):
    exit_code = 10
    code = "BS1000"
    default_remedy = "send the disk as a whole, without looking into it"


class LayoutDamagedError(LayoutError):
    code = "BS1001"
    default_remedy = "check the disk with the tools of its system (fsck, vgck, gdisk), or send it as a whole"


class LayoutUnknownError(LayoutError):
    code = "BS1002"


class VolumeMissingError(LayoutError):
    code = "BS1003"
    default_remedy = "list what is there: blocksync inspect DISK"


class VolumeIncompleteError(LayoutError):
    code = "BS1004"
    default_remedy = "name all disks of the volume group together"


class VolumeUnsettledError(LayoutError):
    code = "BS1005"
    default_remedy = "wait until the group has settled (lvs -a -o +copy_percent,raid_sync_action), then try again"


class SnapshotInvalidError(LayoutError):
    code = "BS1006"
    default_remedy = "remove the snapshot and take a larger one"


class FilesystemDirtyError(LayoutError):
    """An allocation map is only taken from a filesystem that says it is clean."""

    code = "BS1007"
    default_remedy = "unmount it cleanly or take a snapshot; or send every block"


class FlattenError(BlocksyncError):
    exit_code = 11
    code = "BS1100"
    default_remedy = "send the disk as it is, without flatten"


class FlattenRefusedError(FlattenError):
    """The layout is one that flatten does not touch; nothing was written."""

    code = "BS1101"


class FlattenMissingError(FlattenRefusedError):
    code = "BS1102"
    default_remedy = "name all disks of the volume group together: blocksync flatten DISK1 DISK2 TARGET"


class FlattenExportedError(FlattenRefusedError):
    code = "BS1103"
    default_remedy = "import the group on the source: vgimport"


class FlattenMotionError(FlattenRefusedError):
    code = "BS1104"
    default_remedy = "wait until pvmove, merge or reshape has ended (lvs -a -o +copy_percent), then try again"


class FlattenUnsyncedError(FlattenRefusedError):
    code = "BS1105"
    default_remedy = "wait until the RAID is in sync (lvs -o +copy_percent), or repair it: lvconvert --repair"


class FlattenCacheError(FlattenRefusedError):
    code = "BS1106"
    default_remedy = "write the cache back and take it off on the source: lvconvert --uncache VG/LV"


class FlattenVdoError(FlattenRefusedError):
    code = "BS1107"
    default_remedy = "move its content to a plain volume on the source, or send the disks as they are"


class FlattenEncryptedError(FlattenRefusedError):
    code = "BS1108"
    default_remedy = "if the encrypted content may move as it is, say so by name: --encrypted VG/LV"


class FlattenSectorError(FlattenRefusedError):
    code = "BS1109"
    default_remedy = "choose a target whose sectors are as large as the source's"


class FlattenSpaceError(FlattenRefusedError):
    code = "BS1110"
    default_remedy = "choose a larger target, or shrink filesystems and volumes on the source"


class FlattenTableError(FlattenRefusedError):
    code = "BS1111"
    default_remedy = "use a GUID partition table: --table gpt"


class FlattenChangedError(FlattenRefusedError):
    """The volumes are no longer those that the target's partitions were made for."""

    code = "BS1112"
    default_remedy = "begin anew with --replace: the target's partitions are made again, and everything is sent"


class FlattenNothingError(FlattenRefusedError):
    code = "BS1113"
    default_remedy = "there is nothing to flatten: send the disk as it is"


class GuestFileError(FlattenError):
    code = "BS1120"
    default_remedy = "look at the file on the source; blocksync flatten --repair TARGET repeats the repair"


class GuestPathError(FlattenError):
    code = "BS1121"
    default_remedy = "look at that path on the source: it leads nowhere inside the system, or to no ordinary file"


class GuestMountError(FlattenError):
    code = "BS1122"
    default_remedy = (
        "run as root on a kernel that knows this filesystem; blocksync flatten --repair TARGET repeats it"
    )


class BootLoaderError(FlattenError):
    code = "BS1123"
    default_remedy = (
        "install GRUB's tools on this machine: apt-get install grub-pc-bin grub-efi-amd64-bin grub-common"
    )


class BootTestError(FlattenError):
    code = "BS1124"
    default_remedy = "install QEMU on this machine: apt-get install qemu-system-x86 ovmf"


class BootFailedError(FlattenError):
    code = "BS1125"
    default_remedy = "look at the console log and the screenshot"


class TrustError(BlocksyncError):
    exit_code = 12
    code = "BS1200"
    default_remedy = "pair again with a fresh code from blocksync recv"


class InterruptedTransferError(BlocksyncError):
    exit_code = 130
    code = "BS1300"
    default_remedy = "run the same command again: it resumes where the receiver's journal ends"


class OutOfSpaceError(TargetError):
    """ENOSPC or EDQUOT while writing the target (a sparse image on a full filesystem)."""

    code = "BS0503"
    default_remedy = "free space on the target's filesystem, then run the same command again"


# What Linux answers for a sector that cannot be read, by the kind of disk and of fault.
_MEDIUM_ERRORS = tuple(
    getattr(errno, name) for name in ("EIO", "ENODATA", "EILSEQ", "EBADMSG", "EREMOTEIO") if hasattr(errno, name)
)

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "run as root, or give this user the permission",
    errno.EPERM: "run as root, or give this user the permission",
    errno.ENOSPC: "free space there, then run the same command again",
    errno.EDQUOT: "raise the quota there, then run the same command again",
    errno.EIO: "look at the kernel log for the disk's errors (dmesg)",
    errno.EROFS: "it is read-only: choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EISDIR: "name a file or a device, not a folder",
    errno.EBUSY: "something holds it: see lsblk, mount and losetup",
}


def from_os_error(
    error: OSError, kind: type[BlocksyncError], doing: str, *, safe: str | None = None
) -> BlocksyncError:
    """Map an operating-system error at the boundary; raise the result ``from`` the cause.

    Args:
        error: what the system call raised.
        kind: the class of the room it happened in (for example :class:`SourceError`).
        doing: the action and its object, as in ``"cannot open disk.img"``.
        safe: what is safe now.

    Returns:
        an instance of ``kind``; :class:`OutOfSpaceError` for a full target, :class:`UnreadableError` for a source
        whose medium fails.
    """
    number = error.errno
    if kind is TargetError and number in (errno.ENOSPC, errno.EDQUOT):
        kind = OutOfSpaceError
    # Numbers below zero are the resolver's, which the system's table does not have.
    reason = (
        os.strerror(number) if number and number > 0 else (error.strerror or str(error) or type(error).__name__)
    )
    if kind is SourceError and number in _MEDIUM_ERRORS:
        return UnreadableError(f"{doing}: {reason}", safe=safe)
    remedy = _REMEDIES.get(number) if number is not None else None
    return kind(f"{doing}: {reason}", remedy=remedy, safe=safe)
