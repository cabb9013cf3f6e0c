"""The sans-IO halves against servers that lie: each rule of the protocol broken once, and any bytes at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocksync.errors import NbdSourceError, NbdSourceProtocolError, UsageError
from blocksync.nbd import wire
from blocksync.nbd.address import parse_address
from blocksync.nbd.failures import SOURCE_FAILURES
from blocksync.nbd.negotiation import Agreed, Need, Negotiation, Wanted
from blocksync.nbd.transmission import Request, Transmission
from blocksync.nbd.wire import Command, Option

GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def reply(option: int, kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(body)) + body


def fact(size: int = 1 << 20, flags: int = 1) -> bytes:
    return reply(Option.GO, 3, struct.pack(">HQH", 0, size, flags))


def shake(stream: bytes, wanted: Wanted | None = None) -> Agreed:
    """Feed a server's bytes to a handshake; reads beyond them are as zeros."""
    steps = Negotiation(wanted or Wanted(export="x"), SOURCE_FAILURES, "it").run()
    given: bytes | None = None
    asked = 0
    try:
        while True:
            step = steps.send(given)  # type: ignore[arg-type]
            given = b""
            if isinstance(step, Need):
                asked += step.count
                assert step.count <= 64 << 10
                given, stream = stream[: step.count].ljust(step.count, b"\0"), stream[step.count :]
    except StopIteration as end:
        agreed: Agreed = end.value
        return agreed


PLAIN = GREETING + reply(Option.STRUCTURED_REPLY, wire.REP_ERROR + 1)


def test_a_modest_server_is_understood() -> None:
    agreed = shake(PLAIN + fact() + reply(Option.GO, 1))
    assert (agreed.size, agreed.least, agreed.structured, agreed.contexts) == (1 << 20, 1, False, {})


def test_block_sizes_and_contexts_are_taken_over() -> None:
    stream = GREETING + reply(Option.STRUCTURED_REPLY, 1)
    stream += reply(Option.SET_META_CONTEXT, 4, struct.pack(">I", 7) + b"base:allocation")
    stream += reply(Option.SET_META_CONTEXT, 1)
    stream += fact() + reply(Option.GO, 3, struct.pack(">HIII", 3, 4096, 65536, 0xFFFFFFFF)) + reply(Option.GO, 1)
    agreed = shake(stream)
    assert (agreed.least, agreed.most, agreed.contexts) == (4096, 32 << 20, {"base:allocation": 7})


CLOSING = reply(Option.GO, 1)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 400 Bad Request",
        struct.pack(">QQH", 0x4E42444D41474943, 0x00420281861253, 0),
        struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 0),
        GREETING + reply(Option.GO, 1),
        GREETING + struct.pack(">QIII", 0x3E889045565A9, Option.STRUCTURED_REPLY, 1, 1 << 31),
        GREETING + struct.pack(">QIII", 1, Option.STRUCTURED_REPLY, 1, 0),
        PLAIN + CLOSING,
        PLAIN + fact(size=1 << 63) + CLOSING,
        PLAIN + fact(flags=0) + CLOSING,
        PLAIN + reply(Option.GO, 3, b"\0\0" + b"x" * 3) + CLOSING,
        PLAIN + reply(Option.GO, 3, b"") + CLOSING,
        PLAIN + fact() + reply(Option.GO, 3, struct.pack(">HIII", 3, 3, 4096, 65536)) + CLOSING,
        PLAIN + fact() + reply(Option.GO, 3, struct.pack(">HIII", 3, 1 << 20, 1 << 20, 1 << 25)) + CLOSING,
        PLAIN + fact() + reply(Option.GO, 3, struct.pack(">HIII", 3, 512, 512, 512)) + CLOSING,
        PLAIN + fact() * 5000 + CLOSING,
        GREETING
        + reply(Option.STRUCTURED_REPLY, 1)
        + reply(Option.SET_META_CONTEXT, 4, struct.pack(">I", 7) + b"other:thing")
        + reply(Option.SET_META_CONTEXT, 1),
    ],
)
def test_each_lie_of_a_handshake_is_a_typed_error(stream: bytes) -> None:
    with pytest.raises(NbdSourceProtocolError) as told:
        shake(stream)
    assert told.value.remedy


def test_an_export_that_is_missing_is_told_with_the_servers_words() -> None:
    with pytest.raises(NbdSourceError, match="it is gone"):
        shake(PLAIN + reply(Option.GO, wire.REP_UNKNOWN, b"it is gone"))


@given(st.binary(max_size=400))
def test_any_bytes_end_a_handshake_with_a_typed_error(stream: bytes) -> None:
    for before in (b"", GREETING, PLAIN, PLAIN + fact()):
        with pytest.raises((NbdSourceProtocolError, NbdSourceError)):
            shake(before + stream)


# -- replies --------------------------------------------------------------------------------------------------------

SIZE = 64


def core(*, structured: bool = True) -> Transmission:
    agreed = Agreed(
        size=1 << 20, flags=1, least=1, most=1 << 25, structured=structured, contexts={"base:allocation": 7}
    )
    return Transmission(agreed, SOURCE_FAILURES, "it")


def feed(side: Transmission, stream: bytes) -> None:
    while stream:
        room = side.want()
        here = min(len(room), len(stream))
        assert 0 < len(room) <= wire.MAX_STATUS_BYTES
        room[:here] = stream[:here]
        stream = stream[here:]
        side.filled(here)


def chunk(kind: int, body: bytes = b"", *, done: bool = False, cookie: int = 1, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, size) + body


def data(offset: int, content: bytes, *, done: bool = False) -> bytes:
    return chunk(1, struct.pack(">Q", offset) + content, done=done)


def reading(*, structured: bool = True) -> tuple[Transmission, Request]:
    side = core(structured=structured)
    request = Request(Command.READ, 1000, SIZE, memoryview(bytearray(b"?" * SIZE)))
    side.begin(request)
    return side, request


def test_chunks_in_any_order_and_holes_make_a_read() -> None:
    side, request = reading()
    hole = chunk(2, struct.pack(">QI", 1010, 20))
    feed(side, data(1030, b"b" * 34) + hole + data(1000, b"a" * 10) + chunk(0, done=True))
    assert request.done
    assert bytes(request.buffer or b"") == b"a" * 10 + bytes(20) + b"b" * 34
    assert side.under_way == 0


def test_replies_byte_by_byte_and_out_of_turn() -> None:
    side = core(structured=False)
    one, two = (Request(Command.READ, at, 8, memoryview(bytearray(8))) for at in (0, 8))
    side.begin(one)
    side.begin(two)
    stream = struct.pack(">IIQ", 0x67446698, 0, 2) + b"twotwotw" + struct.pack(">IIQ", 0x67446698, 5, 1)
    for at in range(len(stream)):
        feed(side, stream[at : at + 1])
    assert bytes(two.buffer or b"") == b"twotwotw"
    assert one.error == (5, "")


@pytest.mark.parametrize(
    "stream",
    [
        b"\0" * 16,
        struct.pack(">IIQ", 0x67446698, 0, 1),  # simple where structured was agreed on
        struct.pack(">IIQ", 0x67446698, 5, 99),
        chunk(0, done=True, cookie=99),
        chunk(0),
        chunk(0, b"x", done=True),
        chunk(0, done=True),  # nothing came
        data(1000, b"a" * 10, done=True),  # not all came
        data(1000, b"a" * 40) + data(1030, b"a" * 34, done=True),
        data(999, b"a" * SIZE, done=True),
        data(1001, b"a" * SIZE, done=True),
        data(1000, b"a" * (SIZE + 1), done=True),
        data(1 << 63, b"a", done=True),
        chunk(1, length=1 << 31),
        chunk(1, length=8),
        chunk(2, struct.pack(">QI", 1000, 0), done=True),
        chunk(2, struct.pack(">QI", 1000, SIZE + 1), done=True),
        chunk(2, length=1 << 30),
        chunk(5, struct.pack(">III", 7, 4096, 0), done=True),  # allocation for a read
        chunk(77, done=True),
        chunk(0x8001, length=1 << 30),
        chunk(0x8001, b"", done=True),
        chunk(0x8001, struct.pack(">IH", 5, 100) + b"short", done=True),
    ],
)
def test_each_lie_about_a_read_is_a_typed_error(stream: bytes) -> None:
    side, _ = reading()
    with pytest.raises(NbdSourceProtocolError):
        feed(side, stream)


def test_errors_keep_their_words_and_unknown_ones_count_as_errors() -> None:
    side, request = reading()
    feed(side, chunk(0x8001, struct.pack(">IH", 5, 3) + b"bad", done=True))
    assert "bad" in str(side.failure(request))
    side, request = reading()
    feed(side, chunk(0x8099, struct.pack(">IH", 0, 0) + b"more", done=True))
    assert request.error == (5, "")


def status(*pairs: int, context: int = 7, done: bool = True) -> bytes:
    return chunk(5, struct.pack(f">I{len(pairs)}I", context, *pairs), done=done)


@pytest.mark.parametrize(
    "stream",
    [
        status(0, 0),
        status(4096, 0, 4096, 0),  # more than was asked for, before the last
        status(4096, 0, context=8),
        status(2048, 0, done=False) + status(2048, 0),
        chunk(0, done=True),
        chunk(5, length=wire.MAX_STATUS_BYTES + 8),
        chunk(5, length=11),
        struct.pack(">IIQ", 0x67446698, 0, 1),
    ],
)
def test_each_lie_about_allocation_is_a_typed_error(stream: bytes) -> None:
    side = core()
    side.begin(Request(Command.BLOCK_STATUS, 0, 4096))
    with pytest.raises(NbdSourceProtocolError):
        feed(side, stream)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from([0, 1, 2, 5, 0x8001, 9]), st.integers(1, 2), st.binary(max_size=80)
        )
    )
)
def test_any_chunks_are_values_or_typed_errors_within_bounds(chunks: list[tuple[int, int, int, bytes]]) -> None:
    side, request = reading()
    side.begin(Request(Command.BLOCK_STATUS, 0, 4096))
    try:
        for done, kind, cookie, body in chunks:
            feed(side, chunk(kind, body, done=bool(done), cookie=cookie))
    except NbdSourceProtocolError:
        return
    if request.done and request.error is None:
        assert request.covered == [(0, SIZE)]


# -- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("nbd://host/disk", "nbd://host:10809/disk"),
        ("nbd://host:1/", "nbd://host:1/"),
        ("nbds://[::1]:1/a%20b", "nbds://[::1]:1/a%20b"),
        ("nbd+unix:///e?socket=/run/it", "nbd+unix:///e?socket=/run/it"),
        ("nbd://host/disk?bitmap=b&since=c", "nbd://host:10809/disk"),
    ],
)
def test_addresses_have_one_canonical_text(text: str, canonical: str) -> None:
    address = parse_address(text)
    assert address.text == canonical
    assert parse_address(address.text) == address.without_changes()


@pytest.mark.parametrize(
    "text",
    [
        "http://host/x",
        "nbd:///x",
        "nbd://host/x?socket=/it",
        "nbd+unix:///x",
        "nbd+unix://host/x?socket=/it",
        "nbd://host:99999/x",
        "nbd://host/x?other=1",
        "nbd://host/x?bitmap=a&bitmap=b",
        "nbd://me@host/x",
        "nbd://host/" + "x" * 5000,
        "nbd://host/x?tls-verify-peer",
    ],
)
def test_what_is_no_address_is_a_usage_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as told:
        parse_address(text)
    assert "nbd" in told.value.remedy
