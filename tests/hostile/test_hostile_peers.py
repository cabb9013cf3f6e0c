"""A paired peer that means harm: other slots, other sessions, old epochs, frames again, out of order, cut, lying."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from blocksync.engine.reach import Reach
from blocksync.errors import BlocksyncError, NetworkError, PeerError, ProtocolError, TrustError
from blocksync.protocol.messages import CommitRequest, OpenAnswer, OpenRequest, VerifyRequest
from blocksync.protocol.sender import DataSender
from blocksync.protocol.wire import Codec, Frame, FrameKind, Hello
from blocksync.transports.link import Link
from blocksync.trust.grants import Grant
from tests.serving import MIB, Receiver, receiver

SIZE = 4 * MIB
BLOCK = 65536


def request(**changes: object) -> OpenRequest:
    values: dict[str, object] = {
        "version": 1, "run": bytes(16), "slot": "a", "source_identity": "disk", "source_name": "disk", "size": SIZE,
        "sector_bytes": 512, "block_bytes": BLOCK, "digest": 1, "connections": 2, "replace": False,
    }  # fmt: skip
    return OpenRequest(**(values | changes))  # type: ignore[arg-type]  # the table above


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


def peer(served: Receiver, name: str, *slots: str) -> Reach:
    """A machine that is paired, with a grant for these slots."""
    reach = served.reach(name, code=served.serving.listening().code)
    grants = served.serving._grants
    grant = grants.find(reach._identity.fingerprint)
    assert grant is not None
    grants.revoke(grant.fingerprint.hex())
    grants.add(Grant.make(grant.certificate, name, slots, grant.since))
    return reach


@pytest.fixture
def good(served: Receiver) -> Iterator[Reach]:
    made = peer(served, "good", "b")
    yield made
    made.close()


@pytest.fixture
def bad(served: Receiver) -> Iterator[Reach]:
    made = peer(served, "bad", "a")
    yield made
    made.close()


def content(served: Receiver, slot: str = "a") -> bytes:
    return (served.folder / f"{slot}.img").read_bytes()


# -- other slots ---------------------------------------------------------------------------------------------------

VERIFY = VerifyRequest(version=1, slot="b", size=SIZE, offset=0, length=SIZE, piece_bytes=BLOCK, key=bytes(32))
ATTEMPTS: dict[str, Callable[[Reach, bytes], object]] = {
    "open": lambda bad, _: bad.control.open(request(slot="b")),
    "replace": lambda bad, _: bad.control.open(request(slot="b", replace=True)),
    "path": lambda bad, _: bad.control.open(request(slot="../b")),
    "verify": lambda bad, _: list(bad.control.verify(VERIFY)[1]),
    "heartbeat": lambda bad, session: bad.control.heartbeat(session),
    "segments": lambda bad, session: bad.control.segment_digests(session),
    "segment": lambda bad, session: bad.control.segment(session, 0),
    "commit": lambda bad, session: bad.control.commit(session, CommitRequest(root=bytes(16))),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_peer_does_nothing_to_a_slot_that_is_not_granted(
    served: Receiver, good: Reach, bad: Reach, attempt: str
) -> None:
    session = good.control.open(request(slot="b", run=b"g" * 16))
    with pytest.raises((TrustError, PeerError, NetworkError)):
        ATTEMPTS[attempt](bad, session.session)
    assert good.control.heartbeat(session.session).epoch == session.epoch
    assert not any(content(served, "b"))


def test_ending_anothers_session_does_nothing(good: Reach, bad: Reach) -> None:
    session = good.control.open(request(slot="b"))
    bad.control.end(session.session)
    assert good.control.heartbeat(session.session).epoch == session.epoch


def test_a_stolen_token_is_worth_nothing_with_another_key(served: Receiver, good: Reach, bad: Reach) -> None:
    session = good.control.open(request(slot="b"))
    link = bad._connect_data(session)
    core = DataSender(session.epoch)
    link.send(core.hello(Hello(session=session.session, token=session.token, ordinal=0)))
    with pytest.raises(BlocksyncError):
        hear(link, core)
    link.close()


# -- frames ---------------------------------------------------------------------------------------------------------


def hear(link: Link, core: DataSender) -> None:
    while True:
        complete = core.reader.filled(link.recv_into(core.reader.want()))
        if complete is not None:
            core.heard(*complete)
            return


class Wire:
    """A data connection by hand, past its greeting."""

    def __init__(self, reach: Reach, session: OpenAnswer) -> None:
        self.core = DataSender(session.epoch)
        self.epoch = session.epoch
        self.link = reach._connect_data(session)
        self.link.send(self.core.hello(Hello(session=session.session, token=session.token, ordinal=0)))
        hear(self.link, self.core)

    def zero(self, **changes: int) -> bytes:
        """A frame that would zero the first block."""
        values = {"epoch": self.epoch, "sequence": 1, "offset": 0, "plain_length": BLOCK} | changes
        return Frame(kind=FrameKind.ZERO, **values).encode()  # type: ignore[arg-type]

    def refused(self, *frames: bytes) -> BlocksyncError:
        """Send them; what the receiver says to it, or the end of the connection."""
        try:
            self.link.send(*frames)
            hear(self.link, self.core)
        except BlocksyncError as told:
            return told
        finally:
            self.link.close()
        raise AssertionError("the receiver takes it")


@pytest.fixture
def session(served: Receiver, bad: Reach) -> OpenAnswer:
    # Something that a frame could destroy, and that no claim protects.
    with open(served.folder / "a.img", "r+b") as file:
        file.write(b"\xaa" * SIZE)
    return bad.control.open(request())


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0}, {"sequence": 2}, {"sequence": (1 << 64) - 1}, {"epoch": 0}, {"epoch": 2}, {"offset": 512},
        {"offset": SIZE}, {"offset": 1 << 63}, {"plain_length": 0}, {"plain_length": 512}, {"plain_length": 1 << 62},
        {"plain_length": SIZE + BLOCK}, {"offset": BLOCK, "plain_length": SIZE},
    ],
    ids=str,
)  # fmt: skip
def test_a_frame_that_lies_does_nothing(
    served: Receiver, bad: Reach, session: OpenAnswer, changes: dict[str, int]
) -> None:
    wire = Wire(bad, session)
    assert isinstance(wire.refused(wire.zero(**changes)), ProtocolError)
    assert content(served) == b"\xaa" * SIZE


def test_a_frame_that_is_repeated_ends_the_connection(served: Receiver, bad: Reach, session: OpenAnswer) -> None:
    wire = Wire(bad, session)
    first = wire.zero()
    assert isinstance(wire.refused(first, first), ProtocolError)
    assert content(served) == bytes(BLOCK) + b"\xaa" * (SIZE - BLOCK)


def test_frames_of_an_epoch_that_is_over_do_nothing(served: Receiver, bad: Reach, session: OpenAnswer) -> None:
    ghost = Wire(bad, session)
    bad.control.open(request())  # the same run takes its session over
    ghost.refused(ghost.zero())
    link = bad._connect_data(session)
    core = DataSender(session.epoch)
    link.send(core.hello(Hello(session=session.session, token=session.token, ordinal=0)))
    with pytest.raises(BlocksyncError):
        hear(link, core)
    link.close()
    assert content(served) == b"\xaa" * SIZE


@pytest.mark.parametrize("cut", [1, 63, 64, 100])
def test_a_frame_that_is_cut_does_nothing(served: Receiver, bad: Reach, session: OpenAnswer, cut: int) -> None:
    wire = Wire(bad, session)
    frame = Frame(kind=FrameKind.DATA, epoch=wire.epoch, sequence=1, plain_length=BLOCK, payload_length=BLOCK)
    wire.link.send((frame.encode() + bytes(BLOCK))[:cut])
    wire.link.close()
    bad.control.end(session.session)
    assert content(served) == b"\xaa" * SIZE


def bomb(plain: int, window_log: int = 20) -> bytes:
    """A zstd frame of some bytes that unpacks to ``plain`` zeros."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(plain))


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (bomb(64 << 20), BLOCK),
        (bomb(BLOCK), 2 * BLOCK),
        (bomb(64 << 20), 1 << 20),
        (b"\x28\xb5\x2f\xfd" + bytes(40), BLOCK),
    ],
    ids=["bomb", "less than said", "bomb in a whole frame", "no frame"],
)
def test_a_payload_that_is_not_what_its_header_says_is_refused_before_it_is_unpacked(
    served: Receiver, bad: Reach, session: OpenAnswer, packed: bytes, plain: int
) -> None:
    wire = Wire(bad, session)
    frame = Frame(
        kind=FrameKind.DATA, codec=Codec.ZSTD, epoch=wire.epoch, sequence=1, plain_length=plain,
        payload_length=len(packed),
    )  # fmt: skip
    told = wire.refused(frame.encode() + packed)
    assert isinstance(told, ProtocolError)
    assert "zstd" in told.message
    assert content(served) == b"\xaa" * SIZE


def test_a_payload_longer_than_agreed_gets_no_buffer(served: Receiver, bad: Reach, session: OpenAnswer) -> None:
    wire = Wire(bad, session)
    frame = Frame(
        kind=FrameKind.DATA, epoch=wire.epoch, sequence=1, plain_length=(1 << 32) - 1, payload_length=(1 << 32) - 1
    )
    assert isinstance(wire.refused(frame.encode()), ProtocolError)


def test_a_header_that_is_damaged_is_refused(bad: Reach, session: OpenAnswer) -> None:
    wire = Wire(bad, session)
    header = bytearray(wire.zero())
    header[30] ^= 1
    assert zlib.crc32(header[:60]) != int.from_bytes(header[60:], "little")
    assert "checksum" in wire.refused(bytes(header)).message
