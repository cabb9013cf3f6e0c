"""``identical`` is said where every byte is the same, and nowhere else."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from blocksync.engine.cancel import Cancel
from blocksync.engine.verify import Verifier, piece_digests
from blocksync.errors import ProtocolError
from blocksync.protocol.messages import ControlPort, VerifyAnswer, VerifyRequest
from blocksync.results import VerifyResult
from blocksync.sources.memory import MemorySource

SIZE = (9 << 20) + 512
PAGE = 4096


class Other(ControlPort):
    """The other side, which has its own copy.

    Args:
        disk: of its.
        short: digests it leaves out at the end.
        spoiled: which byte of each digest it gets wrong, if any.
    """

    def __init__(self, disk: MemorySource, short: int = 0, spoiled: int | None = None) -> None:
        self._disk = disk
        self._short = short
        self._spoiled = spoiled

    def verify(self, request: VerifyRequest) -> tuple[VerifyAnswer, Iterator[bytes]]:
        digests = list(piece_digests(self._disk, request.offset, request.length, request.piece_bytes, request.key))
        if self._spoiled is not None:
            at = self._spoiled
            digests = [digest[:at] + bytes([digest[at] ^ 1]) + digest[at + 1 :] for digest in digests]
        return VerifyAnswer(slot="web", size=SIZE), iter(digests[: len(digests) - self._short])

    open = segment_digests = segment = heartbeat = commit = end = None  # type: ignore[assignment]


def disk() -> MemorySource:
    made = MemorySource(SIZE)
    made.write(0, random.Random(3).randbytes(6 << 20))
    return made


def verdict(theirs: MemorySource, short: int = 0) -> VerifyResult:
    return Verifier(disk(), Other(theirs, short), "web", None, Cancel()).run()


def test_the_same_bytes_are_identical() -> None:
    said = verdict(disk())
    assert (said.identical, said.differing_bytes, said.differing) == (True, 0, ())


@pytest.mark.parametrize("at", [0, PAGE - 1, (4 << 20) - 1, 4 << 20, 5 << 20, (8 << 20) - 1, 8 << 20, SIZE - 1])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_bit_anywhere_is_found_and_named(at: int, bit: int) -> None:
    theirs = disk()
    there = bytearray(1)
    theirs.read_into(at, memoryview(there))
    theirs.write(at, bytes([there[0] ^ 1 << bit]))
    said = verdict(theirs)
    assert not said.identical
    page = at // PAGE * PAGE
    assert said.differing == ((page, min(PAGE, SIZE - page)),)


def test_many_differences_far_apart_are_all_counted() -> None:
    theirs = disk()
    for at in range(0, 6 << 20, 1 << 20):
        theirs.write(at, b"changed!")
    said = verdict(theirs)
    assert not said.identical
    assert [offset for offset, _ in said.differing] == list(range(0, 6 << 20, 1 << 20))
    assert said.differing_bytes == 6 * PAGE


@pytest.mark.parametrize("at", [0, 1, 15, 16, 31])
def test_all_bytes_of_a_digest_count(at: int) -> None:
    said = Verifier(disk(), Other(disk(), spoiled=at), "web", None, Cancel()).run()
    assert (said.identical, said.differing_bytes) == (False, SIZE)


def test_digests_that_end_early_are_no_verdict() -> None:
    with pytest.raises(ProtocolError, match="end early"):
        verdict(disk(), short=1)
