"""Requests and replies, sans-IO: many requests may be under way, each reply lands where its request wants it.

The driver sends what the request methods return, fills :meth:`Transmission.want` with received bytes and reports how
many came with :meth:`Transmission.filled`. Data is received straight into the buffer of the request.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from blocksync.errors import BlocksyncError
from blocksync.nbd import wire
from blocksync.nbd.failures import Failures
from blocksync.nbd.negotiation import Agreed
from blocksync.nbd.wire import Command

_U64 = struct.Struct(">Q")
_HOLE = struct.Struct(">QI")
_ERROR = struct.Struct(">IH")
_U32 = struct.Struct(">I")
_NAMES = {
    Command.READ: "cannot read",
    Command.WRITE: "cannot write",
    Command.FLUSH: "cannot make durable",
    Command.WRITE_ZEROES: "cannot zero",
    Command.BLOCK_STATUS: "cannot ask for the allocation of",
}


@dataclass(slots=True)
class Request:
    """One that is under way or done.

    Args:
        buffer: where a read's data lands.
        covered: sorted, joined ``[start, end)`` parts of the buffer that have arrived.
        status: by context's number, ``(length, flags)`` descriptors from the request's offset.
        error: number and words, once the server has told one.
    """

    command: Command
    offset: int
    length: int
    buffer: memoryview | None = None
    covered: list[tuple[int, int]] = field(default_factory=list)
    status: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    error: tuple[int, str] | None = None
    done: bool = False


class Transmission:
    """The phase after the handshake.

    Args:
        agreed: in the handshake.
        failures: classes to raise.
        name: of the export, for messages.
    """

    def __init__(self, agreed: Agreed, failures: Failures, name: str) -> None:
        self._agreed = agreed
        self._failures = failures
        self._name = name
        self._cookie = 0
        self._under_way: dict[int, Request] = {}
        self._room = memoryview(bytearray(wire.SIMPLE_REPLY.size))
        self._at = 0
        self._then: Callable[[], None] = self._header
        self._chunk: tuple[Request, int, int, int, int] | None = None  # request, cookie, flags, type, length

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    # -- requests -------------------------------------------------------------------------------------------------

    def begin(self, request: Request, *, flags: int = 0) -> bytes:
        """Its header; a write's payload follows it on the wire."""
        self._cookie += 1
        self._under_way[self._cookie] = request
        return wire.REQUEST.pack(
            wire.REQUEST_MAGIC, flags, request.command, self._cookie, request.offset, request.length
        )

    @staticmethod
    def disconnect() -> bytes:
        return wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0)

    def failure(self, request: Request) -> BlocksyncError | None:
        """What became of a request that is done; None for success."""
        if request.error is None:
            return None
        number, words = request.error
        doing = f"{_NAMES[request.command]} {self._name}"
        if request.command is not Command.FLUSH:
            doing += f" at offset {request.offset}"
        return self._failures.of_number(number, doing, words)

    # -- replies --------------------------------------------------------------------------------------------------

    def want(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._room[self._at :]

    def filled(self, count: int) -> None:
        """So many bytes of :meth:`want` have come.

        Raises:
            BlocksyncError: of the class for garbled replies; the connection is of no use any more.
        """
        self._at += count
        if self._at == len(self._room):
            self._then()

    def _next(self, room: memoryview, then: Callable[[], None]) -> None:
        self._room, self._at, self._then = room, 0, then

    def _fresh(self, count: int, then: Callable[[], None]) -> None:
        self._next(memoryview(bytearray(count)), then)

    def _ready(self) -> None:
        self._chunk = None
        self._fresh(wire.SIMPLE_REPLY.size, self._header)

    def _header(self) -> None:
        magic = _U32.unpack_from(self._room)[0]
        if magic == wire.SIMPLE_REPLY_MAGIC:
            _, error, cookie = wire.SIMPLE_REPLY.unpack(self._room)
            self._simple(cookie, error)
        elif magic == wire.STRUCTURED_REPLY_MAGIC and self._agreed.structured:
            head = bytes(self._room)
            self._fresh(wire.STRUCTURED_REST.size, lambda: self._structured(head))
        else:
            raise self._garbled(f"a reply begins with {magic:#x}")

    def _simple(self, cookie: int, error: int) -> None:
        request = self._find(cookie)
        if request.command is Command.BLOCK_STATUS and not error:
            raise self._garbled("a simple reply tells no allocation")
        if request.command is Command.READ and self._agreed.structured:
            raise self._garbled("a simple reply to a read where structured ones were agreed on")
        if error:
            request.error = error, ""
        elif request.command is Command.READ:
            assert request.buffer is not None
            request.covered = [(0, request.length)]
            self._next(request.buffer, lambda: self._finish(cookie))
            return
        self._finish(cookie)

    def _structured(self, head: bytes) -> None:
        _, flags, kind, cookie = wire.STRUCTURED_HEAD.unpack(head)
        length = wire.STRUCTURED_REST.unpack(self._room)[0]
        request = self._find(cookie)
        self._chunk = request, cookie, flags, kind, length
        if kind == wire.CHUNK_NONE:
            if length or not flags & wire.REPLY_DONE:
                raise self._garbled("an empty chunk that is not empty, or not the last")
            self._end_chunk()
            return
        if kind & wire.CHUNK_ERROR_BIT:
            if not _ERROR.size <= length <= wire.MAX_ERROR_BYTES:
                raise self._garbled(f"an error of {length} bytes")
            self._fresh(length, self._error)
            return
        self._content(request, kind, length)

    def _content(self, request: Request, kind: int, length: int) -> None:
        """Prepare for a chunk that carries what was asked for; every bound is checked before anything is made."""
        if kind == wire.CHUNK_DATA and request.command is Command.READ and 8 < length <= 8 + request.length:
            self._fresh(8, self._data_offset)
        elif kind == wire.CHUNK_HOLE and request.command is Command.READ and length == _HOLE.size:
            self._fresh(length, self._hole)
        elif (
            kind == wire.CHUNK_STATUS
            and request.command is Command.BLOCK_STATUS
            and 12 <= length <= wire.MAX_STATUS_BYTES
            and (length - 4) % wire.EXTENT.size == 0
        ):
            self._fresh(length, self._status)
        else:
            raise self._garbled(f"a chunk of type {kind} and {length} bytes for command {request.command.name}")

    def _data_offset(self) -> None:
        assert self._chunk is not None
        request, _, _, _, length = self._chunk
        start = _U64.unpack(self._room)[0] - request.offset
        self._cover(request, start, length - 8)
        assert request.buffer is not None
        self._next(request.buffer[start : start + length - 8], self._end_chunk)

    def _hole(self) -> None:
        assert self._chunk is not None
        request = self._chunk[0]
        offset, size = _HOLE.unpack(self._room)
        start = offset - request.offset
        self._cover(request, start, size)
        assert request.buffer is not None
        request.buffer[start : start + size] = bytes(size)
        self._end_chunk()

    def _cover(self, request: Request, start: int, size: int) -> None:
        end = start + size
        if start < 0 or size <= 0 or end > request.length:
            raise self._garbled("a chunk leaves the range that was asked for")
        joined: list[tuple[int, int]] = []
        for low, high in sorted([*request.covered, (start, end)]):
            if joined and low < joined[-1][1]:
                raise self._garbled("chunks of one read overlap")
            if joined and low == joined[-1][1]:
                joined[-1] = joined[-1][0], high
            else:
                joined.append((low, high))
        request.covered = joined

    def _status(self) -> None:
        assert self._chunk is not None
        request = self._chunk[0]
        context = _U32.unpack_from(self._room)[0]
        if context in request.status or context not in self._agreed.contexts.values():
            raise self._garbled("allocation is told twice, or of a context that was not chosen")
        told = list(wire.EXTENT.iter_unpack(self._room[4:]))
        before_last = sum(length for length, _ in told[:-1])
        if any(not length for length, _ in told) or before_last >= request.length:
            raise self._garbled("extents of no length, or beyond the range that was asked for")
        request.status[context] = told
        self._end_chunk()

    def _error(self) -> None:
        assert self._chunk is not None
        number, words = _ERROR.unpack_from(self._room)
        if _ERROR.size + words > len(self._room):
            raise self._garbled("an error's words are longer than its chunk")
        request = self._chunk[0]
        text = bytes(self._room[_ERROR.size : _ERROR.size + words]).decode(errors="replace")
        if request.error is None:
            request.error = number or wire.EIO, text
        self._end_chunk()

    def _end_chunk(self) -> None:
        assert self._chunk is not None
        _, cookie, flags, _, _ = self._chunk
        if flags & wire.REPLY_DONE:
            self._finish(cookie)
        else:
            self._ready()

    def _finish(self, cookie: int) -> None:
        request = self._under_way.pop(cookie)
        if request.error is None:
            if request.command is Command.READ and request.covered != [(0, request.length)]:
                raise self._garbled("a read is answered in part only")
            if request.command is Command.BLOCK_STATUS and not request.status:
                raise self._garbled("no allocation is told")
        request.done = True
        self._ready()

    def _find(self, cookie: int) -> Request:
        request = self._under_way.get(cookie)
        if request is None:
            raise self._garbled("a reply to a request that was not made")
        return request

    def _garbled(self, what: str) -> BlocksyncError:
        return self._failures.garbled(f"the NBD server of {self._name} sent nonsense: {what}")
