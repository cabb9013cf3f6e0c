"""The control port's messages: frozen dataclasses, JSON in and out, parsed strictly and within bounds."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from typing_extensions import Self

from blocksync.errors import ProtocolError, VersionSkewError
from blocksync.protocol.limits import MAX_CONNECTIONS

CONTROL_VERSION = 1
MAX_TEXT_CHARACTERS = 1024
MAX_HEX_CHARACTERS = 16 << 10  # the marks of VerifyRequest.skip, for 256 MiB
# Far above what any message needs; the HTTP layer refuses larger bodies before they are read.
MAX_MESSAGE_BYTES = 64 << 10
# The one message that lists volumes; 128 partitions, as many as a GPT has, with the longest names that LVM allows.
MAX_PLAN_BYTES = 512 << 10
MAX_PORT = 65535
# Bytes that a field has, in whichever message; others are bounded by MAX_HEX_CHARACTERS.
FIELD_BYTES = {"run": 16, "session": 16, "token": 32, "manifest_id": 16, "key": 32, "root": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base: fields are str, int, bool or bytes (hex on the wire)."""

    def to_json(self) -> dict[str, Any]:
        return {
            field.name: value.hex() if isinstance(value, bytes) else value
            for field in dataclasses.fields(self)
            for value in (getattr(self, field.name),)
        }

    @classmethod
    def from_json(cls, said: object) -> Self:
        """Parse.

        Raises:
            VersionSkewError: it is of another version, whose other fields are not looked at.
            ProtocolError: not an object, a field is missing, of another type, or out of bounds.
        """
        if not isinstance(said, dict):
            raise ProtocolError(f"a {cls.__name__} must be a JSON object")
        hints = _hints(cls)
        if "version" in hints and isinstance(said.get("version"), int) and said["version"] != CONTROL_VERSION:
            raise VersionSkewError(
                f"the sender speaks control protocol {said['version']}, this receiver {CONTROL_VERSION}"
            )
        values: dict[str, Any] = {}
        optional = {field.name for field in dataclasses.fields(cls) if field.default is not dataclasses.MISSING}
        for name, hint in hints.items():
            if name not in said:
                if name in optional:
                    continue
                raise ProtocolError(f"a {cls.__name__} lacks {name!r}")
            values[name] = _parse(cls.__name__, name, hint, said[name])
        return cls(**values)


_hints: Callable[[type], dict[str, Any]] = functools.cache(get_type_hints)


def _parse(message: str, name: str, hint: type, value: object) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    if hint is str and isinstance(value, str) and len(value) <= MAX_TEXT_CHARACTERS:
        return value
    if hint is bytes and isinstance(value, str) and len(value) <= MAX_HEX_CHARACTERS:
        try:
            found = bytes.fromhex(value)
        except ValueError as error:
            raise ProtocolError(f"{message}.{name} is not hexadecimal") from error
        if len(found) == FIELD_BYTES.get(name, len(found)):
            return found
    if hint == dict[str, Any] and isinstance(value, dict):
        return value
    raise ProtocolError(f"{message}.{name} has an unusable value")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest(Message):
    """A sender asks for a session on a slot.

    ``run`` is 16 random bytes of the sending process: it may take over its own session at any time, while another
    run of the same machine has to wait until the earlier one's connections are gone. ``rehearsal`` asks for a
    scratch slot that is thrown away at its end, instead of the slot itself. ``transfer`` is the sender's id of the
    transfer, for both ends' logs. ``marks`` are of the source's storage, which only a receiver on the same machine
    recognises: a disk is not sent to itself.
    """

    version: int
    run: bytes
    slot: str
    source_identity: str
    source_name: str
    size: int
    sector_bytes: int
    block_bytes: int
    digest: int
    connections: int
    replace: bool
    rehearsal: bool = False
    transfer: str = ""
    marks: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAnswer(Message):
    """A session: where its data goes and what the slot durably holds.

    ``generation`` counts committed passes; ``pass_open`` says that claims beyond it exist (an interrupted pass).
    ``rehearsal`` says where a rehearsal's writes go: ``file``, or ``nowhere``; empty for a real session. ``fresh`` says
    that every block without a claim reads as zeros. ``together`` says of a rehearsal that both ends are on one machine.
    """

    session: bytes
    token: bytes
    epoch: int
    data_port: int
    slot: str
    manifest_id: bytes
    generation: int
    pass_open: bool
    size: int
    sector_bytes: int
    block_bytes: int
    digest: int
    key: bytes
    root: bytes
    connections: int
    frame_bytes: int
    known_bytes: int
    notice: str
    rehearsal: str = ""
    fresh: bool = False
    together: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.connections <= MAX_CONNECTIONS or self.data_port > MAX_PORT:
            raise ProtocolError(
                f"the receiver answers with {self.connections} data connections to port {self.data_port}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """The receiver's answer to a sender's sign of life.

    ``busy`` is what makes the sender wait: the receiver's own work, where that rises by as much as time passes.
    ``processor`` is what the receiver's process has used, in milliseconds.
    """

    durable: int
    epoch: int
    busy: int = 0
    processor: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest(Message):
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitAnswer(Message):
    generation: int
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest(Message):
    """Digests of ``[offset, offset + length)`` in pieces of ``piece_bytes``, BLAKE3 keyed with a fresh key.

    ``skip`` marks pages of 4 KiB from ``offset`` on, one a bit, the lowest bit of the first byte first: what they hold
    does not matter, and they are hashed as zeros. Empty marks none. ``rehearsal`` asks for what the sender's rehearsal
    wrote, before its session is ended; where that wrote nothing, for the slot itself.
    """

    version: int
    slot: str
    size: int
    offset: int
    length: int
    piece_bytes: int
    key: bytes
    skip: bytes = b""
    rehearsal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyAnswer(Message):
    slot: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DivideRequest(Message):
    """A sender asks for a slot's target to be divided into partitions, each of which is then a slot.

    ``beside`` names the slots of further targets of the same system, with commas between. ``plan`` is an object of
    flatten's own (docs/FLATTEN.md); it is checked by whoever divides. ``marks`` as in :class:`OpenRequest`.
    """

    version: int
    slot: str
    replace: bool
    plan: dict[str, Any]
    marks: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DivideAnswer(Message):
    """The slot, and the numbers of the partitions that are slots now: ``SLOT.pN``; divided anew or as it was."""

    slot: str
    parts: str
    anew: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRequest(Message):
    """A sender asks for a divided target to be made bootable, now that all its parts are committed.

    ``beside`` names the slots of the further targets that were divided together with it.
    """

    version: int
    slot: str
    beside: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalRequest(Message):
    """A sender asks that the names of excluded files be removed from a target, now that it is committed.

    ``wanted`` has ``names``, a list of texts as the result of a pass has them; it is checked by whoever removes them.
    """

    version: int
    slot: str
    wanted: dict[str, Any]


class ControlPort(abc.ABC):
    """What a sender can ask of a receiver; the HTTPS client and the receiver in the same process both are one.

    Blocking; may be called from several threads. Errors are :class:`~blocksync.errors.BlocksyncError`: of the
    receiver's by its code, :class:`~blocksync.errors.NetworkError` where no answer came.
    """

    @abc.abstractmethod
    def open(self, request: OpenRequest) -> OpenAnswer:
        """Open a session, or take up an interrupted pass; every earlier epoch of the slot ends."""

    @abc.abstractmethod
    def segment_digests(self, session: bytes) -> bytes:
        """16 bytes a segment of the receiver's manifest as it durably is."""

    @abc.abstractmethod
    def segment(self, session: bytes, index: int) -> tuple[int, bytes]:
        """State and canonical payload of one segment."""

    @abc.abstractmethod
    def heartbeat(self, session: bytes) -> Heartbeat:
        """Say that the sender lives, learn what is durable."""

    @abc.abstractmethod
    def commit(self, session: bytes, request: CommitRequest) -> CommitAnswer:
        """End the pass: everything durable, roots equal, manifest committed."""

    @abc.abstractmethod
    def end(self, session: bytes) -> None:
        """End the session without committing; what is durable stays."""

    @abc.abstractmethod
    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        """The answer, and the concatenated 32-byte digests of the pieces in order, in parts of any length."""

    def divide(self, request: DivideRequest) -> DivideAnswer:
        """Divide a slot's target, or find it divided like that."""
        raise ProtocolError(f"this receiver divides no targets, slot {request.slot} neither")

    def finish(self, request: FinishRequest) -> dict[str, Any]:
        """Repair the system on a divided target; what was done, as an object of flatten's own."""
        raise ProtocolError(f"this receiver divides no targets, slot {request.slot} neither")

    def remove_names(self, request: RemovalRequest) -> dict[str, Any]:
        """Remove names of excluded files; ``removed`` has how many went, ``remaining`` why others stay."""
        raise ProtocolError(f"this receiver mounts no targets, that of slot {request.slot} neither")

    def abort(self) -> None:  # noqa: B027 - a port that never waits has nothing to abort
        """Make the calls that are waiting for an answer right now fail; from any thread. Later calls work."""
