"""Reading and writing at an offset, also where the system has no call for that: Windows moves a file's one position.

There a lock keeps threads from moving it under each other.
"""

from __future__ import annotations

import os
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
