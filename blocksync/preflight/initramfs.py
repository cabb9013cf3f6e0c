"""The names of the files in an initramfs: cpio archives one after the other, the last one usually compressed.

Formats: newc cpio and the rule that archives may follow each other with zeros between (Linux,
Documentation/driver-api/early-userspace/buffer-format.rst). Early microcode comes first, uncompressed. Contents are
skipped, not kept; all sizes are bounded, since a broken archive must not take the checker with it.
"""

from __future__ import annotations

import bz2
import io
import lzma
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from blocksync.errors import LayoutDamagedError, LayoutUnknownError

HEADER_BYTES = 110
MAX_NAME_BYTES = 4096
MAX_PLAIN_BYTES = 2 << 30
MAX_FILES = 1_000_000
PIECE_BYTES = 1 << 20
TRAILER = b"TRAILER!!!"

_NEWC = (b"070701", b"070702")
_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\x00"
_LZMA = b"\x5d\x00\x00"
_BZIP2 = b"BZh"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4 = b"\x04\x22\x4d\x18"


def file_names(file: BinaryIO) -> Iterator[str]:
    """Yield the path of each file.

    Args:
        file: seekable, at its beginning.

    Raises:
        LayoutDamagedError: what is there is cut or no archive.
        LayoutUnknownError: it is packed in a way that cannot be unpacked here.
    """
    anything = False
    while _skip_zeros(file):
        start = file.tell()
        magic = file.read(6)
        file.seek(start)
        if magic in _NEWC:
            stream = _Stream(file)
            yield from _archive(stream)
            stream.give_back()
        elif anything and not _packed(magic):
            return  # padding, or a signature at the end
        else:
            unpacked = _unpacked(file, magic)
            try:
                stream = _Stream(unpacked)
                if not stream.skip_zeros():
                    raise LayoutDamagedError("an initramfs is cut short")
                while stream.skip_zeros():
                    yield from _archive(stream)
            finally:
                unpacked.close()
            return
        anything = True


def _packed(magic: bytes) -> bool:
    return magic.startswith((_GZIP, _XZ, _LZMA, _BZIP2, _ZSTD, _LZ4_LEGACY, _LZ4))


def _skip_zeros(file: BinaryIO) -> bool:
    """Go to the next byte that is not zero; False at the end."""
    while piece := file.read(4096):
        rest = piece.lstrip(b"\0")
        if rest:
            file.seek(-len(rest), io.SEEK_CUR)
            return True
    return False


class _Stream:
    """A source of plain bytes with one piece of look-ahead, bounded in all."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._held = b""
        self._total = 0

    def take(self, count: int) -> bytes:
        parts = []
        while count:
            if not self._fill():
                raise LayoutDamagedError("an initramfs is cut short")
            part, self._held = self._held[:count], self._held[count:]
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> None:
        while count:
            if not self._fill():
                raise LayoutDamagedError("an initramfs is cut short")
            here = min(count, len(self._held))
            self._held = self._held[here:]
            count -= here

    def give_back(self) -> None:
        """Leave the file where the last byte was taken."""
        self._file.seek(-len(self._held), io.SEEK_CUR)
        self._held = b""

    def skip_zeros(self) -> bool:
        while self._fill():
            self._held = self._held.lstrip(b"\0")
            if self._held:
                return True
        return False

    def _fill(self) -> bool:
        if not self._held:
            self._held = self._file.read(PIECE_BYTES)
            self._total += len(self._held)
            if self._total > MAX_PLAIN_BYTES:
                raise LayoutDamagedError(f"an initramfs unpacks to more than {MAX_PLAIN_BYTES} bytes")
        return bool(self._held)


def _archive(stream: _Stream) -> Iterator[str]:
    for _ in range(MAX_FILES):
        header = stream.take(HEADER_BYTES)
        if header[:6] not in _NEWC:
            raise LayoutDamagedError("an initramfs holds something that is no cpio archive")
        try:
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError as error:
            raise LayoutDamagedError("a cpio header in an initramfs is no number") from error
        if not 0 < name_size <= MAX_NAME_BYTES:
            raise LayoutDamagedError(f"a name in an initramfs has {name_size} bytes")
        name = stream.take(name_size).rstrip(b"\0")
        stream.skip(-(HEADER_BYTES + name_size) % 4)
        if name == TRAILER:
            return
        stream.skip(size)
        if size % 4:
            stream.skip(-size % 4)
        yield name.decode("utf-8", "replace")
    raise LayoutDamagedError(f"an initramfs holds more than {MAX_FILES} files")


def _unpacked(file: BinaryIO, magic: bytes) -> BinaryIO:
    if magic.startswith(_GZIP):
        return cast("BinaryIO", _Pieces(file, zlib.decompressobj(wbits=31)))
    if magic.startswith(_XZ):
        return cast("BinaryIO", _Pieces(file, lzma.LZMADecompressor(lzma.FORMAT_XZ)))
    if magic.startswith(_LZMA):
        return cast("BinaryIO", _Pieces(file, lzma.LZMADecompressor(lzma.FORMAT_ALONE)))
    if magic.startswith(_BZIP2):
        return cast("BinaryIO", _Pieces(file, bz2.BZ2Decompressor()))
    if magic.startswith(_ZSTD):
        import zstandard

        return cast("BinaryIO", _Guarded(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)))
    if magic.startswith((_LZ4_LEGACY, _LZ4)):
        return cast("BinaryIO", _Lz4(file))
    raise LayoutUnknownError("an initramfs is packed in an unknown way")


class _Pieces:
    """A decompressor of the standard library's, read in bounded pieces; what follows its stream is ignored."""

    def __init__(self, file: BinaryIO, unpacker: object) -> None:
        self._file = file
        self._unpacker = unpacker
        self._tail = b""

    def close(self) -> None:
        """Nothing is held."""

    def read(self, count: int) -> bytes:
        unpacker = self._unpacker
        while not unpacker.eof:  # type: ignore[attr-defined]
            tail = getattr(unpacker, "unconsumed_tail", b"")
            packed = tail
            if not packed and getattr(unpacker, "needs_input", True):
                packed = self._file.read(PIECE_BYTES)
                if not packed:
                    raise LayoutDamagedError("an initramfs is cut short")
            try:
                plain: bytes = unpacker.decompress(packed, count)  # type: ignore[attr-defined]
            except (zlib.error, lzma.LZMAError, OSError) as error:
                raise LayoutDamagedError(f"an initramfs cannot be unpacked: {error}") from error
            if plain:
                return plain
        return b""


class _Guarded:
    """zstandard's reader with its errors as ours."""

    def __init__(self, reader: object) -> None:
        self._reader = reader

    def close(self) -> None:
        """Nothing is held."""

    def read(self, count: int) -> bytes:
        import zstandard

        try:
            piece: bytes = self._reader.read(count)  # type: ignore[attr-defined]
        except zstandard.ZstdError as error:
            raise LayoutDamagedError(f"an initramfs cannot be unpacked: {error}") from error
        return piece


class _Lz4:
    """lz4 has no place in the standard library: its own program unpacks, bounded by what is read from it."""

    def __init__(self, file: BinaryIO) -> None:
        program = shutil.which("lz4")
        if program is None:
            raise LayoutUnknownError("an initramfs is packed with lz4", remedy="install lz4 to have it looked into")
        # A file rather than a pipe: nothing has to be fed while the other end is read.
        with tempfile.TemporaryFile() as packed:
            shutil.copyfileobj(file, packed, PIECE_BYTES)
            packed.seek(0)
            self._process = subprocess.Popen(
                [program, "-dc"], stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )

    def read(self, count: int) -> bytes:
        assert self._process.stdout is not None
        piece = self._process.stdout.read(count)
        if not piece:
            self.close()
        return piece

    def close(self) -> None:
        """Stop the program, whether it has ended or not."""
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.kill()
        self._process.wait()
