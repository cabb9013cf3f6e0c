"""The handshake, sans-IO: a generator that says what it needs and is given it.

Fixed newstyle only, GO only: every server of the last ten years speaks these, and older ones cannot tell their
block sizes.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from blocksync.errors import BlocksyncError
from blocksync.nbd import wire
from blocksync.nbd.failures import Failures
from blocksync.nbd.wire import Option

_U32 = struct.Struct(">I")
_U16 = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Need:
    """Read exactly so many bytes and send them back into the generator."""

    count: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """Everything from here on is inside TLS."""


Step = Need | Send | StartTls
Handshake = Generator[Step, bytes, "Agreed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the client asks for.

    Args:
        export: name.
        tls: insist on it.
        contexts: metadata contexts to choose.
        listed: a prefix of metadata contexts to list; empty for none.
    """

    export: str
    tls: bool = False
    contexts: tuple[str, ...] = (wire.ALLOCATION,)
    listed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What an export is.

    Args:
        size: bytes.
        flags: transmission flags.
        least, most: block size constraints in bytes; ``most`` bounds a request's payload.
        structured: replies come in chunks.
        contexts: chosen metadata contexts, by name, with their numbers.
        listed: names of the contexts that were asked to be listed.
    """

    size: int
    flags: int
    least: int
    most: int
    structured: bool
    contexts: dict[str, int] = field(default_factory=dict)
    listed: tuple[str, ...] = ()


@dataclass(slots=True)
class _Reply:
    kind: int
    body: bytes


class Negotiation:
    """One handshake.

    Args:
        wanted: what to ask for.
        failures: classes to raise.
        server: for messages.
    """

    def __init__(self, wanted: Wanted, failures: Failures, server: str) -> None:
        self._wanted = wanted
        self._failures = failures
        self._server = server

    def run(self) -> Handshake:
        """Steps; the generator's value is what was agreed.

        Raises:
            BlocksyncError: of the failures' classes.
        """
        yield from self._greet()
        if self._wanted.tls:
            yield from self._start_tls()
        structured = (yield from self._option(Option.STRUCTURED_REPLY, b""))[-1].kind == wire.REP_ACK
        listed: tuple[str, ...] = ()
        contexts: dict[str, int] = {}
        if structured and self._wanted.listed:
            listed = tuple((yield from self._meta(Option.LIST_META_CONTEXT, [self._wanted.listed])))
        if structured and self._wanted.contexts:
            contexts = yield from self._meta(Option.SET_META_CONTEXT, self._wanted.contexts)
            if not set(contexts) <= set(self._wanted.contexts) or len(set(contexts.values())) != len(contexts):
                raise self._garbled("it chose metadata contexts that were not asked for")
        return (yield from self._go(structured, contexts, listed))

    def _greet(self) -> Generator[Step, bytes, None]:
        magic, style, flags = wire.GREETING.unpack((yield Need(wire.GREETING.size)))
        if magic != wire.MAGIC:
            raise self._garbled("it does not greet as an NBD server")
        if style != wire.OPTION_MAGIC or not flags & wire.FIXED_NEWSTYLE:
            raise self._garbled("it speaks the protocol's old style only")
        yield Send(_U32.pack(flags & (wire.FIXED_NEWSTYLE | wire.NO_ZEROES)))

    def _start_tls(self) -> Generator[Step, bytes, None]:
        reply = (yield from self._option(Option.STARTTLS, b""))[-1]
        if reply.kind != wire.REP_ACK:
            raise self._refused("it has no TLS", reply, remedy="use nbd:// where the network is trusted")
        yield StartTls()

    def _meta(self, option: Option, queries: Sequence[str]) -> Generator[Step, bytes, dict[str, int]]:
        name = self._wanted.export.encode()
        data = _U32.pack(len(name)) + name + _U32.pack(len(queries))
        data += b"".join(_U32.pack(len(query.encode())) + query.encode() for query in queries)
        found: dict[str, int] = {}
        for reply in (yield from self._option(option, data)):
            if reply.kind == wire.REP_META_CONTEXT:
                if not 4 < len(reply.body) <= 4 + wire.MAX_STRING_BYTES:
                    raise self._garbled("a metadata context has no name, or too long a one")
                found[reply.body[4:].decode(errors="replace")] = _U32.unpack_from(reply.body)[0]
        return found

    def _go(self, structured: bool, contexts: dict[str, int], listed: tuple[str, ...]) -> Handshake:
        name = self._wanted.export.encode()
        data = _U32.pack(len(name)) + name + _U16.pack(1) + _U16.pack(wire.INFO_BLOCK_SIZE)
        replies = yield from self._option(Option.GO, data)
        if replies[-1].kind != wire.REP_ACK:
            raise self._no_export(replies[-1])
        facts: tuple[int, int] | None = None
        least, most = 1, wire.DEFAULT_MAX_BLOCK_BYTES
        for reply in replies[:-1]:
            if reply.kind != wire.REP_INFO or len(reply.body) < 2:
                raise self._garbled("it answers GO with something else than facts")
            kind = _U16.unpack_from(reply.body)[0]
            if kind == wire.INFO_EXPORT and len(reply.body) == wire.INFO_EXPORT_BODY.size:
                _, size, flags = wire.INFO_EXPORT_BODY.unpack(reply.body)
                facts = size, flags
            elif kind == wire.INFO_BLOCK_SIZE and len(reply.body) == wire.INFO_BLOCK_SIZE_BODY.size:
                _, least, _, most = wire.INFO_BLOCK_SIZE_BODY.unpack(reply.body)
            elif kind in (wire.INFO_EXPORT, wire.INFO_BLOCK_SIZE):
                raise self._garbled("a fact about the export has a wrong length")
        if facts is None or facts[0] > wire.MAX_SIZE or not facts[1] & wire.HAS_FLAGS:
            raise self._garbled("it does not tell the export's size, or an impossible one")
        if not 0 < least <= wire.LARGEST_MIN_BLOCK_BYTES or least & (least - 1) or most < max(least, 4096):
            raise self._garbled(f"its block sizes are impossible: {least} to {most} bytes")
        return Agreed(
            size=facts[0],
            flags=facts[1],
            least=least,
            most=min(most, wire.DEFAULT_MAX_BLOCK_BYTES) // least * least,
            structured=structured,
            contexts=contexts,
            listed=listed,
        )

    def _option(self, option: Option, data: bytes) -> Generator[Step, bytes, list[_Reply]]:
        yield Send(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)
        replies: list[_Reply] = []
        while len(replies) < wire.MAX_OPTION_REPLIES:
            magic, about, kind, length = wire.OPTION_REPLY.unpack((yield Need(wire.OPTION_REPLY.size)))
            if magic != wire.OPTION_REPLY_MAGIC or about != option:
                raise self._garbled("it answers another question than was asked")
            if length > wire.MAX_OPTION_REPLY_BYTES:
                raise self._garbled(f"an answer of {length} bytes is beyond all bounds")
            body = b""
            if length:
                body = yield Need(length)
            replies.append(_Reply(kind, body))
            if kind == wire.REP_ACK or kind & wire.REP_ERROR:
                return replies
        raise self._garbled("its answers do not end")

    def _no_export(self, reply: _Reply) -> BlocksyncError:
        if reply.kind == wire.REP_TLS_REQUIRED:
            return self._refused("it insists on TLS", reply, remedy="write nbds:// instead of nbd://")
        if reply.kind == wire.REP_UNKNOWN:
            name = self._wanted.export or "(default)"
            return self._refused(
                f"it has no export {name}", reply, remedy="list its exports: nbdinfo --list ADDRESS"
            )
        return self._refused("it refuses", reply, remedy=None)

    def _refused(self, what: str, reply: _Reply, *, remedy: str | None) -> BlocksyncError:
        words = reply.body[: wire.MAX_STRING_BYTES].decode(errors="replace").strip()
        name = wire.REP_NAMES.get(reply.kind, f"answer {reply.kind:#x}")
        return self._failures.answered(f"the NBD server {self._server}: {what}: {words or name}", remedy=remedy)

    def _garbled(self, what: str) -> BlocksyncError:
        return self._failures.garbled(f"the NBD server {self._server}: {what}")
