"""Guards against a single flipped bit."""

from __future__ import annotations

from tests.planted.bug import Bug

FLIPS = [
    Bug(
        name="a manifest's first page is believed without its checksum",
        file="manifest/format.py",
        old='        if zlib.crc32(page[:-4]) != int.from_bytes(page[-4:], "little"):',
        new="        if False:",
        gate="flips",
    ),
    Bug(
        name="a record's content is believed without its checksum",
        file="manifest/journal.py",
        old="        if len(payload) != length or _checksum(head[:-8], payload, self._checksum) != checksum:",
        new="        if len(payload) != length:",
        gate="flips",
    ),
    Bug(
        name="a record's head is believed without its checksum in whole sessions",
        file="manifest/journal.py",
        old="    if magic != JOURNAL_MAGIC or zlib.crc32(head[: _HEAD.size]) != crc:",
        new="    if magic != JOURNAL_MAGIC or not crc:",
        gate="flips",
    ),
    Bug(
        name="a frame's content is written without its digest in whole sessions",
        file="engine/landing.py",
        old="        if fold(self._store.kind, self._store.key, digests) != digest:",
        new="        if False:",
        gate="flips",
    ),
    Bug(
        name="a frame's header is believed without its checksum in whole sessions",
        file="protocol/wire.py",
        old="    if zlib.crc32(memoryview(header)[:-4]) != checksum:",
        new="    if False:",
        gate="flips",
    ),
    Bug(
        name="verify forgives a page that differs",
        file="engine/verify.py",
        old="            identical=differing_bytes == 0,",
        new="            identical=differing_bytes < 8192,",
        gate="flips",
    ),
]
