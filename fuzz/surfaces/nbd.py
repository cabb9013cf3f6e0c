"""What an NBD server answers: in the handshake, and to reads, writes and questions for allocation.

Magic numbers, and the number of the option or request that is answered, are put right where a bit of the first byte
says so: a hostile server knows them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from blocksync.nbd import wire
from blocksync.nbd.failures import SOURCE_FAILURES
from blocksync.nbd.negotiation import Agreed, Need, Negotiation, Send, StartTls, Wanted
from blocksync.nbd.transmission import Request, Transmission
from blocksync.nbd.wire import Command
from fuzz.surfaces import Surface

REPAIR, HANDSHAKE, STRUCTURED, TLS = 1, 2, 4, 8
SIZE = 1 << 20
LENGTH = 64 << 10
CONTEXT = 3


def run(data: bytes) -> None:
    if not data:
        return
    mode = data[0]
    if mode & HANDSHAKE:
        _greet(data[1:], mode)
    else:
        _answers(data[1:], mode)


def _greet(stream: bytes, mode: int) -> None:
    wanted = Wanted(export="disk", tls=bool(mode & TLS), listed=wire.BITMAP_PREFIX)
    steps = Negotiation(wanted, SOURCE_FAILURES, "server").run()
    option, at, count = 0, 0, 0
    try:
        step = next(steps)
        while True:
            answer = b""
            if isinstance(step, Send):
                if len(step.data) >= wire.OPTION.size:
                    option = wire.OPTION.unpack_from(step.data)[1]
            elif isinstance(step, Need):
                assert 0 < step.count <= wire.MAX_OPTION_REPLY_BYTES
                answer = stream[at : at + step.count]
                at += step.count
                if len(answer) < step.count:
                    return
                if mode & REPAIR:
                    answer = _magic(answer, option, count)
                count += 1
            else:
                assert isinstance(step, StartTls)
            step = steps.send(answer) if answer else next(steps)
    except StopIteration as done:
        agreed: Agreed = done.value
    assert 0 <= agreed.size <= wire.MAX_SIZE
    assert 0 < agreed.least <= agreed.most <= wire.DEFAULT_MAX_BLOCK_BYTES
    assert set(agreed.contexts) <= set(wanted.contexts)


def _magic(answer: bytes, option: int, count: int) -> bytes:
    if not count:
        return struct.pack(">QQ", wire.MAGIC, wire.OPTION_MAGIC) + answer[16:]
    if len(answer) == wire.OPTION_REPLY.size:
        return struct.pack(">QI", wire.OPTION_REPLY_MAGIC, option) + answer[12:]
    return answer


def _answers(stream: bytes, mode: int) -> None:
    structured = bool(mode & STRUCTURED)
    contexts = {wire.ALLOCATION: CONTEXT} if structured else {}
    agreed = Agreed(size=SIZE, flags=1, least=512, most=1 << 20, structured=structured, contexts=contexts)
    core = Transmission(agreed, SOURCE_FAILURES, "disk")
    requests = [
        Request(Command.READ, 4096, LENGTH, memoryview(bytearray(LENGTH))),
        Request(Command.READ, 0, 512, memoryview(bytearray(512))),
        Request(Command.WRITE, 0, 512),
        Request(Command.FLUSH, 0, 0),
    ]
    if structured:
        requests.append(Request(Command.BLOCK_STATUS, 0, LENGTH))
    for request in requests:
        core.begin(request)
    view = memoryview(stream)
    while view:
        room = core.want()
        assert 0 < len(room) <= max(LENGTH, wire.MAX_STATUS_BYTES)
        count = min(len(room), len(view))
        room[:count] = view[:count]
        view = view[count:]
        if count == len(room) == wire.SIMPLE_REPLY.size and mode & REPAIR:
            room[:4] = struct.pack(">I", wire.STRUCTURED_REPLY_MAGIC if room[0] & 1 else wire.SIMPLE_REPLY_MAGIC)
            room[8:16] = struct.pack(">Q", room[15] % 8)
        core.filled(count)
    for request in requests:
        if request.done:
            _check(core, request)


def _check(core: Transmission, request: Request) -> None:
    if core.failure(request) is not None:
        return
    if request.command is Command.READ:
        assert request.covered == [(0, request.length)]
    elif request.command is Command.BLOCK_STATUS:
        told = request.status[CONTEXT]
        assert all(length for length, _ in told)
        assert sum(length for length, _ in told[:-1]) < request.length


def _reply(kind: int, body: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, 0, kind, len(body)) + body


def _chunk(flags: int, kind: int, cookie: int, body: bytes = b"") -> bytes:
    head = wire.STRUCTURED_HEAD.pack(wire.STRUCTURED_REPLY_MAGIC, flags, kind, cookie)
    return head + wire.STRUCTURED_REST.pack(len(body)) + body


def seeds() -> Iterator[bytes]:
    greeting = wire.GREETING.pack(wire.MAGIC, wire.OPTION_MAGIC, 3)
    ack = _reply(wire.REP_ACK)
    meta = _reply(wire.REP_META_CONTEXT, struct.pack(">I", CONTEXT) + wire.ALLOCATION.encode())
    facts = _reply(wire.REP_INFO, wire.INFO_EXPORT_BODY.pack(0, SIZE, 1))
    facts += _reply(wire.REP_INFO, wire.INFO_BLOCK_SIZE_BODY.pack(3, 512, 4096, 1 << 20))
    refused = _reply(wire.REP_UNKNOWN, b"no such export")
    for mode in (HANDSHAKE, HANDSHAKE | REPAIR):
        yield bytes((mode,)) + greeting + ack + ack + meta + ack + facts + ack
        yield bytes((mode,)) + greeting + refused + refused
    yield bytes((HANDSHAKE | REPAIR | TLS,)) + greeting + ack + ack + ack + meta + ack + facts + ack
    simple = [wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie) for cookie in range(5)]
    yield bytes((REPAIR,)) + simple[2] + bytes(512) + simple[3] + simple[4]
    yield bytes((REPAIR,)) + wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 5, 1)
    done = wire.REPLY_DONE
    hole = _chunk(0, wire.CHUNK_HOLE, 1, struct.pack(">QI", 4096, LENGTH - 512))
    data = _chunk(done, wire.CHUNK_DATA, 1, struct.pack(">Q", 4096 + LENGTH - 512) + bytes(512))
    status = struct.pack(">I", CONTEXT) + wire.EXTENT.pack(4096, 3) + wire.EXTENT.pack(LENGTH, 0)
    error = _chunk(done, wire.CHUNK_ERROR, 2, struct.pack(">IH", 5, 3) + b"bad")
    for mode in (STRUCTURED, STRUCTURED | REPAIR):
        yield bytes((mode,)) + hole + data + _chunk(done, wire.CHUNK_STATUS, 5, status) + error
        yield bytes((mode,)) + _chunk(done, wire.CHUNK_NONE, 4) + _chunk(done, wire.CHUNK_NONE, 3)


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.nbd",), most_bytes=2048)
