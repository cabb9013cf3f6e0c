"""The receiver's end against every frame in every state, stale epochs, replays, lying lengths and noise."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import BlocksyncError, ProtocolError, SlotBusyError, VersionSkewError
from blocksync.geometry import Geometry
from blocksync.protocol.limits import MAX_CONNECTIONS, Limits, limits_for
from blocksync.protocol.receiver import MAX_RESEND_RANGES, Binding, DataReceiver
from blocksync.protocol.sender import DataSender, error_by_code
from blocksync.protocol.states import RECEIVER_HEARS, State
from blocksync.protocol.wire import MAX_ANSWER_BYTES, Codec, Frame, FrameKind, Hello, decode_ranges

BLOCK = 64 << 10
HELLO = Hello(session=bytes(16), token=bytes(32), ordinal=0)


def hear(core: DataReceiver, content: bytes) -> tuple[Frame, memoryview] | None:
    """Feed bytes up to the first whole frame."""
    while content:
        room = core.reader.want()
        count = min(len(room), len(content))
        room[:count] = content[:count]
        content = content[count:]
        complete = core.reader.filled(count)
        if complete is not None:
            assert not content
            return complete
    return None


def take(core: DataReceiver, content: bytes) -> Frame:
    complete = hear(core, content)
    assert complete is not None
    core.accept(complete[0])
    return complete[0]


def opened(binding: Binding) -> tuple[DataReceiver, DataSender]:
    core, sender = DataReceiver(), DataSender(binding.epoch)
    complete = hear(core, sender.hello(HELLO))
    assert complete is not None
    assert core.greeting(*complete) == HELLO
    answer(sender, core.welcome(binding))
    return core, sender


def answer(sender: DataSender, content: bytes) -> list[tuple[int, int]]:
    while content:
        room = sender.reader.want()
        count = min(len(room), len(content))
        room[:count] = content[:count]
        content = content[count:]
        complete = sender.reader.filled(count)
        if complete is not None:
            assert not content
            return sender.heard(*complete)
    raise AssertionError("no whole answer")


def test_a_connection_from_hello_to_done(binding: Binding) -> None:
    core, sender = opened(binding)
    assert take(core, sender.data(0, BLOCK, BLOCK, Codec.RAW, bytes(16)) + bytes(BLOCK)).kind is FrameKind.DATA
    assert take(core, sender.zero(BLOCK, 9 * BLOCK + 512)).plain_length == 9 * BLOCK + 512
    take(core, sender.end())
    assert answer(sender, core.done([(BLOCK, BLOCK)])) == [(BLOCK, BLOCK)]
    assert core.state is sender.state is State.CLOSED


@pytest.mark.parametrize(
    ("state", "kind"),
    [(state, kind) for state in State for kind in FrameKind if kind not in RECEIVER_HEARS.get(state, {})],
)
def test_a_kind_that_has_no_place_in_a_state_is_refused_before_its_payload(
    binding: Binding, state: State, kind: FrameKind
) -> None:
    core, _ = opened(binding)
    core.state = state
    frame = Frame(kind=kind, epoch=7, sequence=1, offset=0, plain_length=BLOCK, payload_length=BLOCK)
    with pytest.raises(ProtocolError, match=f"received {kind.name} while the data connection is {state.value}"):
        hear(core, frame.encode())


def test_before_hello_nothing_larger_than_a_hello_gets_a_buffer() -> None:
    for length in (65, 1 << 20, (1 << 32) - 1):
        core = DataReceiver()
        with pytest.raises(ProtocolError, match="exceeds"):
            hear(core, Frame(kind=FrameKind.HELLO, epoch=0, sequence=0, payload_length=length).encode())


@pytest.mark.parametrize("epoch", [0, 6, 8])
def test_frames_of_another_epoch_are_refused(binding: Binding, epoch: int) -> None:
    core, _ = opened(binding)
    with pytest.raises(ProtocolError, match="epoch"):
        hear(core, Frame(kind=FrameKind.ZERO, epoch=epoch, sequence=1, plain_length=BLOCK).encode())


@pytest.mark.parametrize("sequence", [0, 2, 1 << 40])
def test_frames_repeated_or_left_out_are_refused(binding: Binding, sequence: int) -> None:
    core, _ = opened(binding)
    with pytest.raises(ProtocolError, match="was due"):
        hear(core, Frame(kind=FrameKind.ZERO, epoch=7, sequence=sequence, plain_length=BLOCK).encode())


GOOD = Frame(kind=FrameKind.DATA, epoch=7, sequence=1, plain_length=BLOCK, payload_length=BLOCK)


@pytest.mark.parametrize(
    "changes",
    [
        {"plain_length": 0, "payload_length": 0},
        {"plain_length": 2 << 20, "payload_length": 2 << 20},
        {"payload_length": BLOCK - 1},
        {"payload_length": 0, "codec": Codec.ZSTD},
        {"payload_length": BLOCK, "codec": Codec.ZSTD},
        {"payload_length": BLOCK + 1, "codec": Codec.ZSTD},
        {"offset": 512},
        {"offset": 10 * BLOCK},
        {"offset": 11 * BLOCK},
        {"offset": (1 << 64) - BLOCK},
        {"plain_length": BLOCK - 512, "payload_length": BLOCK - 512},
        {"kind": FrameKind.ZERO},
        {"kind": FrameKind.ZERO, "payload_length": 0, "plain_length": 0},
        {"kind": FrameKind.ZERO, "payload_length": 0, "plain_length": 11 * BLOCK},
        {"kind": FrameKind.PATCH, "offset": 100},
        {"kind": FrameKind.PATCH, "offset": 1 << 40},
        {"kind": FrameKind.PATCH, "codec": Codec.ZSTD, "plain_length": (1 << 20) + 1, "payload_length": 100},
        {"kind": FrameKind.END},
        {"kind": FrameKind.END, "payload_length": 0},
    ],
    ids=str,
)
def test_lying_or_misplaced_frames_are_refused(binding: Binding, changes: dict[str, object]) -> None:
    core, _ = opened(binding)
    with pytest.raises(ProtocolError):
        hear(core, dataclasses.replace(GOOD, **changes).encode())  # type: ignore[arg-type]  # from the table above


def test_a_good_frame_is_not_refused(binding: Binding) -> None:
    core, _ = opened(binding)
    assert hear(core, GOOD.encode()) is None
    assert len(core.reader.want()) == BLOCK


def test_end_must_count_what_came_before(binding: Binding) -> None:
    core, _ = opened(binding)
    with pytest.raises(ProtocolError, match="counts"):
        take(core, Frame(kind=FrameKind.END, epoch=7, sequence=1, offset=2).encode())


def test_patches_need_blocks_that_have_pages() -> None:
    small = Binding(epoch=7, geometry=Geometry(1 << 20, 4096), limits=Limits(connections=1, frame_bytes=1 << 20))
    core, _ = opened(small)
    with pytest.raises(ProtocolError, match="pages"):
        hear(core, dataclasses.replace(GOOD, kind=FrameKind.PATCH).encode())


def test_a_patch_at_the_end_of_the_disk_is_refused() -> None:
    whole = Binding(epoch=7, geometry=Geometry(10 * BLOCK), limits=Limits(connections=1, frame_bytes=1 << 20))
    for offset, refused in ((9 * BLOCK, False), (10 * BLOCK, True)):
        core, _ = opened(whole)
        with pytest.raises(ProtocolError, match="PATCH") if refused else contextlib.nullcontext():
            hear(core, dataclasses.replace(GOOD, kind=FrameKind.PATCH, offset=offset).encode())


def test_a_refusal_crosses_the_wire_with_its_class(binding: Binding) -> None:
    core, sender = opened(binding)
    with pytest.raises(SlotBusyError, match="held by db1"):
        answer(sender, core.refuse(SlotBusyError("held by db1")))
    assert sender.state is State.CLOSED


def test_more_to_send_again_than_an_answer_holds_is_an_error(binding: Binding) -> None:
    core, sender = opened(binding)
    take(core, sender.end())
    with pytest.raises(ProtocolError, match="too many blocks"):
        core.done([(0, BLOCK)] * (MAX_RESEND_RANGES + 1))


@given(st.binary(max_size=400), st.integers(1, 70))
def test_any_bytes_are_frames_or_protocol_errors(content: bytes, piece: int) -> None:
    core = DataReceiver()
    try:
        while content:
            room = core.reader.want()
            count = min(piece, len(room), len(content))
            room[:count] = content[:count]
            content = content[count:]
            if core.reader.filled(count) is not None:
                return
    except (ProtocolError, VersionSkewError):
        return


@given(st.binary(max_size=200))
def test_any_answer_is_taken_or_a_typed_error(payload: bytes) -> None:
    for kind in (FrameKind.WELCOME, FrameKind.ERROR, FrameKind.DONE):
        sender = DataSender(1)
        sender.hello(HELLO)
        frame = Frame(kind=kind, epoch=1, sequence=0, payload_length=len(payload))
        with contextlib.suppress(BlocksyncError):
            answer(sender, frame.encode() + payload)


def test_an_answer_is_bounded() -> None:
    sender = DataSender(1)
    sender.hello(HELLO)
    with pytest.raises(ProtocolError, match="exceeds"):
        answer(
            sender,
            Frame(kind=FrameKind.WELCOME, epoch=1, sequence=0, payload_length=MAX_ANSWER_BYTES + 1).encode() + b"x",
        )


def test_unknown_codes_of_a_peer_become_its_error_and_long_texts_are_cut() -> None:
    error = error_by_code("BS9999", "x" * 5000, "y" * 5000)
    assert error.exit_code == 7
    assert len(error.message) < 1100
    assert len(error.remedy) <= 500
    assert error_by_code(17, {"a": 1}).exit_code == 7
    assert json.dumps(error.message)
    assert decode_ranges(b"") == []


def test_limits_keep_an_end_of_a_session_in_its_memory() -> None:
    for block in (4096, 64 << 10, 1 << 20, 16 << 20):
        limits = limits_for(Geometry(1 << 40, block), 1000)
        assert 1 <= limits.connections <= MAX_CONNECTIONS
        assert limits.connections * 3 * limits.frame_bytes <= max(64 << 20, 3 * limits.frame_bytes)
    with pytest.raises(ProtocolError):
        Limits(connections=17, frame_bytes=1 << 20)
    with pytest.raises(ProtocolError):
        Limits(connections=1, frame_bytes=1 << 30)
