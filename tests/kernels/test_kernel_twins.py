"""The two implementations give the same results, for whatever hypothesis finds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from blocksync.kernels import DigestKind, Kernels, python

PIECES = st.one_of(
    st.binary(max_size=200),
    st.builds(bytes, st.integers(0, 9000)),
    st.builds(bytes, st.sampled_from([4096, 8192, 16384, 32768])),
    st.builds(lambda byte, size: bytes([byte]) * size, st.integers(1, 255), st.integers(1, 9000)),
)
DATA = st.lists(PIECES, min_size=1, max_size=8).map(b"".join).filter(bool)


@settings(max_examples=300, deadline=None)
@given(
    data=DATA,
    block_bytes=st.sampled_from([4096, 8192, 16384, 65536]),
    kind=st.sampled_from(DigestKind),
    key=st.binary(min_size=32, max_size=32),
    wanted=st.booleans(),
    choice=st.data(),
)
def test_scans_agree(
    native: Kernels,
    data: bytes,
    block_bytes: int,
    kind: DigestKind,
    key: bytes,
    wanted: bool,
    choice: st.DataObject,
) -> None:
    blocks = -(-len(data) // block_bytes)
    sizes = blocks * 16, blocks * (block_bytes // 4096) * 4 * wanted
    results = []
    for kernels in (native, python):
        digests, pages = bytearray(b"\xaa" * sizes[0]), bytearray(b"\xaa" * sizes[1])
        results.append((kernels.scan(data, block_bytes, kind, key, digests, pages), digests, pages))
    assert results[0] == results[1]
    old = bytearray(results[0][1])
    for at in choice.draw(st.lists(st.integers(0, len(old) - 1), max_size=3)):
        old[at] ^= 1
    flags = [k.scan(data, block_bytes, kind, key, bytearray(sizes[0]), bytearray(), old) for k in (native, python)]
    assert flags[0] == flags[1]


@settings(max_examples=200, deadline=None)
@given(data=DATA, kind=st.sampled_from(DigestKind), key=st.binary(min_size=32, max_size=32))
def test_folds_and_zero_tests_agree(native: Kernels, data: bytes, kind: DigestKind, key: bytes) -> None:
    assert native.fold(kind, key, data) == python.fold(kind, key, data)
    assert native.is_zero(data) == python.is_zero(data) == (not any(data))


@settings(max_examples=200, deadline=None)
@given(pages=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_page_runs_agree(native: Kernels, pages: list[tuple[int, int]]) -> None:
    old, new = (b"".join(pair[side].to_bytes(4, "big") for pair in pages) for side in (0, 1))
    runs = native.page_runs(old, new)
    assert runs == python.page_runs(old, new)
    covered = [page for first, count in runs for page in range(first, first + count)]
    assert covered == [page for page, (before, after) in enumerate(pages) if before != after]
