"""What blocksync tells its callers: how far it is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of a running transfer; counts only what is complete.

    Args:
        stage: ``checking`` (what was found before), ``connecting``, ``waiting`` (before a retry), ``planning``,
            ``transferring``, ``committing``, ``verifying``, ``done``; on the receiver also ``listening``,
            ``opened``, ``paired``, ``closed``.
        slot: the slot concerned, where there is one.
        size: of the disk, bytes.
        done: bytes of the disk dealt with in this pass.
        durable: bytes the receiver has acknowledged as durable in this session.
        wire: bytes sent on the data connections in this pass.
        read: bytes read from the source.
        changed: plain bytes sent.
        seconds: since the pass began.
        bottleneck: ``read``, ``processor``, ``link``, ``target`` (the receiver is at work) or empty.
        level: of compression at the moment; None while it is off.
        kind: of the pass, ``full`` or ``incremental``; empty until the receiver has said it.
        message: for people, one line, where there is something to say (a retry, a code).
        detail: for programs.
    """

    stage: str
    slot: str = ""
    size: int = 0
    done: int = 0
    durable: int = 0
    wire: int = 0
    read: int = 0
    changed: int = 0
    seconds: float = 0.0
    bottleneck: str = ""
    level: int | None = None
    kind: str = ""
    message: str = ""
    detail: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a receiver listens and the pairing code that lets one sender in.

    Args:
        control_port, data_port: as bound, also where 0 was asked for.
        code: works once, for fifteen minutes; empty where each slot has its own.
        fingerprint: hex SHA-256 of the receiver's certificate.
        slots: that it offers.
        status_port: of the status page on loopback; 0 for none.
        codes: ``(slot, code)`` where each slot has its own.
    """

    control_port: int
    data_port: int
    code: str
    fingerprint: str
    slots: tuple[str, ...]
    status_port: int = 0
    codes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What became of the names of excluded files on a target.

    Args:
        slot: of the target.
        removed: names that are gone, those below folders too.
        remaining: why others stay, in words; empty where none does.
    """

    slot: str
    removed: int
    remaining: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SendResult:
    """A committed pass: *transferred*, which is less than *identical* (that is what verify says).

    Args:
        slot: its name.
        generation: number of the manifest that was committed.
        level: of compression at the end; None for none.
        bottleneck: ``read``, ``processor``, ``link`` or empty.
        kind: ``full`` or ``incremental``.
        size: of the disk; read, changed (plain bytes sent), wire (bytes on the data connections): bytes.
        zero: bytes that were sent as ranges of zeros.
        resent: bytes the receiver asked for again as whole blocks.
        resumed: bytes that were durable already when an interrupted pass was taken up again.
        retries: how often it was begun again on the way: connections broke, or the receiver was not ready.
        root: hex root of the digest tree that both ends agreed on.
        unused: bytes that no file uses, as the filesystems' allocation maps say, and that were therefore not read.
        notes: why what is not covered by a map was read as a whole.
        consistency: ``live``, ``crash`` (this disk at one instant), ``crash-group`` (all disks of the transfer at the
            same instant) or ``application`` (its writers took part).
        tracker: whose word on what changed the pass went by; empty where all was compared by digests.
        excluded: ``(file, bytes)`` of content that was left out, at most 1000; a file of a partition or logical
            volume as ``#2:/path``. On the target such a file has its name and its size, and zeros for content.
        excluded_files, excluded_bytes: of all of them.
        excluded_names: what the patterns name of them, at most 100,000; a folder stands for all below it. The
            command's JSON has the first 5000, and counts the others in ``unnamed``.
        unnamed: how many more they name.
        removal: what became of these names, where :func:`~blocksync.api.copy` was to remove them.
        predicted: of a first pass for which there was an estimate, ``(likeliest, least, most)`` seconds.
        unreadable: with ``rescue``, ``(offset, length)`` of what could not be read, in bytes: zeros on the target.
    """

    slot: str
    kind: str
    generation: int
    size: int
    read: int
    changed: int
    zero: int
    wire: int
    resent: int
    resumed: int
    retries: int
    seconds: float
    level: int | None
    bottleneck: str
    root: str
    consistency: str
    tracker: str = ""
    unreadable: tuple[tuple[int, int], ...] = ()
    unused: int = 0
    notes: tuple[str, ...] = ()
    excluded: tuple[tuple[str, int], ...] = ()
    excluded_files: int = 0
    excluded_bytes: int = 0
    excluded_names: tuple[str, ...] = ()
    unnamed: int = 0
    removal: Removal | None = None
    predicted: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferEvent:
    """Something that happened to a transfer: ``transfer``, ``state``, ``pass``, ``verified`` or ``receipt``.

    Args:
        kind: of them.
        transfer: its id.
        facts: as docs/EVENTS.md lists them.
    """

    kind: str
    transfer: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOutcome:
    """What became of one disk of a transfer: a result, or the code and message of its error.

    Args:
        source: as it was named.
        slot: the receiver's name for its target.
        result: of its committed pass; None where it failed.
        code, error: of what it failed of; empty where it did not.
    """

    source: str
    slot: str
    result: SendResult | None = None
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """A committed pass of every disk of a transfer.

    Args:
        disks: in the order they were given.
        seconds: from the first disk's beginning to the last one's end.
    """

    disks: tuple[DiskOutcome, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """``identical`` only when both sides read everything and no range differs.

    Args:
        slot: its name.
        size: of the source, bytes.
        seconds: that it took.
        differing: ``(offset, length)`` in bytes, at most ``MAX_DIFFERING_RANGES`` of them.
        differing_bytes: in all, also where the list was cut.
        unused: bytes that no file uses and that were not compared; 0 where every byte was.
        notes: why what is not covered by a filesystem's map was compared as a whole.
    """

    slot: str
    identical: bool
    size: int
    seconds: float
    differing: tuple[tuple[int, int], ...] = ()
    differing_bytes: int = 0
    unused: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveResult:
    """What a receiver did until it ended: ``(slot, generation)`` of each committed pass."""

    committed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenResult:
    """A flattened target, or several.

    Args:
        group: the pass of each volume and partition.
        table: ``gpt`` or ``mbr``, of the first target.
        partitions: ``(number, what it holds)``.
        root: number of the partition with the system; 0 where nothing was repaired.
        changed: ``(rule, path)`` of each file that the repair changed.
        loaders: what was done about booting, in lines.
        notes: what the reader should know.
        boot: what a trial boot showed, where the receiver made one.
        forecasts: of dividing and repairing, beside what they took; objects with the members of a transfer's forecasts.
        tables: of each target.
        targets: for each of ``partitions`` the target that it is on, from 1.
        root_target: the target that ``root`` is on.
    """

    group: GroupResult
    table: str
    partitions: tuple[tuple[int, str], ...]
    root: int = 0
    changed: tuple[tuple[str, str], ...] = ()
    loaders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    boot: dict[str, object] | None = None
    forecasts: tuple[dict[str, object], ...] = ()
    tables: tuple[str, ...] = ()
    targets: tuple[int, ...] = ()
    root_target: int = 1
