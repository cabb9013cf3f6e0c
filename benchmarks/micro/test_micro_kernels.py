"""Each kernel, in each implementation, at several block sizes: ``python -m pytest benchmarks/micro``."""

from __future__ import annotations

import mmap
import random
import tempfile
from collections.abc import Callable

import pytest

from blocksync.codec import Packer, Unpacker
from blocksync.errors import KernelsError
from blocksync.kernels import DigestKind, Kernels, load

KEY = bytes(range(32))
DATA = random.Random(1).randbytes(1 << 20)
TEXT = b" ".join(b"%x" % number for number in random.Random(2).choices(range(5000), k=1 << 18))[: 1 << 20]
BLOCKS = [4 << 10, 64 << 10, 1 << 20]
Benchmark = Callable[..., object]


@pytest.fixture(params=["native", "python"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    try:
        return load(request.param)[1]
    except KernelsError as error:
        pytest.skip(str(error))


def outputs(block: int) -> tuple[bytearray, bytearray]:
    return bytearray((1 << 20) // block * 16), bytearray((1 << 20) // 4096 * 4)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", list(DigestKind))
@pytest.mark.parametrize("content", ["data", "zeros"])
def test_scan(benchmark: Benchmark, kernels: Kernels, block: int, kind: DigestKind, content: str) -> None:
    digests, pages = outputs(block)
    benchmark(kernels.scan, DATA if content == "data" else bytes(1 << 20), block, kind, KEY, digests, pages)


@pytest.mark.parametrize("block", [16 << 10, 64 << 10, 1 << 20])
@pytest.mark.parametrize("changed", [0, 3])
def test_sweep(benchmark: Benchmark, kernels: Kernels, block: int, changed: int) -> None:
    digests, pages = outputs(block)
    kernels.scan(DATA, block, DigestKind.XXH3, KEY, digests, pages)
    now = bytearray(DATA)
    for number in range(changed):
        now[number * 300_000] ^= 1
    with tempfile.TemporaryFile() as file:
        file.write(now)
        file.flush()
        buffer = mmap.mmap(-1, max(block, 256 << 10))
        room = bytearray(16 * 8), bytearray(8 * block // 4096 * 4), bytearray(1 << 20)
        benchmark(
            kernels.sweep, file.fileno(), 0, len(now), buffer, block, DigestKind.XXH3, KEY, digests, pages, *room
        )


def test_is_zero(benchmark: Benchmark, kernels: Kernels) -> None:
    benchmark(kernels.is_zero, bytes(1 << 20))


def test_fold(benchmark: Benchmark, kernels: Kernels) -> None:
    benchmark(kernels.fold, DigestKind.XXH3, KEY, DATA[: 16 * 4096])


def test_page_runs(benchmark: Benchmark, kernels: Kernels) -> None:
    old = DATA[:64]
    benchmark(kernels.page_runs, old, old[:20] + bytes(4) + old[24:])


@pytest.mark.parametrize("level", [-5, 1, 3, 9])
def test_pack(benchmark: Benchmark, level: int) -> None:
    packer = Packer()
    benchmark(packer.pack, TEXT, level)


def test_probe_of_what_does_not_shrink(benchmark: Benchmark) -> None:
    packer = Packer()
    benchmark(packer.shrinks, memoryview(DATA))


def test_unpack(benchmark: Benchmark) -> None:
    frame = Packer().pack(TEXT, 1)
    assert frame is not None
    benchmark(Unpacker().unpack, memoryview(frame), len(TEXT))
