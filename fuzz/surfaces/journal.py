"""A journal: torn, damaged, or with records that hold and mean harm."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Iterator
from typing import Any

import xxhash

from blocksync.manifest.base import ManifestFile
from blocksync.manifest.folder import DurableFile
from blocksync.manifest.format import RECORD
from fuzz.memory import MemoryFolder
from fuzz.surfaces import Surface
from fuzz.surfaces.manifest import FILES, made, use

REPAIR, COUNT = 1, 2
store: Any = importlib.import_module("blocksync.manifest.store")
BASE = ManifestFile(MemoryFolder(FILES).open("manifest"))


def _base(_file: DurableFile) -> ManifestFile:
    """The manifest below the journal is the same each time, and read-only: another surface damages it."""
    return BASE


def repaired(content: bytes, *, count: bool) -> bytes:
    """The same records with checksums (and sequence numbers) that hold."""
    fixed = bytearray(content)
    at = previous = 0
    sequence = int.from_bytes(fixed[16:24], "little")
    while at + RECORD.size <= len(fixed):
        fixed[at : at + 4] = b"BSJ1"
        fixed[at + 6 : at + 8] = b"\0\0"
        if count and at:
            sequence += 1
            fixed[at + 16 : at + 24] = (sequence % (1 << 64)).to_bytes(8, "little")
        fixed[at + 36 : at + 40] = zlib.crc32(fixed[at : at + 36]).to_bytes(4, "little")
        length = int.from_bytes(fixed[at + 32 : at + 36], "little")
        payload = bytes(fixed[at + RECORD.size : at + RECORD.size + length])
        previous = xxhash.xxh3_64_intdigest(bytes(fixed[at : at + 40]) + payload, seed=previous)
        fixed[at + 40 : at + 48] = previous.to_bytes(8, "little")
        at += RECORD.size + length
    return bytes(fixed)


def run(data: bytes) -> None:
    if not data:
        return
    content = data[1:]
    if data[0] & REPAIR:
        content = repaired(content, count=bool(data[0] & COUNT))
    store.ManifestFile = _base
    try:
        use(MemoryFolder({**FILES, "journal": content}))
    finally:
        store.ManifestFile = ManifestFile


def seeds() -> Iterator[bytes]:
    for mode in (0, REPAIR, REPAIR | COUNT):
        yield bytes([mode]) + FILES["journal"]
        yield bytes([mode]) + FILES["journal"][:-20]
        yield bytes([mode]) + made(commit=False)["journal"]


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.manifest",), most_bytes=4096)
