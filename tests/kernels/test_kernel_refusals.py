"""What the kernels refuse, in the same words on both implementations, and that a refusal writes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from blocksync.kernels import DigestKind, Kernels

KEY = bytes(32)
GOOD: dict[str, Any] = {
    "data": b"\1" * 8192,
    "block_bytes": 4096,
    "kind": DigestKind.XXH3,
    "key": KEY,
    "digests": 32,
    "pages": 8,
    "old_digests": None,
}
OWN = "from 4 KiB to 16 MiB"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": b""}, "no data to scan"),
        *[({"block_bytes": size}, OWN) for size in (0, -4096, 1, 2048, 4097, 12288, 32 << 20, 1 << 62)],
        ({"digests": 31}, "digests have 31 bytes where 2 blocks need 32"),
        ({"digests": 48}, "digests have 48 bytes where 2 blocks need 32"),
        ({"pages": 4}, "pages have 4 bytes where 2 blocks need 8 or none"),
        ({"pages": 9}, "pages have 9 bytes where 2 blocks need 8 or none"),
        ({"block_bytes": 8192, "digests": 16, "pages": 4}, "pages have 4 bytes where 1 blocks need 8 or none"),
        ({"old_digests": bytes(16)}, "old digests have 16 bytes where 2 blocks need 32"),
        ({"old_digests": b""}, "old digests have 0 bytes where 2 blocks need 32"),
        ({"kind": 0}, "0 is no kind of digest"),
        ({"kind": 3}, "3 is no kind of digest"),
        ({"key": bytes(31)}, "the key has 31 bytes instead of 32"),
        ({"key": bytes(33)}, "the key has 33 bytes instead of 32"),
        ({"data": memoryview(bytes(16384))[::2]}, "contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(kernels: Kernels, change: dict[str, Any], words: str) -> None:
    arguments = GOOD | change
    digests = bytearray(b"\xaa" * arguments.pop("digests"))
    pages = bytearray(b"\xaa" * arguments.pop("pages"))
    with pytest.raises(ValueError, match=words):
        kernels.scan(digests=digests, pages=pages, **arguments)
    assert set(digests + pages) == {0xAA}


@pytest.mark.parametrize("name", ["digests", "pages"])
def test_results_need_a_writable_buffer(kernels: Kernels, name: str) -> None:
    buffers: dict[str, Any] = {"digests": bytearray(32), "pages": bytearray(8)}
    buffers[name] = bytes(buffers[name])
    with pytest.raises(ValueError, match="writable"):
        kernels.scan(**(GOOD | buffers))


def test_folding_refuses_the_same(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="7 is no kind of digest"):
        kernels.fold(7, KEY, b"")
    with pytest.raises(ValueError, match="the key has 0 bytes instead of 32"):
        kernels.fold(1, b"", b"")


def test_sub_digests_of_different_blocks_are_refused(kernels: Kernels) -> None:
    for old, new in ((b"", bytes(4)), (bytes(8), bytes(4)), (bytes(5), bytes(5))):
        with pytest.raises(ValueError, match=f"sub-digests of {len(old)} and {len(new)} bytes cannot be compared"):
            kernels.page_runs(old, new)


def test_what_is_no_buffer_is_a_type_error(kernels: Kernels) -> None:
    text: Any = "text"
    with pytest.raises(TypeError):
        kernels.fold(1, KEY, text)
    with pytest.raises(TypeError):
        kernels.is_zero(text)


def test_native_results_never_overlap_the_data(native: Kernels) -> None:
    """In Rust that would be undefined, so it is refused; the twin would only give useless digests."""
    arena = memoryview(bytearray(8192 + 40))
    for digests, pages in (
        (arena[8160:8192], bytearray(8)),
        (bytearray(32), arena[:8]),
        (arena[8192:8224], arena[8220:8228]),
    ):
        with pytest.raises(ValueError, match="overlap"):
            native.scan(arena[:8192], 4096, 1, KEY, digests, pages)
    assert native.scan(arena[:8192], 4096, 1, KEY, arena[8192:8224], arena[8224:8232]) == b"\1\1"
