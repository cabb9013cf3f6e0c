"""The sample disk: holes, written zeros, text and random data, the same in each demo of one size."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

from blocksync.errors import SourceError, from_os_error
from blocksync.geometry import PAGE_BYTES

SEED = 20
PIECE_BYTES = 1 << 20
_WORDS = """
disk block page extent sector segment journal manifest digest epoch generation claim intent commit window sender
receiver slot source target pass resume verify snapshot zero hole frame credit checkpoint root tree
"""


class SampleDisk:
    """A disk image that is made once and then changed in places.

    Args:
        path: of the image.
        size: bytes, in whole mebibytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self._random = random.Random(SEED)  # noqa: S311 - sample data that shall be the same each time

    def make(self) -> None:
        """Write the image: of each eight pieces three random, two text, one written zeros, two holes.

        Raises:
            SourceError: there is no room.
        """
        text = self._text(PIECE_BYTES * 2)
        try:
            with open(self.path, "xb") as file:
                file.truncate(self.size)
                for index in range(self.size // PIECE_BYTES):
                    piece = self._piece(index % 8, text)
                    if piece is not None:
                        file.seek(index * PIECE_BYTES)
                        file.write(piece)
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot make the sample disk {self.path}") from error

    def _piece(self, place: int, text: bytes) -> bytes | None:
        if place < 3:
            return self._random.randbytes(PIECE_BYTES)
        if place < 5:
            start = self._random.randrange(PIECE_BYTES)
            return text[start : start + PIECE_BYTES]
        return bytes(PIECE_BYTES) if place == 5 else None

    def _text(self, length: int) -> bytes:
        words = self._random.choices(_WORDS.split(), k=length // 4)
        return " ".join(words).encode("ascii")[:length]

    def change(self, pages: int) -> int:
        """Overwrite so many scattered 4 KiB pages with random data; returns the bytes changed."""
        chosen = self._random.sample(range(self.size // PAGE_BYTES), pages)
        try:
            with open(self.path, "r+b") as file:
                for page in chosen:
                    file.seek(page * PAGE_BYTES)
                    file.write(self._random.randbytes(PAGE_BYTES))
        except OSError as error:
            raise from_os_error(error, SourceError, f"cannot change the sample disk {self.path}") from error
        return pages * PAGE_BYTES


def damage(path: Path, offset: int) -> None:
    """Flip one bit of a file, as a failing disk or a stray writer would."""
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ 0x10]))
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read whole."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
