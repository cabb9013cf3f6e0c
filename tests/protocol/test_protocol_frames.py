"""Headers, tables and buffers: what is read back, what is refused, and when."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import ProtocolError, VersionSkewError
from blocksync.protocol.reader import FrameReader, check_lengths
from blocksync.protocol.wire import (
    HEADER_BYTES,
    BlockPatch,
    Codec,
    Frame,
    FrameKind,
    Hello,
    decode_header,
    decode_patch_table,
    decode_ranges,
    encode_patch_table,
    encode_ranges,
)

U64 = st.integers(0, (1 << 64) - 1)
FRAMES = st.builds(
    Frame,
    kind=st.sampled_from(FrameKind),
    codec=st.sampled_from(Codec),
    epoch=U64,
    sequence=U64,
    offset=U64,
    plain_length=U64,
    payload_length=st.integers(0, (1 << 32) - 1),
    digest=st.binary(min_size=16, max_size=16),
)


@given(FRAMES)
def test_headers_are_read_back(frame: Frame) -> None:
    assert decode_header(frame.encode()) == frame


def sealed(header: bytearray) -> bytes:
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    return bytes(header)


def test_every_flipped_bit_of_a_header_is_noticed() -> None:
    good = Frame(kind=FrameKind.DATA, epoch=1, sequence=2, offset=3 << 16, plain_length=1 << 16).encode()
    for bit in range(8 * HEADER_BYTES):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError if not 32 <= bit < 40 else VersionSkewError):
            decode_header(bad)


@pytest.mark.parametrize(("at", "value"), [(5, 0), (5, 9), (6, 2), (7, 1)])
def test_unknown_kinds_codecs_and_flags_are_refused_though_sealed(at: int, value: int) -> None:
    header = bytearray(Frame(kind=FrameKind.END, epoch=1, sequence=0).encode())
    header[at] = value
    with pytest.raises(ProtocolError):
        decode_header(sealed(header))


def test_another_version_is_told_as_such_before_anything_else_is_looked_at() -> None:
    header = bytearray(b"BSYN\x02" + b"\xff" * 59)
    with pytest.raises(VersionSkewError, match="2"):
        decode_header(header)


def test_something_else_is_told_as_such() -> None:
    with pytest.raises(ProtocolError, match="not a blocksync frame"):
        decode_header(b"GET / HTTP/1.1\r\n".ljust(64))


@given(st.binary(min_size=64, max_size=64))
def test_any_64_bytes_are_a_frame_or_a_protocol_error(content: bytes) -> None:
    try:
        decode_header(content)
    except (ProtocolError, VersionSkewError):
        return
    raise AssertionError("random bytes with a matching CRC-32 would be news")


def test_a_hello_is_read_back_and_names_its_version() -> None:
    hello = Hello(session=bytes(range(16)), token=bytes(range(32)), ordinal=3)
    assert Hello.decode(hello.encode()) == hello
    other = bytearray(hello.encode())
    other[50] = 9
    with pytest.raises(VersionSkewError):
        Hello.decode(bytes(other))
    with pytest.raises(ProtocolError):
        Hello.decode(hello.encode()[:-1])


@given(st.lists(st.tuples(U64, U64)))
def test_ranges_are_read_back(ranges: list[tuple[int, int]]) -> None:
    assert decode_ranges(encode_ranges(ranges)) == ranges


def test_ranges_cut_short_are_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_ranges(encode_ranges([(1, 2)])[:-1])


@st.composite
def patch_tables(draw: st.DrawFn) -> list[BlockPatch]:
    patches = []
    for index in sorted(draw(st.sets(st.integers(0, 15), min_size=1))):
        pages = sorted(draw(st.sets(st.integers(0, 15), min_size=1)))
        runs: list[tuple[int, int]] = []
        for page in pages:
            if runs and sum(runs[-1]) == page:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((page, 1))
        patches.append(BlockPatch(index, tuple(runs)))
    return patches


@given(patch_tables(), st.binary(max_size=50))
def test_patch_tables_are_read_back(patches: list[BlockPatch], pages: bytes) -> None:
    table = encode_patch_table(patches)
    assert decode_patch_table(memoryview(table + pages), blocks=16, pages_per_block=16) == (patches, len(table))


@given(patch_tables())
def test_patch_tables_cut_anywhere_are_refused(patches: list[BlockPatch]) -> None:
    table = encode_patch_table(patches)
    for length in range(len(table)):
        with pytest.raises(ProtocolError):
            decode_patch_table(memoryview(table[:length]), blocks=16, pages_per_block=16)


@pytest.mark.parametrize(
    "patches",
    [
        [BlockPatch(16, ((0, 1),))],
        [BlockPatch(2, ((0, 1),)), BlockPatch(2, ((0, 1),))],
        [BlockPatch(3, ((0, 1),)), BlockPatch(2, ((0, 1),))],
        [BlockPatch(0, ())],
        [BlockPatch(0, ((15, 2),))],
        [BlockPatch(0, ((4, 2), (5, 1)))],
        [BlockPatch(0, ((4, 2), (1, 1)))],
        [],
    ],
)
def test_patch_tables_out_of_order_or_bounds_are_refused(patches: list[BlockPatch]) -> None:
    with pytest.raises(ProtocolError):
        decode_patch_table(memoryview(encode_patch_table(patches)), blocks=16, pages_per_block=16)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_patch_table_within_bounds_or_a_protocol_error(content: bytes) -> None:
    try:
        patches, at = decode_patch_table(memoryview(content), blocks=16, pages_per_block=16)
    except ProtocolError:
        return
    assert at <= len(content)
    assert all(patch.index < 16 and sum(run) <= 16 for patch in patches for run in patch.runs)


def feed(reader: FrameReader, content: bytes, cuts: list[int]) -> list[tuple[Frame, bytes]]:
    """Fill the reader's buffers in pieces of the given lengths, then one byte at a time."""
    frames = []
    lengths = iter(cuts)
    while content:
        room = reader.want()
        count = min(next(lengths, 1), len(room), len(content))
        room[:count] = content[:count]
        content = content[count:]
        complete = reader.filled(count)
        if complete is not None:
            frames.append((complete[0], bytes(complete[1])))
    return frames


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(1, 150)))
def test_frames_are_cut_from_a_stream_however_it_arrives(payloads: list[bytes], cuts: list[int]) -> None:
    sent = [
        (Frame(kind=FrameKind.DATA, epoch=1, sequence=n, payload_length=len(payload)), payload)
        for n, payload in enumerate(payloads)
    ]
    reader = FrameReader(lambda frame: check_lengths(frame, 1000))
    assert feed(reader, b"".join(frame.encode() + payload for frame, payload in sent), cuts) == sent
    assert reader.between_frames


def test_a_length_is_checked_before_a_buffer_is_made_for_it() -> None:
    reader = FrameReader(lambda frame: check_lengths(frame, 1 << 20))
    huge = Frame(kind=FrameKind.DATA, epoch=1, sequence=0, payload_length=(1 << 32) - 1).encode()
    reader.want()[:] = huge
    with pytest.raises(ProtocolError, match="exceeds"):
        reader.filled(len(huge))
    assert len(reader.want()) <= HEADER_BYTES
    assert not reader.between_frames or reader._payload is None


def test_more_bytes_than_were_lent_are_a_fault_of_the_driver() -> None:
    reader = FrameReader(lambda _frame: None)
    with pytest.raises(ValueError, match="reported"):
        reader.filled(65)
    with pytest.raises(ValueError, match="reported"):
        reader.filled(0)


@pytest.mark.parametrize("at", range(52, 64))
def test_a_hello_with_something_in_its_reserved_bytes_is_refused(at: int) -> None:
    """Found by flipping bits: seeds 103482, 106913 and 111116 of ``python -m tests.flips``."""
    payload = bytearray(Hello(session=bytes(16), token=bytes(32), ordinal=0).encode())
    payload[at] = 1
    with pytest.raises(ProtocolError, match="reserved"):
        Hello.decode(payload)
