"""Two links joined inside one process, for ``copy``: a socket pair, which never leaves the kernel's memory."""

from __future__ import annotations

import socket

from blocksync.transports.link import Link, SocketLink

BUFFER_BYTES = 1 << 20


def memory_pair() -> tuple[Link, Link]:
    """Two ends of one connection."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    return SocketLink(ours, "the other end"), SocketLink(theirs, "the other end")
