"""The same bytes to the native and to the Python kernels: the same results, or the same refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from blocksync.kernels import DigestKind, load
from fuzz.surfaces import Surface

NATIVE = load("native")[1]
PYTHON = load("python")[1]


def both(call: Callable[[Any], object]) -> object:
    """What both make of it; an AssertionError where they differ."""
    outcomes: list[object] = []
    for kernels in (NATIVE, PYTHON):
        try:
            outcomes.append(call(kernels))
        except (ValueError, TypeError) as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1], f"native {outcomes[0]!r}, Python {outcomes[1]!r}"
    return outcomes[0]


def run(data: bytes) -> None:
    if len(data) < 8:
        return
    what, block, kind, size, repeat, holes, seed, odd = data[:8]
    rest = data[8:]
    block_bytes = 4096 << (block % 4) if block < 240 else block
    key = bytes([seed]) * (32 if seed < 250 else seed - 220)
    digest = DigestKind(1 + kind % 2) if kind < 250 else kind
    plain = bytearray((rest * (1 + repeat * 8))[: size * 512])
    for at in range(0, len(plain), 4096):
        if holes >> (at // 4096 % 8) & 1:
            plain[at : at + 4096] = bytes(len(plain[at : at + 4096]))
    if what % 4 == 0:
        count = -(-len(plain) // block_bytes)
        pages = count * (block_bytes // 4096) * 4 if block_bytes > 4096 else 0
        old = bytes(plain[: count * 16]).ljust(count * 16, b"\0") if odd & 1 else None

        def scan(kernels: Any) -> object:
            digests = bytearray(count * 16 + (1 if odd == 255 else 0))
            subs = bytearray(pages if not odd & 2 else 0)
            flags = kernels.scan(bytes(plain), block_bytes, digest, key, digests, subs, old)
            again = kernels.scan(
                bytes(plain), block_bytes, digest, key, bytearray(count * 16), bytearray(), digests
            )
            return flags, bytes(digests), bytes(subs), again

        both(scan)
    elif what % 4 == 1:
        both(lambda kernels: kernels.fold(digest, key, bytes(plain)))
    elif what % 4 == 2:
        assert both(lambda kernels: kernels.is_zero(bytes(plain))) == (not any(plain))
    else:
        half = len(rest) // 2
        both(lambda kernels: kernels.page_runs(rest[:half], rest[half : 2 * half + odd % 3]))


def seeds() -> Iterator[bytes]:
    for what in range(4):
        for block in range(4):
            yield bytes((what, block, 0, 40, 3, 0b1010, 7, 1)) + b"some words to be digested"
    yield bytes((0, 250, 251, 9, 0, 0, 252, 255)) + b"odd"
    yield bytes((3, 0, 0, 0, 0, 0, 0, 0)) + bytes(range(64)) * 2


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.kernels",), most_bytes=300)
