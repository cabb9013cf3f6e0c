"""What the kernels compute, on both implementations, against known answers and the slow way of saying the same."""

from __future__ import annotations

import array
import pathlib
import sys
import threading

import pytest

from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES
from blocksync.kernels import SAME_FLAG, ZERO_FLAG, DigestKind, Kernels

KEY = bytes(range(32))
LINES = [line.split() for line in (pathlib.Path(__file__).parent / "vectors.txt").read_text().splitlines()]
KINDS = list(DigestKind)


def pattern(length: int) -> bytes:
    state, out = 1, bytearray()
    for _ in range(length):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        out.append(state >> 56)
    return bytes(out)


PATTERN = pattern(200_000)


def scan(
    kernels: Kernels, data: bytes, block_bytes: int, kind: int = DigestKind.XXH3, old: bytes | None = None
) -> tuple[bytes, bytes, bytes]:
    """Flags, digests, sub-digests, into buffers that held something else."""
    blocks = -(-len(data) // block_bytes)
    digests = bytearray(b"\xaa" * (blocks * DIGEST_BYTES))
    pages = bytearray(b"\xaa" * (blocks * (block_bytes // PAGE_BYTES) * 4))
    flags = kernels.scan(data, block_bytes, kind, KEY, digests, pages, old)
    return flags, bytes(digests), bytes(pages)


@pytest.mark.parametrize("fields", [f for f in LINES if f[0] == "digest"], ids=" ".join)
def test_digests_are_the_known_ones(kernels: Kernels, fields: list[str]) -> None:
    assert kernels.fold(int(fields[1]), KEY, PATTERN[: int(fields[2])]).hex() == fields[3]


@pytest.mark.parametrize("fields", [f for f in LINES if f[0] == "scan"], ids=" ".join)
def test_scans_are_the_known_ones(kernels: Kernels, fields: list[str]) -> None:
    data = bytearray(PATTERN)
    data[4096:8192] = bytes(4096)
    data[65536:131072] = bytes(65536)
    kind = int(fields[1])
    _, digests, pages = scan(kernels, bytes(data), int(fields[2]), kind)
    assert kernels.fold(kind, KEY, digests).hex() == fields[3]
    assert kernels.fold(kind, KEY, pages).hex() == fields[4]


def test_published_vectors(kernels: Kernels) -> None:
    """From the reference implementations: XXH128 of nothing, and BLAKE3's keyed test vector of length 0."""
    assert kernels.fold(DigestKind.XXH3, bytes(32), b"").hex() == "99aa06d3014798d86001c324468d497f"
    elvish = b"whats the Elvish word for friend"
    assert kernels.fold(DigestKind.BLAKE3, elvish, b"").hex() == "92b2b75604ed3c761f9d6f62392c8a92"


def test_only_the_first_eight_bytes_of_the_key_seed_xxh3(kernels: Kernels) -> None:
    other = KEY[:8] + bytes(24)
    assert kernels.fold(DigestKind.XXH3, KEY, b"x") == kernels.fold(DigestKind.XXH3, other, b"x")
    assert kernels.fold(DigestKind.BLAKE3, KEY, b"x") != kernels.fold(DigestKind.BLAKE3, other, b"x")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("zero", [False, True])
def test_a_block_is_a_tree_of_its_pages(kernels: Kernels, kind: DigestKind, length: int, zero: bool) -> None:
    data = bytes(length) if zero else PATTERN[:length]
    flags, digests, pages = scan(kernels, data, 65536, kind)
    assert flags == bytes([ZERO_FLAG if zero else 0]) * -(-length // 65536)
    for index in range(len(flags)):
        block = data[index * 65536 : (index + 1) * 65536]
        leaves = [kernels.fold(kind, KEY, block[at : at + PAGE_BYTES]) for at in range(0, len(block), PAGE_BYTES)]
        assert digests[index * 16 : index * 16 + 16] == kernels.fold(kind, KEY, b"".join(leaves))
        assert pages[index * 64 : index * 64 + 64] == b"".join(leaf[12:] for leaf in leaves).ljust(64, b"\0")


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_one_page_is_folded_too(kernels: Kernels, kind: DigestKind) -> None:
    leaf = kernels.fold(kind, KEY, PATTERN[:4096])
    flags, digests, pages = scan(kernels, PATTERN[:4096], 4096, kind)
    assert (flags, digests, pages) == (b"\0", kernels.fold(kind, KEY, leaf), leaf[12:])


@pytest.mark.parametrize("kind", KINDS)
def test_sub_digests_are_optional(kernels: Kernels, kind: DigestKind) -> None:
    digests = bytearray(64)
    kernels.scan(PATTERN, 65536, kind, KEY, digests, bytearray())
    assert bytes(digests) == scan(kernels, PATTERN, 65536, kind)[1]


def test_only_changed_blocks_lose_the_same_flag(kernels: Kernels) -> None:
    data = bytearray(PATTERN[: 5 * 4096 + 100])
    _, old, _ = scan(kernels, bytes(data), 4096)
    assert scan(kernels, bytes(data), 4096, old=old)[0] == bytes([SAME_FLAG]) * 6
    data[2 * 4096] ^= 1
    data[4 * 4096 :] = bytes(len(data) - 4 * 4096)
    flags = scan(kernels, bytes(data), 4096, old=old)[0]
    assert list(flags) == [SAME_FLAG, SAME_FLAG, 0, SAME_FLAG, ZERO_FLAG, ZERO_FLAG]
    _, zeros, _ = scan(kernels, bytes(data), 4096)
    assert list(scan(kernels, bytes(data), 4096, old=zeros)[0])[4:] == [ZERO_FLAG | SAME_FLAG] * 2


def test_new_digests_may_replace_the_old_in_place(kernels: Kernels) -> None:
    digests = bytearray(scan(kernels, PATTERN, 65536)[1])
    data = b"\1" + PATTERN[1:]
    assert list(kernels.scan(data, 65536, 1, KEY, digests, bytearray(), digests)) == [0, 2, 2, 2]
    assert bytes(digests) == scan(kernels, data, 65536)[1]


def test_a_digest_is_compared_at_its_own_place_only(kernels: Kernels) -> None:
    _, digests, _ = scan(kernels, PATTERN[:8192], 4096)
    swapped = digests[16:] + digests[:16]
    assert scan(kernels, PATTERN[:8192], 4096, old=swapped)[0] == b"\0\0"


def test_any_contiguous_buffer_will_do(kernels: Kernels) -> None:
    """Views into larger buffers, items wider than a byte, several dimensions."""
    expected = scan(kernels, PATTERN[:8192], 4096)
    arena = memoryview(bytearray(1000))
    digests, pages = arena[100:132], arena[200:208].cast("I")
    words = array.array("I")
    words.frombytes(PATTERN[:8192])
    shaped = memoryview(PATTERN[:8192]).cast("B", (2, 4096))
    for data in (words, shaped, memoryview(b"." + PATTERN)[1:8193]):
        assert kernels.scan(data, 4096, 1, memoryview(KEY), digests, pages) == expected[0]
        assert (bytes(digests), bytes(pages)) == expected[1:]
    assert not any(arena[:100])
    assert not any(arena[132:200])
    assert not any(arena[208:])


@pytest.mark.parametrize("length", [1, 255, 256, 257, 4096, 16384, 16385, 40_000])
def test_the_zero_test_sees_every_byte(kernels: Kernels, length: int) -> None:
    data = bytearray(length)
    assert kernels.is_zero(data)
    step = max(1, length // 700)
    for at in {*range(0, length, step), length - 1, length // 2}:
        data[at] = 1
        assert not kernels.is_zero(data), at
        data[at] = 0
    assert kernels.is_zero(b"")


@pytest.mark.parametrize(
    ("changed", "runs"),
    [
        ([], []),
        ([0], [(0, 1)]),
        ([7], [(7, 1)]),
        ([0, 1, 2, 4, 6, 7], [(0, 3), (4, 1), (6, 2)]),
        (list(range(8)), [(0, 8)]),
    ],
)
def test_runs_are_as_long_as_they_can_be(kernels: Kernels, changed: list[int], runs: list[tuple[int, int]]) -> None:
    old = bytes(PATTERN[:32])
    new = bytearray(old)
    for page in changed:
        new[page * 4 + page % 4] ^= 1
    assert kernels.page_runs(old, new) == runs
    assert kernels.page_runs(b"", b"") == []


def test_the_native_scan_lets_other_threads_run(native: Kernels) -> None:
    """With the interpreter's own switching out of the way, only a released lock lets this thread see the middle."""
    data = bytes(8 << 20)[:-1] + b"\1"
    digests = bytearray(DIGEST_BYTES)
    seen_running = False
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        for _ in range(200):
            started = threading.Event()
            ended: list[bool] = []

            def work(started: threading.Event = started, ended: list[bool] = ended) -> None:
                started.set()
                native.scan(data, 16 << 20, DigestKind.BLAKE3, KEY, digests, bytearray())
                ended.append(True)

            thread = threading.Thread(target=work)
            thread.start()
            started.wait()
            seen_running = not ended
            thread.join()
            if seen_running:
                break
    finally:
        sys.setswitchinterval(interval)
    assert seen_running
