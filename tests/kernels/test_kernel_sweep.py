"""A sweep does what reading, scanning and comparing block by block does, on both implementations, to the bit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocksync.kernels import DigestKind, Kernels, python
from blocksync.kernels.digest import Swept

PAGE = 4096
KEY = bytes(range(32))
XXH3 = DigestKind.XXH3
Result = tuple[Swept, bytes, bytes, bytes]


@pytest.fixture
def file() -> Iterator[int]:
    with tempfile.TemporaryFile() as made:
        yield made.fileno()


def write(file: int, content: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, content, 0)


def digests_of(kernels: Kernels, content: bytes, block: int, kind: DigestKind = XXH3) -> tuple[bytes, bytes]:
    count = -(-len(content) // block)
    digests, pages = bytearray(16 * count), bytearray(4 * (block // PAGE) * count)
    kernels.scan(content, block, kind, KEY, digests, pages)
    return bytes(digests), bytes(pages)


def swept(
    kernels: Kernels,
    file: int,
    old: bytes,
    block: int,
    *,
    offset: int = 0,
    kind: DigestKind = XXH3,
    at_once: int = 1,
    patches: int = 64,
    payload: int = 1 << 20,
) -> Result:
    digests, pages = bytearray(16 * patches), bytearray(4 * (block // PAGE) * patches)
    room = bytearray(payload)
    result = kernels.sweep(
        file, offset, len(old), bytearray(at_once * block), block, kind, KEY, *digests_of(python, old, block, kind),
        digests, pages, room,
    )  # fmt: skip
    return result, bytes(digests), bytes(pages), bytes(room)


def expected(old: bytes, new: bytes, block: int, kind: DigestKind) -> tuple[int, list[tuple[int, list[int]]]]:
    """Bytes done and pages of each patched block, from the contents themselves."""
    patches: list[tuple[int, list[int]]] = []
    for at in range(0, len(old), block):
        was, now = old[at : at + block], new[at : at + block]
        if len(now) < len(was):
            return at, patches
        pages = [p for p in range(0, len(was), PAGE) if was[p : p + PAGE] != now[p : p + PAGE]]
        if pages:
            if not any(now) or len(pages) * PAGE * 2 > len(was):
                return at, patches
            patches.append((at // block, [page // PAGE for page in pages]))
    return len(old), patches


@st.composite
def changes(draw: st.DrawFn) -> tuple[bytes, bytes, int]:
    """Old and new content of one length, and a block size."""
    block = draw(st.sampled_from([8192, 16384, 65536]))
    size = draw(st.integers(1, 12 * block // 512)) * 512
    old = bytearray(size)
    for page in range(0, size, PAGE):
        if draw(st.booleans()):
            old[page : page + PAGE] = bytes([draw(st.integers(0, 3))]) * min(PAGE, size - page)
    new = bytearray(old)
    for at in draw(st.lists(st.integers(0, size - 1), max_size=6)):
        new[at] ^= 1 + draw(st.integers(0, 254))
    if draw(st.booleans()):
        start = draw(st.integers(0, size - 1))
        length = min(draw(st.integers(1, 2 * block)), size - start)
        new[start : start + length] = bytes([draw(st.integers(0, 2))]) * length
    return bytes(old), bytes(new), block


@settings(max_examples=200, deadline=None)
@given(
    case=changes(), kind=st.sampled_from(DigestKind), at_once=st.integers(1, 4), offset=st.sampled_from([0, 65536])
)
def test_both_find_what_changed(
    native: Kernels, case: tuple[bytes, bytes, int], kind: DigestKind, at_once: int, offset: int
) -> None:
    old, new, block = case
    with tempfile.TemporaryFile() as made:
        os.pwrite(made.fileno(), new, offset)
        results = [
            swept(kernels, made.fileno(), old, block, offset=offset, kind=kind, at_once=at_once)
            for kernels in (native, python)
        ]
    assert results[0] == results[1]
    (done, found, used), digests, pages, room = results[0]
    wanted_done, wanted = expected(old, new, block, kind)
    assert (done, [(index, pages_of(runs)) for index, runs in found]) == (wanted_done, wanted)
    content = b"".join(
        new[i * block + p * PAGE : i * block + p * PAGE + PAGE][: len(new)] for i, ps in wanted for p in ps
    )
    assert (used, room[:used]) == (len(content), content)
    all_digests, all_pages = digests_of(python, new, block, kind)
    slot = 4 * (block // PAGE)
    for number, (index, _) in enumerate(found):
        assert digests[number * 16 : number * 16 + 16] == all_digests[index * 16 : index * 16 + 16]
        assert pages[number * slot : (number + 1) * slot] == all_pages[index * slot : (index + 1) * slot]


def pages_of(runs: list[tuple[int, int]]) -> list[int]:
    return [page for first, count in runs for page in range(first, first + count)]


def test_nothing_changed_is_one_call(kernels: Kernels, file: int) -> None:
    content = os.urandom(10 * 65536 + 512)
    write(file, content)
    assert swept(kernels, file, content, 65536, at_once=4)[0] == (len(content), [], 0)


def test_a_range_that_cannot_be_read_ends_the_sweep_before_it(kernels: Kernels, file: int) -> None:
    content = os.urandom(5 * 65536)
    write(file, content[: 4 * 65536 + 100])
    assert swept(kernels, file, content, 65536, at_once=2)[0] == (4 * 65536, [], 0)
    closed = os.dup(file)
    os.close(closed)
    assert swept(kernels, closed, content, 65536)[0] == (0, [], 0)


@pytest.mark.parametrize(
    ("patches", "payload", "kept"), [(2, 1 << 20, 2), (9, 3 * PAGE, 3), (9, 3 * PAGE - 1, 2), (0, 0, 0)]
)
def test_what_finds_no_room_ends_the_sweep(
    kernels: Kernels, file: int, patches: int, payload: int, kept: int
) -> None:
    old = os.urandom(6 * 65536)
    new = bytearray(old)
    for block in range(6):
        new[block * 65536 + 5000] ^= 255
    write(file, bytes(new))
    (done, found, used), _, _, _ = swept(kernels, file, old, 65536, patches=patches, payload=payload)
    assert (done, [index for index, _ in found], used) == (kept * 65536, list(range(kept)), kept * PAGE)


def test_a_sub_digest_that_shows_nothing_ends_the_sweep(kernels: Kernels, file: int) -> None:
    content = os.urandom(2 * 65536)
    write(file, content)
    digests, pages = digests_of(python, content, 65536)
    other = digests[:16] + bytes(16)
    result = kernels.sweep(
        file,
        0,
        len(content),
        bytearray(65536),
        65536,
        XXH3,
        KEY,
        other,
        pages,
        bytearray(16),
        bytearray(64),
        bytearray(65536),
    )
    assert result == (65536, [], 0)


def test_without_old_pages_nothing_is_patched(kernels: Kernels, file: int) -> None:
    old = os.urandom(65536)
    write(file, old[:-1] + bytes([old[-1] ^ 1]))
    digests, _ = digests_of(python, old, 65536)
    result = kernels.sweep(
        file,
        0,
        65536,
        bytearray(65536),
        65536,
        XXH3,
        KEY,
        digests,
        b"",
        bytearray(16),
        bytearray(64),
        bytearray(65536),
    )
    assert result == (0, [], 0)


GOOD: dict[str, Any] = {
    "length": 131072, "buffer": 65536, "block_bytes": 65536, "kind": 1, "key": KEY, "old_digests": 32, "old_pages": 128,
    "digests": 16, "pages": 64, "payload": 4096,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 0}, "no data to scan"),
        ({"block_bytes": 2048}, "from 4 KiB to 16 MiB"),
        ({"buffer": 0}, "a buffer of 0 bytes does not hold whole blocks"),
        ({"buffer": 65537}, "a buffer of 65537 bytes does not hold whole blocks"),
        ({"old_digests": 16}, "old digests have 16 bytes where 2 blocks need 32"),
        ({"length": 131073}, "old digests have 32 bytes where 3 blocks need 48"),
        ({"old_pages": 64}, "old pages have 64 bytes where 2 blocks need 128"),
        ({"digests": 17}, "room for 17 bytes of digests and 64 of pages"),
        ({"pages": 63}, "room for 16 bytes of digests and 63 of pages"),
        ({"kind": 7}, "7 is no kind of digest"),
        ({"key": bytes(3)}, "the key has 3 bytes instead of 32"),
        ({"descriptor": -1}, "-1 is no descriptor"),
    ],
)
def test_what_does_not_fit_is_refused(kernels: Kernels, file: int, change: dict[str, Any], words: str) -> None:
    named = {"descriptor": file, "offset": 0, **GOOD, **change}
    for name in ("buffer", "old_digests", "old_pages", "digests", "pages", "payload"):
        named[name] = bytearray(b"\xaa" * named[name])
    with pytest.raises(ValueError, match=words):
        kernels.sweep(**named)
    assert all(set(named[name]) <= {0xAA} for name in ("buffer", "digests", "pages", "payload"))


@pytest.mark.parametrize("name", ["buffer", "digests", "pages", "payload"])
def test_results_need_a_writable_buffer(kernels: Kernels, file: int, name: str) -> None:
    named = {"descriptor": file, "offset": 0, **GOOD}
    for each in ("buffer", "old_digests", "old_pages", "digests", "pages", "payload"):
        named[each] = bytearray(named[each])
    named[name] = bytes(named[name])
    with pytest.raises(ValueError, match="writable"):
        kernels.sweep(**named)
