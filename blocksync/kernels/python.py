"""The kernels in Python: the native ones' twin, equal to the bit, for machines where the extension was not built.

As fast as Python can: ``bytes.startswith`` finds zeros at the speed of ``memcmp`` (comparing memoryviews is far
slower), slices are views, and the one-shot functions of xxhash and blake3 make no object a page but the digest.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Final

import blake3
import xxhash
from typing_extensions import Buffer

from blocksync.geometry import DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES
from blocksync.kernels.digest import (
    INTERFACE,
    KEY_BYTES,
    SAME_FLAG,
    ZERO_FLAG,
    DigestKind,
    Swept,
    check_scan,
    check_sweep,
)

__all__ = ["INTERFACE", "describe", "fold", "is_zero", "page_runs", "scan", "sweep"]

Digest = Callable[[Buffer], bytes]

# Small enough to stay in the first-level cache, large enough that the loop around it does not count.
_ZEROS: Final = bytes(16 << 10)
_WORDS_PER_DIGEST: Final = DIGEST_BYTES // PAGE_DIGEST_BYTES


def describe() -> str:
    return f"python (xxhash {xxhash.VERSION}, blake3 {blake3.__version__})"


def scan(
    data: Buffer,
    block_bytes: int,
    kind: int,
    key: Buffer,
    digests: Buffer,
    pages: Buffer,
    old_digests: Buffer | None = None,
) -> bytes:
    """See :meth:`blocksync.kernels.digest.Kernels.scan`."""
    source, out, page_out = _bytes_of(data), _bytes_of(digests), _bytes_of(pages)
    old = None if old_digests is None else bytes(_bytes_of(old_digests))
    check_scan(source, block_bytes, out, page_out, old_digests=None if old is None else memoryview(old))
    key_bytes = _key(key)
    digest = _function(kind, key_bytes)
    flags = bytearray(-(-source.nbytes // block_bytes))
    slot_bytes = block_bytes // PAGE_BYTES * PAGE_DIGEST_BYTES if page_out.nbytes else 0
    for index in range(len(flags)):
        block = source[index * block_bytes : (index + 1) * block_bytes]
        zero = _all_zero(block)
        if zero:
            block_digest, subs = _zero_block(kind, key_bytes, block.nbytes)
        else:
            block_digest, subs = _tree(digest, block, wanted=slot_bytes > 0)
        at = index * DIGEST_BYTES
        out[at : at + DIGEST_BYTES] = block_digest
        if slot_bytes:
            page_out[index * slot_bytes : (index + 1) * slot_bytes] = subs.ljust(slot_bytes, b"\0")
        same = old is not None and old.startswith(block_digest, at)
        flags[index] = ZERO_FLAG * zero | SAME_FLAG * same
    return bytes(flags)


def sweep(
    descriptor: int,
    offset: int,
    length: int,
    buffer: Buffer,
    block_bytes: int,
    kind: int,
    key: Buffer,
    old_digests: Buffer,
    old_pages: Buffer,
    digests: Buffer,
    pages: Buffer,
    payload: Buffer,
) -> Swept:
    """See :meth:`blocksync.kernels.digest.Kernels.sweep`."""
    if descriptor < 0:
        raise ValueError(f"{descriptor} is no descriptor")
    piece = _bytes_of(buffer)
    old, old_subs = memoryview(bytes(_bytes_of(old_digests))), memoryview(bytes(_bytes_of(old_pages)))
    room = _Room(_bytes_of(digests), _bytes_of(pages), _bytes_of(payload))
    check_sweep(length, block_bytes, piece, old, old_subs, room.digests, room.pages, room.payload)
    _function(kind, _key(key))
    blocks_at_once = piece.nbytes // block_bytes
    slot_bytes = block_bytes // PAGE_BYTES * PAGE_DIGEST_BYTES
    new_digests, new_subs = bytearray(blocks_at_once * DIGEST_BYTES), bytearray(blocks_at_once * slot_bytes)
    done = 0
    while done < length:
        data = piece[: min(piece.nbytes, length - done)]
        if not _fill(descriptor, offset + done, data):
            break
        first, count = done // block_bytes, -(-data.nbytes // block_bytes)
        here = memoryview(new_digests)[: count * DIGEST_BYTES]
        subs = memoryview(new_subs)[: count * slot_bytes]
        flags = scan(
            data, block_bytes, kind, key, here, subs, old[first * DIGEST_BYTES : (first + count) * DIGEST_BYTES]
        )
        for index in range(count):
            block = data[index * block_bytes : (index + 1) * block_bytes]
            if not flags[index] & SAME_FLAG:
                at = slice(index * slot_bytes, (index + 1) * slot_bytes)
                was = old_subs[(first + index) * slot_bytes : (first + index + 1) * slot_bytes]
                runs = page_runs(was, subs[at]) if was and not flags[index] & ZERO_FLAG else []
                changed = sum(pages for _, pages in runs) * PAGE_BYTES
                digest = here[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
                if not changed or changed * 2 > block.nbytes or not room.keep(block, runs, digest, subs[at]):
                    return done, room.patches, room.used
                room.patches.append((first + index, runs))
            done += block.nbytes
    return done, room.patches, room.used


class _Room:
    """Where a sweep puts what patches need."""

    def __init__(self, digests: memoryview, pages: memoryview, payload: memoryview) -> None:
        self.digests, self.pages, self.payload = digests, pages, payload
        self.patches: list[tuple[int, list[tuple[int, int]]]] = []
        self.used = 0

    def keep(self, block: memoryview, runs: list[tuple[int, int]], digest: memoryview, subs: memoryview) -> bool:
        number = len(self.patches)
        pieces = [block[first * PAGE_BYTES : (first + count) * PAGE_BYTES] for first, count in runs]
        size = sum(piece.nbytes for piece in pieces)
        if (number + 1) * DIGEST_BYTES > self.digests.nbytes or self.used + size > self.payload.nbytes:
            return False
        self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES] = digest
        self.pages[number * subs.nbytes : (number + 1) * subs.nbytes] = subs
        for piece in pieces:
            self.payload[self.used : self.used + piece.nbytes] = piece
            self.used += piece.nbytes
        return True


def _fill(descriptor: int, offset: int, data: memoryview) -> bool:
    filled = 0
    while filled < data.nbytes:
        try:
            count = os.preadv(descriptor, [data[filled:]], offset + filled)
        except OSError:
            return False
        if not count:
            return False
        filled += count
    return True


def fold(kind: int, key: Buffer, data: Buffer) -> bytes:
    """See :meth:`blocksync.kernels.digest.Kernels.fold`."""
    return _function(kind, _key(key))(_bytes_of(data))


def is_zero(data: Buffer) -> bool:
    """See :meth:`blocksync.kernels.digest.Kernels.is_zero`."""
    return _all_zero(_bytes_of(data))


def page_runs(old_pages: Buffer, new_pages: Buffer) -> list[tuple[int, int]]:
    """See :meth:`blocksync.kernels.digest.Kernels.page_runs`."""
    old, new = bytes(_bytes_of(old_pages)), bytes(_bytes_of(new_pages))
    if len(old) != len(new) or len(old) % PAGE_DIGEST_BYTES:
        raise ValueError(f"sub-digests of {len(old)} and {len(new)} bytes cannot be compared")
    if old == new:
        return []
    runs: list[tuple[int, int]] = []
    first = None
    pairs = zip(memoryview(old).cast("I"), memoryview(new).cast("I"), strict=True)
    for index, (before, after) in enumerate(pairs):
        if before != after:
            first = index if first is None else first
        elif first is not None:
            runs.append((first, index - first))
            first = None
    if first is not None:
        runs.append((first, len(old) // PAGE_DIGEST_BYTES - first))
    return runs


def _bytes_of(data: Buffer) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError("the buffer is not contiguous")
    # Nothing can be cast that has no bytes but more than one dimension; an empty view is as good.
    return view.cast("B") if view.nbytes else memoryview(bytearray() if not view.readonly else b"")


def _all_zero(view: memoryview) -> bool:
    size, step = view.nbytes, len(_ZEROS)
    if size <= step:
        return _ZEROS.startswith(view)
    return all(_ZEROS.startswith(view[at : at + step]) for at in range(0, size, step))


def _key(key: Buffer) -> bytes:
    key_bytes = bytes(_bytes_of(key))
    if len(key_bytes) != KEY_BYTES:
        raise ValueError(f"the key has {len(key_bytes)} bytes instead of {KEY_BYTES}")
    return key_bytes


def _function(kind: int, key: bytes) -> Digest:
    if kind == DigestKind.XXH3:
        return functools.partial(xxhash.xxh3_128_digest, seed=int.from_bytes(key[:8], "little"))
    if kind == DigestKind.BLAKE3:
        return lambda data: blake3.blake3(data, key=key).digest(DIGEST_BYTES)
    raise ValueError(f"{kind} is no kind of digest")


def _tree(digest: Digest, block: memoryview, *, wanted: bool) -> tuple[bytes, bytes]:
    """Digest a block and, where wanted, the sub-digests of its pages."""
    size = block.nbytes
    if size <= PAGE_BYTES:
        leaves = digest(block)
    else:
        leaves = b"".join([digest(block[at : at + PAGE_BYTES]) for at in range(0, size, PAGE_BYTES)])
    subs = memoryview(leaves).cast("I")[_WORDS_PER_DIGEST - 1 :: _WORDS_PER_DIGEST].tobytes() if wanted else b""
    return digest(leaves), subs


@functools.lru_cache(maxsize=64)
def _zero_block(kind: int, key: bytes, length: int) -> tuple[bytes, bytes]:
    """The digests of ``length`` zeros: always the same, so counted once."""
    return _tree(_function(kind, key), memoryview(bytes(length)), wanted=True)
