"""What a sender keeps of a transfer, and its one file.

``STATE/transfers/ID/record.json`` holds ``{"checksum": …, "record": {…}}``: the checksum is BLAKE2b-128 over the
record as canonical JSON (keys sorted, no blanks), so that a damaged file is told instead of believed. The file
is replaced whole: written beside, synced, renamed, folder synced.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from blocksync.errors import StateDamagedError
from blocksync.transfers.states import DEFAULT_VALIDITY_DAYS, TransferState

VERSION = 1
RECORD_BYTES = 1 << 20
KEPT_PASSES = 200
"""Of the newest passes; a follower of a year would otherwise fill its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRecord:
    """A disk of the transfer and where it goes; size in bytes."""

    source: str
    identity: str
    slot: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRecord:
    """A committed pass of one disk. Times in seconds (``began`` since 1970), amounts in bytes.

    Args:
        number: of the pass within the transfer, the same for all its disks.
        kind: ``full``, ``incremental`` or ``final``.
        root: hex root of the digest tree both ends agreed on.
        consistency: what the pass is a view of: ``live``, ``crash`` or ``application``.
    """

    number: int
    slot: str
    kind: str
    generation: int
    began: float
    seconds: float
    read: int
    changed: int
    zero: int
    wire: int
    resent: int
    resumed: int
    retries: int
    bottleneck: str
    root: str
    consistency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a transfer failed."""

    code: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRecord:
    """What a verify of one disk found; ``at`` in seconds since 1970."""

    slot: str
    identical: bool
    at: float
    seconds: float
    differing_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What was predicted of a pass or a verify, and what it took; times in seconds.

    Args:
        what: ``pass``, ``pause`` (the final pass, while the source stands still) or ``verify``; of a flattened
            target, in its result alone, also ``divide`` and ``repair``.
        number: of the pass.
        by: ``estimate``, or ``passes`` for what the passes before it told.
        likely, low, high: the likeliest time, and between which it was said to lie.
        took: the truth.
    """

    what: str
    number: int
    by: str
    likely: float
    low: float
    high: float
    took: float

    @property
    def held(self) -> bool:
        return self.low <= self.took <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRecord:
    """A transfer: all passes of its disks to one receiver.

    Args:
        id: 16 hex digits.
        to: ``HOST[:PORT]`` as it was typed.
        receiver: hex fingerprint of its certificate.
        touched: when it was last worked on, seconds since 1970; the validity counts from here.
        until: while waiting, when the next pass begins; 0 where nobody knows.
        passes: the newest, oldest first.
        pass_count: of all that were committed.
        forecasts: the newest, oldest first.
        pause: seconds that the source stood still, verifying included; 0 before the final pass.
    """

    id: str
    to: str
    receiver: str
    disks: tuple[DiskRecord, ...]
    state: TransferState
    created: float
    touched: float
    validity_days: int = DEFAULT_VALIDITY_DAYS
    mode: str = ""
    until: float = 0.0
    passes: tuple[PassRecord, ...] = ()
    pass_count: int = 0
    verified: tuple[VerifyRecord, ...] = ()
    fault: Fault | None = None
    receipt: str = ""
    forecasts: tuple[Forecast, ...] = ()
    pause: float = 0.0

    def with_pass(self, passes: tuple[PassRecord, ...]) -> TransferRecord:
        """With one more pass, which has an entry for each disk that was committed."""
        kept = (*self.passes, *passes)[-KEPT_PASSES:]
        return dataclasses.replace(self, passes=kept, pass_count=self.pass_count + 1)


def encode(record: TransferRecord) -> bytes:
    """The file's bytes."""
    content = canonical(dataclasses.asdict(record))
    checksum = _checksum(content)
    return b'{"checksum":"' + checksum.encode() + b'","record":' + content + b',"version":%d}\n' % VERSION


def decode(raw: bytes, where: str) -> TransferRecord:
    """Parse a file.

    Raises:
        StateDamagedError: it is not what :func:`encode` made.
    """
    try:
        said = json.loads(raw)
        if set(said) != {"checksum", "record", "version"} or said["version"] != VERSION:
            raise ValueError("another version")
        if _checksum(canonical(said["record"])) != said["checksum"]:
            raise ValueError("the checksum does not match")
        # Records that were written before passes were compared with what was predicted.
        return parse(TransferRecord, {"forecasts": (), "pause": 0.0, **said["record"]})
    except (ValueError, TypeError, RecursionError) as error:
        raise StateDamagedError(
            f"the transfer's record {where} is damaged: {error}",
            remedy="remove it with blocksync delete: the receiver's state is not touched, and sending again finds it",
        ) from error


def canonical(value: object) -> bytes:
    """JSON in its one form: keys sorted, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


T = TypeVar("T")


def parse(kind: type[T], said: object) -> T:
    """Make a dataclass of what JSON says, strictly: every field there, of its type, and no other.

    Fields may be str, int, float, bool, enums of str, dataclasses, optional ones, and tuples of these.

    Raises:
        ValueError: it does not fit.
    """
    if not isinstance(said, dict):
        raise ValueError(f"a {kind.__name__} must be an object")  # noqa: TRY004 - bad data, not a bad call
    hints = get_type_hints(kind)
    if set(said) != set(hints):
        raise ValueError(f"a {kind.__name__} has other members")
    return kind(**{name: _value(hint, said[name], f"{kind.__name__}.{name}") for name, hint in hints.items()})


def _value(hint: Any, value: object, name: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (each for each in get_args(hint) if each is not type(None))
        return None if value is None else _value(hint, value, name)
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} is no list")
        return tuple(_value(get_args(hint)[0], each, name) for each in value)
    if dataclasses.is_dataclass(hint):
        return parse(hint, value)  # type: ignore[arg-type] # a class, not an instance
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is TransferState:
        return TransferState(value)
    if type(value) is hint:
        return value
    raise ValueError(f"{name} has an unusable value")
