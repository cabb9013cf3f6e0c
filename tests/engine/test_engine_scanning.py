"""What a scanner finds, put into the old content, gives the new one, swept from a file or read from memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocksync.engine.plan import ScanChunk, step_bytes
from blocksync.engine.scanning import DataRun, PatchRun, Scanner, ZeroRun
from blocksync.engine.tally import Tally
from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES, Geometry
from blocksync.kernels import DigestKind, fold, scan
from blocksync.manifest.working import BlockMap
from blocksync.protocol.limits import limits_for, patch_blocks
from blocksync.protocol.wire import decode_patch_table
from blocksync.sources import open_source
from blocksync.sources.base import Source
from blocksync.sources.memory import MemorySource

KEY = bytes(range(32))
KIND = DigestKind.XXH3
BLOCK = 16384
SIZE = (1 << 20) + 40 * 1024 + 5 * 512


def claimed(content: bytes, geometry: Geometry, unknown: set[int]) -> BlockMap:
    known = BlockMap(geometry, KIND, KEY)
    for block in range(geometry.block_count):
        if block not in unknown:
            digests, pages = bytearray(DIGEST_BYTES), bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block)
            part = content[block * geometry.block_bytes : (block + 1) * geometry.block_bytes]
            scan(part, geometry.block_bytes, KIND, KEY, digests, pages)
            known.claim(block, digests, pages)
    return known


def applied(source: Source, old: bytes, geometry: Geometry, known: BlockMap) -> tuple[bytes, int]:
    """The old content with all findings put in, each checked as a receiver would, and the bytes they carried."""
    scanner = Scanner(source=source, geometry=geometry, kind=KIND, key=KEY, known=known, tally=Tally())
    target, carried = bytearray(old), 0
    for at in range(0, geometry.size, step_bytes(geometry)):
        step = ScanChunk(at, min(step_bytes(geometry), geometry.size - at))
        for finding in scanner.find(step):
            if isinstance(finding, ZeroRun):
                target[finding.offset : finding.offset + finding.length] = bytes(finding.length)
                continue
            if isinstance(finding, DataRun):
                geometry.blocks_of(finding.offset, len(finding.plain))
                blocks = range(finding.offset, finding.offset + len(finding.plain), geometry.block_bytes)
                target[finding.offset : finding.offset + len(finding.plain)] = finding.plain
                carried += len(finding.plain)
            else:
                blocks = patched(target, finding, geometry)
                carried += len(finding.payload)
            folded = b"".join(digest_of(target, at, geometry) for at in blocks)
            assert fold(KIND, KEY, folded) == finding.digest
    return bytes(target), carried


def patched(target: bytearray, finding: PatchRun, geometry: Geometry) -> list[int]:
    payload = memoryview(finding.payload)
    assert len(payload) <= limits_for(geometry, 4).frame_bytes
    patches, at = decode_patch_table(
        payload, blocks=patch_blocks(geometry), pages_per_block=geometry.pages_per_block
    )
    starts = []
    for patch in patches:
        start = finding.offset + patch.index * geometry.block_bytes
        starts.append(start)
        end = min(start + geometry.block_bytes, geometry.size)
        for first, count in patch.runs:
            here = start + first * PAGE_BYTES
            size = min(here + count * PAGE_BYTES, end) - here
            target[here : here + size] = payload[at : at + size]
            at += size
    assert at == len(payload)
    return starts


def digest_of(content: bytearray, at: int, geometry: Geometry) -> bytes:
    digest, pages = bytearray(DIGEST_BYTES), bytearray(PAGE_DIGEST_BYTES * geometry.pages_per_block)
    scan(content[at : at + geometry.block_bytes], geometry.block_bytes, KIND, KEY, digest, pages)
    return bytes(digest)


def edited(chance: random.Random, bytes_: int, runs: int) -> tuple[bytes, bytes]:
    """Random content with zeros in it, and the same with so many single bytes and so many runs changed."""
    old = bytearray(chance.randbytes(SIZE))
    old[SIZE // 3 : SIZE // 2] = bytes(SIZE // 2 - SIZE // 3)
    new = bytearray(old)
    for _ in range(bytes_):
        new[chance.randrange(SIZE)] ^= 1
    for _ in range(runs):
        at, length = chance.randrange(SIZE), chance.randrange(1, SIZE // 3)
        length = min(length, SIZE - at)
        new[at : at + length] = bytes(length) if chance.random() < 0.5 else chance.randbytes(length)
    return bytes(old), bytes(new)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    single=st.integers(0, 20),
    runs=st.integers(0, 3),
    unknown=st.sets(st.integers(0, -(-SIZE // BLOCK) - 1), max_size=20),
)
def test_findings_make_the_new_content_of_the_old(
    tmp_path_factory: pytest.TempPathFactory, seed: int, single: int, runs: int, unknown: set[int]
) -> None:
    old, new = edited(random.Random(seed), single, runs)
    geometry = Geometry(SIZE, BLOCK)
    path = tmp_path_factory.mktemp("scan") / "disk.img"
    path.write_bytes(new)
    memory = MemorySource(SIZE)
    memory.write(0, new)
    carried = []
    with open_source(str(path)) as file:
        assert file.descriptor() is not None
        for source in (file, memory):
            known = claimed(old, geometry, unknown)
            target, size = applied(source, old, geometry, known)
            assert target == new
            carried.append(size)
            # All that was found is claimed: a second look finds nothing.
            assert applied(source, new, geometry, known) == (new, 0)
    assert carried[0] <= carried[1] * 1.01 + 64


def test_many_changed_pages_come_as_few_frames(tmp_path: Path) -> None:
    """One page in a hundred: a frame a step, not one a block."""
    geometry = Geometry(16 << 20, 65536)
    chance = random.Random(7)
    old = bytes(geometry.size)
    new = bytearray(old)
    for page in chance.sample(range(geometry.size // PAGE_BYTES), 40):
        new[page * PAGE_BYTES] = 1
    path = tmp_path / "disk.img"
    path.write_bytes(new)
    known = claimed(old, geometry, set())
    with open_source(str(path)) as source:
        scanner = Scanner(source=source, geometry=geometry, kind=KIND, key=KEY, known=known, tally=Tally())
        found = [finding for at in (0, 8 << 20) for finding in scanner.find(ScanChunk(at, 8 << 20))]
    assert [type(finding) for finding in found] == [PatchRun, PatchRun]


def test_a_file_that_ends_within_its_last_sector_is_read_as_if_filled(tmp_path: Path) -> None:
    geometry = Geometry(65536 + 512, 65536)
    path = tmp_path / "disk.img"
    path.write_bytes(b"a" * 65536 + b"b" * 100)
    whole = b"a" * 65536 + b"b" * 100 + bytes(412)
    known = claimed(whole, geometry, set())
    with open_source(str(path)) as source:
        assert applied(source, whole, geometry, known) == (whole, 0)
