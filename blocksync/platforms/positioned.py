"""Reading and writing at an offset, also where the system has no call for that: Windows moves a file's one position.

There a lock keeps threads from moving it under each other.
"""

from __future__ import annotations

import os
import tempfile
import threading

_moving = threading.Lock()


def pread(descriptor: int, length: int, offset: int) -> bytes:
    """As ``os.pread``."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _moving:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def pread_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer as far as one read does; bytes read."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    found = pread(descriptor, len(buffer), offset)
    buffer[: len(found)] = found
    return len(found)


def pwrite(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """As ``os.pwrite``."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _moving:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def kept(content: bytes) -> int:
    """A descriptor of a nameless file with that content: in memory where the system has such files.

    Raises:
        OSError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("blocksync")
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            descriptor = os.dup(file.fileno())
    try:
        written = 0
        while written < len(content):
            written += pwrite(descriptor, memoryview(content)[written:], written)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
