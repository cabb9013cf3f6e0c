"""What both implementations of the kernels agree on: digest kinds, flags, sizes, and which arguments are refused.

The digest of a block is a tree of two levels. A page's digest is H(page), 16 bytes; a block's digest is
H(page digest 0 | page digest 1 | ...), so that every byte of a disk is read and digested once, and the digests of
pages, of which the manifest keeps four bytes each, fall out on the way. A short last page and a short last block
are digested as they are, without padding. A block of one page is folded like any other.

H is one of

* XXH3-128 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) with a 64-bit seed, in its canonical
  big-endian form. The seed is the first 8 bytes of the key, little-endian. It is no cryptographic digest.
* BLAKE3 (https://github.com/BLAKE3-team/BLAKE3-specs) in its keyed mode with the 32-byte key, its first 16 bytes.
"""

from __future__ import annotations

import enum
from typing import Protocol

from typing_extensions import Buffer

from blocksync.geometry import DIGEST_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES

INTERFACE = 2
"""Raised whenever a kernel's signature or result changes, so that a stale extension module is never used."""

KEY_BYTES = 32
ZERO_FLAG = 1
SAME_FLAG = 2


class DigestKind(enum.IntEnum):
    """The function H; the numbers stand in the protocol and in manifests."""

    XXH3 = 1
    BLAKE3 = 2


Swept = tuple[int, list[tuple[int, list[tuple[int, int]]]], int]
"""Bytes dealt with, whole blocks; each patched block's index and runs ``(first page, count)``; payload bytes used."""


class Kernels(Protocol):
    """The functions that :mod:`blocksync._native` and :mod:`blocksync.kernels.python` both have."""

    INTERFACE: int

    def describe(self) -> str:
        """Name the implementation and the instruction sets in use here."""

    def scan(
        self,
        data: Buffer,
        block_bytes: int,
        kind: int,
        key: Buffer,
        digests: Buffer,
        pages: Buffer,
        old_digests: Buffer | None = None,
    ) -> bytes:
        """Digest a run of blocks in one pass; releases the GIL where it is native.

        Args:
            data: contiguous, not empty; its last block and page may be short. Must not change meanwhile: bytes
                that change give a digest of no state the data was ever in, but nothing worse.
            block_bytes: a power of two, 4 KiB to 16 MiB.
            kind: a :class:`DigestKind`.
            key: 32 bytes.
            digests: writable, 16 bytes a block; filled.
            pages: writable; empty where sub-digests are not wanted, else 4 bytes a slot and ``block_bytes // 4096``
                slots a block; filled with bytes 12 to 16 of each page's digest, and with zeros where a short last
                block has no page. Data, digests and pages have no memory in common.
            old_digests: 16 bytes a block, to compare with; may be the buffer of ``digests``.

        Returns:
            one byte of flags a block: ``ZERO_FLAG`` where all its bytes are zero, ``SAME_FLAG`` where its digest
            equals the old one.

        Raises:
            ValueError: a size, the kind or the key is not as above. Nothing has been written then.
        """

    def sweep(
        self,
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
        """Read a range whose old digests are known, and find what changed by pages; releases the GIL where native.

        Reads, digests and compares a piece at a time, so that a long range costs one call while nothing changed. Ends
        before the first block that cannot be patched: one that is all zeros now, that changed in more than half of
        its pages or in none that the sub-digests show, that finds no room in the outputs, or that cannot be read
        (whoever reads it next meets the error).

        Args:
            descriptor: open, for reading with ``pread``.
            offset: of the range in the file.
            length: of the range, bytes; only its last block may be short.
            buffer: writable, of whole blocks: what is read at once. For direct reads, aligned as they demand.
            block_bytes, kind, key: as for :meth:`scan`.
            old_digests: 16 bytes a block.
            old_pages: four bytes a page slot, as :meth:`scan` fills them; or empty, and then nothing is patched.
            digests, pages: writable, room for the new digests and sub-digests of patched blocks, one after the other.
            payload: writable, room for their changed pages, one after the other.

        Raises:
            ValueError: a size, the kind or the key is not as above, or buffers overlap. Nothing has been read then.
        """

    def fold(self, kind: int, key: Buffer, data: Buffer) -> bytes:
        """H(data), 16 bytes, for segment digests, roots and runs of digests; the data may be empty.

        Raises:
            ValueError: the kind or the key is not one.
        """

    def is_zero(self, data: Buffer) -> bool:
        """Tell whether every byte is zero; true of no bytes at all."""

    def page_runs(self, old_pages: Buffer, new_pages: Buffer) -> list[tuple[int, int]]:
        """Compare the sub-digests of one block.

        Returns:
            ``(first page, count)`` of each longest run of pages whose sub-digests differ, in order.

        Raises:
            ValueError: the two differ in length, or do not consist of whole sub-digests.
        """


def check_block_bytes(block_bytes: int) -> None:
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or block_bytes & (block_bytes - 1):
        raise ValueError(f"block size {block_bytes} is not a power of two from 4 KiB to 16 MiB")


def check_sweep(
    length: int,
    block_bytes: int,
    buffer: memoryview,
    old_digests: memoryview,
    old_pages: memoryview,
    digests: memoryview,
    pages: memoryview,
    payload: memoryview,
) -> None:
    """Refuse what :meth:`Kernels.sweep` refuses, but for the descriptor, the kind and the key."""
    check_block_bytes(block_bytes)
    if length <= 0:
        raise ValueError("there is no data to scan")
    if buffer.readonly or digests.readonly or pages.readonly or payload.readonly:
        raise ValueError("buffer, digests, pages and payload must be writable")
    if not buffer.nbytes or buffer.nbytes % block_bytes:
        raise ValueError(f"a buffer of {buffer.nbytes} bytes does not hold whole blocks")
    blocks = -(-length // block_bytes)
    if old_digests.nbytes != blocks * DIGEST_BYTES:
        raise ValueError(
            f"old digests have {old_digests.nbytes} bytes where {blocks} blocks need {blocks * DIGEST_BYTES}"
        )
    slot_bytes = block_bytes // PAGE_BYTES * PAGE_DIGEST_BYTES
    if old_pages.nbytes not in (0, blocks * slot_bytes):
        raise ValueError(
            f"old pages have {old_pages.nbytes} bytes where {blocks} blocks need {blocks * slot_bytes}"
        )
    if digests.nbytes % DIGEST_BYTES or pages.nbytes != digests.nbytes // DIGEST_BYTES * slot_bytes:
        raise ValueError(
            f"room for {digests.nbytes} bytes of digests and {pages.nbytes} of pages does not fit together"
        )


def check_scan(
    data: memoryview, block_bytes: int, digests: memoryview, pages: memoryview, old_digests: memoryview | None
) -> None:
    """Refuse what :meth:`Kernels.scan` refuses, but for the kind and the key."""
    check_block_bytes(block_bytes)
    if not data.nbytes:
        raise ValueError("there is no data to scan")
    blocks = -(-data.nbytes // block_bytes)
    if digests.readonly or pages.readonly:
        raise ValueError("digests and pages must be writable")
    if digests.nbytes != blocks * DIGEST_BYTES:
        raise ValueError(f"digests have {digests.nbytes} bytes where {blocks} blocks need {blocks * DIGEST_BYTES}")
    slots = blocks * (block_bytes // PAGE_BYTES) * PAGE_DIGEST_BYTES
    if pages.nbytes not in (0, slots):
        raise ValueError(f"pages have {pages.nbytes} bytes where {blocks} blocks need {slots} or none")
    if old_digests is not None and old_digests.nbytes != blocks * DIGEST_BYTES:
        raise ValueError(
            f"old digests have {old_digests.nbytes} bytes where {blocks} blocks need {blocks * DIGEST_BYTES}"
        )
