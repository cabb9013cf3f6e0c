"""Cuts a byte stream into frames without IO: it lends buffers, the driver fills them.

The driver asks :meth:`FrameReader.want` for the next buffer to fill, fills any part of it, reports how much with
:meth:`FrameReader.filled`, and gets a frame whenever one is complete. Payload buffers belong to the reader and are
used again for the next frame: what must live longer is copied by whoever wants it. A buffer is only made, or made
larger, after the header's lengths have passed ``check``.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable

from blocksync.errors import ProtocolError
from blocksync.protocol.wire import HEADER_BYTES, Frame, decode_header


class FrameReader:
    """One direction of one connection.

    Args:
        check: called with each decoded header before its payload is given a buffer; raises to refuse it.
    """

    def __init__(self, check: Callable[[Frame], None]) -> None:
        self._check = check
        self._header = bytearray(HEADER_BYTES)
        self._frame: Frame | None = None
        self._payload: mmap.mmap | None = None
        self._view = memoryview(self._header)
        self._have = 0

    @property
    def between_frames(self) -> bool:
        """Whether a stream that ends here ends at a frame's edge (which still does not make it a good end)."""
        return self._frame is None and self._have == 0

    def want(self) -> memoryview:
        """The part of the current buffer that is still empty; never empty itself."""
        return self._view[self._have :]

    def filled(self, count: int) -> tuple[Frame, memoryview] | None:
        """Take note of ``count`` bytes written to the front of :meth:`want`.

        Returns:
            the frame and its payload once complete. The payload is valid until the next call of :meth:`want`.

        Raises:
            ProtocolError: the header is none, or was refused.
        """
        if not 0 < count <= len(self._view) - self._have:
            raise ValueError(f"{count} bytes reported for a buffer of {len(self._view) - self._have}")
        self._have += count
        if self._have < len(self._view):
            return None
        if self._frame is None:
            frame = decode_header(self._header)
            self._check(frame)
            if frame.payload_length:
                self._frame = frame
                self._view = self._lend(frame.payload_length)
                self._have = 0
                return None
            self._have = 0
            return frame, memoryview(b"")
        frame, payload = self._frame, self._view
        self._frame = None
        self._view = memoryview(self._header)
        self._have = 0
        return frame, payload

    def _lend(self, length: int) -> memoryview:
        if self._payload is None or len(self._payload) < length:
            # Page-aligned, so that raw payloads can be written with direct IO as they are.
            self._payload = mmap.mmap(-1, -(-length // mmap.PAGESIZE) * mmap.PAGESIZE)
        return memoryview(self._payload)[:length]


def check_lengths(frame: Frame, most: int) -> None:
    """Refuse a payload longer than ``most``, or a packed one that did not shrink.

    Raises:
        ProtocolError: with the numbers.
    """
    if frame.payload_length > most:
        raise ProtocolError(f"a {frame.kind.name} frame of {frame.payload_length} bytes exceeds the {most} agreed")
