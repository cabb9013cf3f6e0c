"""What an initramfs holds that matters for a boot from partitions: dracut's command line, the resume device, virtio.

An initramfs is some cpio archives ("newc", ``Documentation/driver-api/early-userspace/buffer-format.rst`` of Linux),
one after the other, the last ones compressed. It is read as a stream within bounds; what is not understood (lz4, lzo)
gives no facts rather than wrong ones.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from dataclasses import dataclass
from typing import IO

import zstandard

from blocksync.errors import GuestFileError
from blocksync.flatten.tree import Guest

_MOST_PACKED_BYTES = 256 << 20
_MOST_PLAIN_BYTES = 1 << 30
_MOST_KEPT_BYTES = 64 << 10
_HEADER_BYTES = 110
_VIRTIO = ("virtio_blk.ko", "virtio_scsi.ko")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitrdFacts:
    """Facts of one initramfs.

    Args:
        command_line: of ``etc/cmdline.d``.
        resume: of ``conf/conf.d``.
        virtio: a driver for virtio disks is in it.
        complete: it was read to its end, so that what was not seen is not there.
    """

    command_line: str
    resume: str
    virtio: bool
    complete: bool


def read_initrd(guest: Guest, path: str) -> InitrdFacts | None:
    """Read one; None where it cannot be understood."""
    try:
        packed = guest.read(path, _MOST_PACKED_BYTES)
    except GuestFileError:
        return None
    return facts_of(packed) if packed else None


def facts_of(packed: bytes) -> InitrdFacts | None:
    """As :func:`read_initrd`, from the bytes."""
    reading = _Reading()
    try:
        at = 0
        while at < len(packed):
            if packed[at] == 0:
                at += 1
            elif packed[at : at + 6] == b"070701":
                stream = io.BytesIO(packed)
                stream.seek(at)
                reading.archive(stream)
                at = stream.tell()
            else:
                stream_of = _unpacker(packed[at:])
                if stream_of is None:
                    return None
                while reading.archive(stream_of):
                    pass
                at = len(packed)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zstandard.ZstdError):
        return None
    return InitrdFacts(
        command_line=" ".join(reading.command_line),
        resume="\n".join(reading.resume),
        virtio=reading.virtio,
        complete=True,
    )


def _unpacker(packed: bytes) -> IO[bytes] | None:
    if packed.startswith(b"\x1f\x8b"):
        return gzip.open(io.BytesIO(packed), "rb")  # type: ignore[return-value] # it is a stream of bytes
    if packed.startswith(b"\xfd7zXZ\0"):
        return lzma.open(io.BytesIO(packed), "rb")
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        stream: IO[bytes] = io.BufferedReader(decompressor.stream_reader(packed, read_across_frames=True), 1 << 20)
        return stream
    return None


class _Reading:
    """Walks archives and keeps what matters."""

    def __init__(self) -> None:
        self.command_line: list[str] = []
        self.resume: list[str] = []
        self.virtio = False
        self._plain = 0

    def archive(self, stream: IO[bytes]) -> bool:
        """One archive; False where there is none any more."""
        header = self._next_header(stream)
        while header:
            if header[:6] not in (b"070701", b"070702"):
                raise ValueError("no cpio header")
            size, name_bytes = int(header[54:62], 16), int(header[94:102], 16)
            if not 0 < name_bytes <= 4096:
                raise ValueError("a name out of bounds")
            name = self._take(stream, name_bytes + -(_HEADER_BYTES + name_bytes) % 4)[: name_bytes - 1]
            if name == b"TRAILER!!!":
                return True
            self._entry(stream, name.decode("utf-8", "replace").lstrip("./"), size)
            header = stream.read(_HEADER_BYTES)
        return False

    def _next_header(self, stream: IO[bytes]) -> bytes:
        """The next archive's first header, behind the zeros that fill up the last one."""
        while True:
            head = stream.read(1)
            if not head:
                return b""
            if head != b"\0":
                return head + stream.read(_HEADER_BYTES - 1)

    def _entry(self, stream: IO[bytes], name: str, size: int) -> None:
        if any(driver in name for driver in _VIRTIO):
            self.virtio = True
        if name.endswith("/modules.builtin") and size <= _MOST_PLAIN_BYTES:
            content = self._take(stream, size)
            self.virtio = self.virtio or any(driver.encode() in content for driver in _VIRTIO)
            self._skip(stream, -size % 4)
            return
        folder = name.rpartition("/")[0]
        kept = {"etc/cmdline.d": self.command_line, "conf/conf.d": self.resume}.get(folder)
        if kept is None or size > _MOST_KEPT_BYTES:
            self._skip(stream, size + -size % 4)
            return
        kept.append(self._take(stream, size).decode("utf-8", "replace").strip())
        self._skip(stream, -size % 4)

    def _skip(self, stream: IO[bytes], count: int) -> None:
        while count:
            piece = self._take(stream, min(count, 1 << 20))
            count -= len(piece)

    def _take(self, stream: IO[bytes], count: int) -> bytes:
        self._plain += count
        if self._plain > _MOST_PLAIN_BYTES:
            raise ValueError("an initramfs out of proportion")
        data = stream.read(count)
        if len(data) != count:
            raise EOFError
        return data
