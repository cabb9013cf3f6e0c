"""Bounded compression: zstd, one frame a payload.

zstandard's one-shot decompression allocates what the frame declares, whatever limit it is given; so the frame's
own parameters are read first and anything but exactly the expected size is refused (a bomb costs us 18 bytes).
Contexts are not shared between threads: each connection makes its own :class:`Packer` and :class:`Unpacker`.
"""

from __future__ import annotations

import zstandard

from blocksync.errors import ProtocolError

MIN_LEVEL = -7
MAX_LEVEL = 19
# A sample this long tells whether a run will shrink at the price of some 10 µs.
PROBE_BYTES = 8 << 10
# What shrinks by less costs more time in unpacking than it saves.
WORTHWHILE_RATIO = 0.96
# A window never needs to be larger than the largest frame (32 MiB); a peer that asks for more is refused.
MAX_WINDOW_BYTES = 32 << 20


class Packer:
    """Compresses payloads; the level may be changed between calls."""

    def __init__(self) -> None:
        self._contexts: dict[int, zstandard.ZstdCompressor] = {}

    def pack(self, data: bytes | memoryview, level: int) -> bytes | None:
        """Compress.

        Returns:
            the zstd frame, or None where it is not worth sending packed.
        """
        context = self._contexts.get(level)
        if context is None:
            context = self._contexts[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True, write_checksum=False
            )
        packed = context.compress(data)
        return packed if len(packed) < len(data) * WORTHWHILE_RATIO else None

    def shrinks(self, data: memoryview) -> bool:
        """A cheap test on samples from three places; wrong now and then, which costs bytes, never truth."""
        length = len(data)
        if length <= 2 * PROBE_BYTES:
            return True
        middle = length // 2
        probes = (data[:PROBE_BYTES], data[middle : middle + PROBE_BYTES], data[-PROBE_BYTES:])
        return any(self.pack(probe, 1) is not None for probe in probes)


class Unpacker:
    """Decompresses payloads of a known size."""

    def __init__(self) -> None:
        self._context = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)

    def unpack(self, payload: memoryview, plain_length: int) -> bytes:
        """Decompress to exactly ``plain_length`` bytes.

        Raises:
            ProtocolError: the frame declares another size, is damaged, or has bytes behind it.
        """
        try:
            parameters = zstandard.get_frame_parameters(payload)
            if parameters.content_size != plain_length or parameters.dict_id:
                raise ProtocolError(
                    f"a zstd frame declares {parameters.content_size} bytes where the header says {plain_length}"
                )
            plain = self._context.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ProtocolError(f"a zstd frame is damaged: {error}") from error
        if len(plain) != plain_length:
            raise ProtocolError(f"a zstd frame holds {len(plain)} bytes where the header says {plain_length}")
        return plain
