"""What callers ask of blocksync, as frozen dataclasses. No defaults are read from anywhere but here."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from blocksync.limits import Limits
from blocksync.results import Listening, Progress, TransferEvent

DEFAULT_CONTROL_PORT = 8080
DEFAULT_DATA_PORT = 8703
DEFAULT_CONNECTIONS = 4
DEFAULT_RETRY_SECONDS = 600.0


class Digest(str, enum.Enum):
    """Identity of blocks: fast, or keyed against hostile content."""

    XXH3 = "xxh3"
    BLAKE3 = "blake3"


ProgressCallback = Callable[[Progress], None]
AskCode = Callable[[str], "str | None"]
"""Gets the reason why a pairing code is needed; returns one, or None to give up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """One pass of one source to one slot.

    Args:
        to: ``HOST[:CONTROL_PORT]``, IPv6 in brackets.
        slot: the receiver's name for the target; empty where the sender is granted exactly one.
        code: pairing code; only for the first time.
        ask_code: asked for a code where one is needed and ``code`` is none; called in the caller's thread.
        state_dir: folder of identity, pins and copies of manifests; None for the system's.
        connections: data connections at most.
        digest: for a new slot.
        block_bytes: for a new slot, 4 KiB to 16 MiB.
        level: zstd level; two of them adapt between these; None adapts freely; 0 never compresses.
        bwlimit: bytes a second on the wire; 0 for no limit.
        retry_seconds: how long to go on trying without progress.
        replace: consent that another source's disk replaces what the slot holds.
        transfer: id of the transfer that the pass belongs to, for both ends' logs; :func:`transfer` sets it.
        rescue: go on after what cannot be read: it is listed in the result, and zeros on the target.
        all_blocks: read every block, also those that no file uses.
        snapshot: ``auto`` takes a snapshot of a source where that is possible, ``lvm`` and ``vss`` insist on one,
            ``none`` reads what is there. Only of sources that are named by a path.
        snapshot_bytes: size of each classic LVM snapshot; None to choose it.
        track: keep what tells the next pass what changed (a snapshot, where nothing else does), and go by it.
        exclude: patterns of files whose content is left out, in rsync's syntax, one rule each.
        progress: called from a thread of ours, about once a second.
    """

    to: str
    slot: str = ""
    code: str | None = None
    ask_code: AskCode | None = None
    state_dir: Path | None = None
    connections: int = DEFAULT_CONNECTIONS
    digest: Digest = Digest.XXH3
    block_bytes: int = 64 << 10
    level: int | tuple[int, int] | None = None
    bwlimit: int = 0
    retry_seconds: float = DEFAULT_RETRY_SECONDS
    replace: bool = False
    rescue: bool = False
    transfer: str = ""
    all_blocks: bool = False
    snapshot: str = "auto"
    snapshot_bytes: int | None = None
    track: bool = False
    exclude: tuple[str, ...] = ()
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A target that a receiver offers.

    Args:
        path: of a file or a block device.
        slot: its name for peers; one that is made from the path when empty.
        create_size: bytes; makes a new image file.
        overwrite: consent to a target that is not empty.
    """

    path: str
    slot: str = ""
    create_size: int | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveOptions:
    """What a receiver serves.

    Args:
        targets: at least one.
        listen: address; empty for all.
        control_port, data_port: 0 picks a free one.
        code_file: where the pairing code is also written (0600).
        once: stop after one committed pass of each target.
        state_dir: folder of identity, grants, manifests and journals; None for the system's.
        progress: called from threads of ours with what happens.
        user: become this user once targets and ports are open; the state folder is given to it. Only as root.
        status_listen: loopback ``ADDRESS:PORT`` of the status page, health and metrics in the clear; empty for none.
        on_listening: called with a :class:`Listening` once both ports answer.
        repair: mend the system on a target that a sender flattened, and remove names of excluded files; both mount
            filesystems that a sender sent.
        boot_test: and boot a throw-away overlay of it.
        senders: at a time; the others wait.
        memory: bytes of buffers for all senders together; 0 for a quarter of the machine's, at most 512 MiB.
        code_folder: hand out a code for each slot instead of one for all, in a file of the slot's name (0600).
    """

    targets: tuple[TargetSpec, ...]
    listen: str = ""
    control_port: int = DEFAULT_CONTROL_PORT
    data_port: int = DEFAULT_DATA_PORT
    state_dir: Path | None = None
    code_file: Path | None = None
    once: bool = False
    user: str | None = None
    status_listen: str = ""
    repair: bool = True
    boot_test: bool = False
    senders: int = 64
    memory: int = 0
    code_folder: Path | None = None
    progress: ProgressCallback | None = None
    on_listening: Callable[[Listening], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions:
    """Both ends in one process.

    Args:
        create: make a new image file of the source's size.
        overwrite: consent to a target that is not empty.
        remove_excluded: then remove the names of excluded files on the target, as of :class:`TransferOptions`.
        state_dir, digest, block_bytes, replace, rescue, all_blocks, exclude, progress: as of :class:`SendOptions`.
    """

    create: bool = False
    overwrite: bool = False
    state_dir: Path | None = None
    digest: Digest = Digest.XXH3
    block_bytes: int = 64 << 10
    replace: bool = False
    rescue: bool = False
    all_blocks: bool = False
    exclude: tuple[str, ...] = ()
    remove_excluded: bool = False
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What to compare.

    Args:
        to, slot, code, ask_code, state_dir, progress: as of :class:`SendOptions`.
        all_blocks: compare every block, also those that no file uses.
        exclude: patterns of files whose content is not compared.
    """

    to: str
    slot: str = ""
    code: str | None = None
    ask_code: AskCode | None = None
    state_dir: Path | None = None
    all_blocks: bool = False
    exclude: tuple[str, ...] = ()
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """A disk of a transfer.

    Args:
        source: as for ``send``.
        slot: the receiver's name for its target; empty to match by the order in which the receiver offers them.
    """

    source: str
    slot: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """A transfer from its first pass to the cutover.

    Args:
        send: how each pass is made; ``bwlimit`` is the bandwidth of ``limits``, give one of them; ``slot`` counts for
            a flattened transfer alone.
        follow: seconds from the beginning of a pass to that of the next; None makes no further ones.
        until_converged: seconds; pass until the next pass is predicted to be this short.
        final: end with a pass while the source stands still.
        pre_final, post_final: shell commands that make the source stand still and let it go; without them its
            mounted filesystems are frozen.
        freeze_seconds: the source is let go after this long, and the pass is not called final.
        verify: read both sides whole after the last pass, while the source still stands still.
        remove_excluded: remove the names of excluded files on the target after the last pass; None does so after a
            final one. What is sent or compared afterwards takes them for changes of the target.
        validity_days: 7 to 90; an untouched transfer expires after them.
        limits: what it may take of the machine.
        receipt: where the receipt is also written.
        keep_quiet: folders that are written to while it runs, and so must not be frozen (logs).
        on_event: called from a thread of ours.
    """

    send: SendOptions
    follow: float | None = None
    until_converged: float | None = None
    final: bool = False
    pre_final: str = ""
    post_final: str = ""
    freeze_seconds: float = 600.0
    verify: bool = False
    remove_excluded: bool | None = None
    validity_days: int = 30
    limits: Limits = field(default_factory=Limits)
    receipt: Path | None = None
    keep_quiet: tuple[Path, ...] = ()
    on_event: Callable[[TransferEvent], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenOptions:
    """Disks with LVM to one target with standard partitions, or to several.

    Args:
        create: make targets, new image files of the sizes that are needed.
        overwrite: consent to a target that is not empty; to the first one where there are several.
        state_dir: folder of manifests and journals; None for the system's.
        digest, block_bytes: for a first copy.
        replace: what the target was divided for before may go.
        table: ``gpt``, ``mbr``, or empty: as the first disk has it, as far as that can describe the result.
        grow: bytes of the partition of a volume, by ``VG/LV`` or ``LV``.
        encrypted: volumes with LUKS that may move as they are, by ``VG/LV``.
        names: what the system calls each disk, in their order; guessed where left out.
        repair: mend what names the old volumes, and the boot loaders.
        rebuild_initramfs: with the system's own tools in a chroot; runs code of the system.
        skip: steps of the repair that are left out, by name.
        onto: further targets, in their order: paths, or slots of the receiver that a transfer goes to.
        place: the target of a volume, from 1, by ``VG/LV`` or ``LV``; others go where the disk goes that holds most of
            them.
        overwrite_onto: those of ``onto`` that may be not empty, as they are written there.
        progress: called from threads of ours, about once a second.
    """

    create: bool = False
    overwrite: bool = False
    state_dir: Path | None = None
    digest: Digest = Digest.XXH3
    block_bytes: int = 64 << 10
    replace: bool = False
    table: str = ""
    grow: tuple[tuple[str, int], ...] = ()
    encrypted: tuple[str, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    repair: bool = True
    rebuild_initramfs: bool = False
    skip: tuple[str, ...] = ()
    onto: tuple[str, ...] = ()
    place: tuple[tuple[str, int], ...] = ()
    overwrite_onto: tuple[str, ...] = ()
    progress: ProgressCallback | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOptions:
    """A trial boot.

    Args:
        firmware: ``bios``, ``uefi`` or ``uefi-secure`` (Secure Boot is on); empty to take what the target is made for.
        folder: where the console's log and the screenshot are kept; one beside the working folder when left out.
        seconds: how long to wait.
        memory_mib: of the guest.
    """

    firmware: str = ""
    folder: Path | None = None
    seconds: float = 600.0
    memory_mib: int = 1024
