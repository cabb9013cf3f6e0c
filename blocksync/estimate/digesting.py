"""How fast this machine looks for changes: the threads of a pass digest samples, and do nothing else.

Tried with as many threads as would do it, so that other work on the processors counts as it would in a pass.
"""

from __future__ import annotations

import os
import threading
import time

from blocksync.estimate.sampling import Sample
from blocksync.geometry import DEFAULT_BLOCK_BYTES, DIGEST_BYTES, PAGE_BYTES, PAGE_DIGEST_BYTES
from blocksync.kernels import KEY_BYTES, DigestKind, scan

TRIED_SECONDS = 0.4
CHUNK_BYTES = 1 << 20
# Each thread has chunks of its own, more than a processor's cache holds.
CHUNKS = 8


def digesting(sample: Sample, connections: int) -> float:
    """Bytes a second that the threads of a pass digest together."""
    content = b"".join(piece.content for piece in sample.pieces)[:CHUNK_BYTES] or bytes(PAGE_BYTES)
    chunk = (content * (CHUNK_BYTES // len(content) + 1))[:CHUNK_BYTES]
    done: list[float] = []
    threads = [
        threading.Thread(target=_digest, args=(chunk, done), name="digesting")
        for _ in range(max(1, min(connections, os.cpu_count() or 1)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def _digest(content: bytes, done: list[float]) -> None:
    chunks = [bytearray(content) for _ in range(CHUNKS)]
    digests = bytearray(CHUNK_BYTES // DEFAULT_BLOCK_BYTES * DIGEST_BYTES)
    pages = bytearray(CHUNK_BYTES // PAGE_BYTES * PAGE_DIGEST_BYTES)
    began, count = time.perf_counter(), 0
    while not count or time.perf_counter() - began < TRIED_SECONDS:
        scan(chunks[count % CHUNKS], DEFAULT_BLOCK_BYTES, DigestKind.XXH3, bytes(KEY_BYTES), digests, pages)
        count += 1
    done.append(count * CHUNK_BYTES / (time.perf_counter() - began))
