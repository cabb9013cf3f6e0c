"""What the kernel knows of a TCP connection; nothing where it does not tell."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

# struct tcp_info of linux/tcp.h, up to the counters that Linux 4.9 brought.
_TCP_INFO_BYTES = 192
_ROUND_TRIP_AT, _ACKNOWLEDGED_AT, _BUSY_AT = 68, 120, 168


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkWaits:
    """What a sending connection has been waiting for, seconds.

    Args:
        busy: there was something to send or not yet acknowledged.
        peer: of that, the peer's receive window was full: it did not read.
        acknowledged: bytes.
        round_trip: smoothed, seconds.
    """

    busy: float
    peer: float
    acknowledged: int
    round_trip: float


def link_waits(sock: socket.socket) -> LinkWaits | None:
    """Of a connected socket; None for sockets that are not TCP, other systems and older kernels."""
    if sys.platform != "linux":
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(raw) < _TCP_INFO_BYTES:
        return None
    round_trip = struct.unpack_from("=I", raw, _ROUND_TRIP_AT)[0]
    acknowledged = struct.unpack_from("=Q", raw, _ACKNOWLEDGED_AT)[0]
    busy, peer = struct.unpack_from("=QQ", raw, _BUSY_AT)
    return LinkWaits(busy=busy / 1e6, peer=peer / 1e6, acknowledged=acknowledged, round_trip=round_trip / 1e6)
