"""What one end allows the other, agreed when a session opens and checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from blocksync.errors import ProtocolError
from blocksync.geometry import Geometry

MAX_CONNECTIONS = 16
# All buffers of one end of one session together; with the interpreter this keeps an end below 200 MiB.
MAX_SESSION_BUFFER_BYTES = 64 << 20
# A connection's payload as it came, unpacked, and as it is held back until its window ends.
CHUNKS_PER_CONNECTION = 3
# AES-GCM's bound on records under one key is reached near 2^24.5 full records; OpenSSL does not change keys by itself.
ROTATE_AFTER_BYTES = 96 << 30

# The blocks that one PATCH names lie this close together: the receiver reads each of them.
PATCH_SPAN_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one session.

    Args:
        connections: data connections at a time.
        frame_bytes: the plain content of one DATA or PATCH frame.
    """

    connections: int
    frame_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.connections <= MAX_CONNECTIONS:
            raise ProtocolError(f"{self.connections} data connections are not between 1 and {MAX_CONNECTIONS}")
        if not 4096 <= self.frame_bytes <= 32 << 20:
            raise ProtocolError(f"frames of {self.frame_bytes} bytes are out of bounds")


def limits_for(geometry: Geometry, wanted_connections: int) -> Limits:
    """The most connections whose buffers (:data:`CHUNKS_PER_CONNECTION` chunks each) fit the session's memory."""
    chunk = geometry.chunk_bytes
    affordable = max(1, MAX_SESSION_BUFFER_BYTES // (CHUNKS_PER_CONNECTION * chunk))
    return Limits(connections=max(1, min(wanted_connections, affordable, MAX_CONNECTIONS)), frame_bytes=chunk)


def patch_blocks(geometry: Geometry) -> int:
    """Blocks from a PATCH's offset on that it may name."""
    return max(1, PATCH_SPAN_BYTES // geometry.block_bytes)
