"""Superblocks and allocation maps: small filesystems, made by their own tools, with bytes of them changed.

An input names a filesystem and says which bytes of its metadata become which. Checksums are made to hold, whatever they
guard, where a bit says so: what lies behind them is then reached.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocksync.volumes.crc32c import crc32c
from blocksync.volumes.exclusion import leave_out
from blocksync.volumes.files import Room
from blocksync.volumes.filesystems import btrfs, detect, ext, ext_files, open_map, xfs, xfs_files
from blocksync.volumes.patterns import Rules
from blocksync.volumes.reader import check_range
from fuzz.surfaces import Surface

MIB = 1 << 20
PIECE_BYTES = 4096
REPAIR = 128
MAKERS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (8, ("mkfs.ext4", "-q", "-F", "-b", "1024")),
    (8, ("mkfs.ext2", "-q", "-F")),
    (8, ("mkfs.ext4", "-q", "-F", "-b", "1024", "-O", "bigalloc")),
    (300, ("mkfs.xfs", "-q", "-f")),
    (110, ("mkfs.btrfs", "-q", "-f")),
    (4, ("mkfs.ntfs", "-q", "-F", "-f")),
    (1, ("mkfs.vfat", "-F", "12")),
    (3, ("mkfs.vfat", "-F", "16", "-s", "1")),
    (1, ("mkfs.vfat", "-F", "32", "-s", "8")),
    (1, ("mkswap", "-q")),
)
# Runs that one map may tell of the piece that is asked for; more than blocks in it cannot be right.
LOOKED_AT_BYTES = 2 * MIB


class _Holds(int):
    """A checksum that is any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__

    def __and__(self, other: int) -> _Holds:
        return self

    def __xor__(self, other: int) -> _Holds:
        return self


def _holds(_data: object, _seed: int = 0) -> int:
    return _Holds()


def _nothing(*_words: Any) -> None: ...


_real = {"crc32c": crc32c, "xfs": xfs.verify, "btrfs": btrfs.verify}


def checksums(hold: bool) -> None:
    """Let every checksum hold, or none but the right one."""
    for module in (ext, ext_files):
        module.crc32c = _holds if hold else _real["crc32c"]  # type: ignore[attr-defined]
    for each in (xfs, xfs_files):
        each.verify = _nothing if hold else _real["xfs"]  # type: ignore[attr-defined]
    btrfs.verify = _nothing if hold else _real["btrfs"]  # type: ignore[assignment]


class Sparse:
    """A reader over the pieces that are not zero, with some of them changed."""

    def __init__(self, size: int, pieces: dict[int, bytes]) -> None:
        self.size = size
        self._pieces = pieces

    def pread(self, offset: int, length: int, /) -> bytes:
        check_range(self.size, offset, length, "a read of memory")
        first, last = offset // PIECE_BYTES, -(-(offset + length) // PIECE_BYTES)
        zeros = bytes(PIECE_BYTES)
        whole = b"".join([self._pieces.get(index, zeros) for index in range(first, last)])
        start = offset - first * PIECE_BYTES
        return whole[start : start + length]


@functools.cache
def image(index: int) -> tuple[int, dict[int, bytes]]:
    """Size of a filesystem, and its pieces by number."""
    size, command = MAKERS[index]
    with tempfile.TemporaryDirectory(prefix="blocksync-fuzz-") as folder:
        path = Path(folder) / "image"
        with open(path, "wb") as file:
            file.truncate(size * MIB)
        subprocess.run([*command, str(path)], check=True, capture_output=True)
        pieces = {}
        with open(path, "rb") as file:
            for number in itertools.count():
                piece = file.read(PIECE_BYTES)
                if not piece:
                    break
                if any(piece):
                    pieces[number] = piece
    return size * MIB, pieces


def changed(data: bytes) -> Sparse:
    """The filesystem that an input means: its kind, then (piece, offset, count, bytes) again and again."""
    size, pieces = image(data[0] % REPAIR % len(MAKERS))
    numbers = sorted(pieces)
    mine = dict(pieces)
    at = 1
    while at + 4 <= len(data):
        number = numbers[data[at] % len(numbers)]
        offset = int.from_bytes(data[at + 1 : at + 3], "little") % PIECE_BYTES
        new = data[at + 4 : at + 4 + 1 + data[at + 3] % 32]
        piece = bytearray(mine[number])
        piece[offset : offset + len(new)] = new
        mine[number] = bytes(piece[:PIECE_BYTES].ljust(PIECE_BYTES, b"\0"))
        at += 4 + len(new)
    return Sparse(size, mine)


def run(data: bytes) -> None:
    if not data:
        return
    checksums(hold=bool(data[0] & REPAIR))
    reader = changed(data)
    found = detect(reader)
    if found is None:
        return
    space = open_map(reader, found)
    space.mark()
    assert 0 < space.size <= reader.size
    end = min(space.size, LOOKED_AT_BYTES)
    for first, stop in ((0, end), (max(space.size - end, 0), space.size)):
        at = first
        for low, high in space.used(first, stop):
            assert at <= low < high <= stop
            at = high
    leave_out(reader, found.kind, space, Rules(("*.log",)), "", room=Room())


def _patch(piece: int, offset: int, new: bytes) -> bytes:
    return bytes((piece,)) + offset.to_bytes(2, "little") + bytes((len(new) - 1,)) + new


def seeds() -> Iterator[bytes]:
    for index in range(len(MAKERS)):
        for mode in (0, REPAIR):
            yield bytes((index | mode,))
            yield bytes((index | mode,)) + _patch(0, 1024, b"\xff") + _patch(1, 20, bytes(4))


SURFACE = Surface(run=run, seeds=seeds, modules=("blocksync.volumes",), most_bytes=160)
