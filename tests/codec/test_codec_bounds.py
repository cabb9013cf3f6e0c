"""What a payload declares is checked before anything is made for it."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard

from blocksync.codec import Packer, Unpacker
from blocksync.errors import ProtocolError

PLAIN = b"blocksync " * 4000


def test_what_was_packed_is_unpacked() -> None:
    packed = Packer().pack(PLAIN, 3)
    assert packed is not None
    assert Unpacker().unpack(memoryview(packed), len(PLAIN)) == PLAIN


def test_what_does_not_shrink_is_not_packed() -> None:
    assert Packer().pack(zstandard.ZstdCompressor().compress(PLAIN), 3) is None


@pytest.mark.parametrize("declared", [len(PLAIN) - 1, len(PLAIN) + 1, 1 << 20])
def test_another_size_than_the_headers_is_refused(declared: int) -> None:
    packed = memoryview(zstandard.compress(PLAIN))
    with pytest.raises(ProtocolError, match="declares"):
        Unpacker().unpack(packed, declared)


def test_a_bomb_costs_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="declares"):
            Unpacker().unpack(memoryview(bomb), 4096)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_without_a_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(PLAIN)
    with pytest.raises(ProtocolError):
        Unpacker().unpack(memoryview(packed), len(PLAIN))


def test_bytes_behind_a_frame_are_refused() -> None:
    packed = zstandard.compress(PLAIN) + b"x"
    with pytest.raises(ProtocolError):
        Unpacker().unpack(memoryview(packed), len(PLAIN))


@pytest.mark.parametrize("cut", [1, 5, 17, -1])
def test_a_frame_that_is_cut_is_refused(cut: int) -> None:
    packed = zstandard.compress(PLAIN)
    with pytest.raises(ProtocolError):
        Unpacker().unpack(memoryview(packed[:cut]), len(PLAIN))
