"""The helper's side of :mod:`blocksync.targets.opener`: all that runs with root's rights once a receiver gave them up.

Standard library only, and little of it. It ends when the receiver's end of the channel closes.
"""

from __future__ import annotations

import os
import socket

_REQUEST_BYTES = 5
# Reading, writing, and a device for itself; never creating, cutting or following on.
_ALLOWED = os.O_RDWR | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)


def main(channel: int, places: list[int]) -> None:
    """Answer requests: a place's number and flags; the answer is an errno and, where that is 0, a descriptor."""
    with socket.socket(fileno=channel) as connection:
        connection.sendall(bytes(4))
        while True:
            request = connection.recv(_REQUEST_BYTES, socket.MSG_WAITALL)
            if len(request) != _REQUEST_BYTES:
                return
            index, flags = request[0], int.from_bytes(request[1:], "little")
            try:
                if index >= len(places) or flags & ~_ALLOWED:
                    raise PermissionError(1, "not a request of ours")
                descriptor = os.open(f"/proc/self/fd/{places[index]}", flags)
            except OSError as error:
                connection.sendall((error.errno or 1).to_bytes(4, "little"))
                continue
            try:
                socket.send_fds(connection, [bytes(4)], [descriptor])
            finally:
                os.close(descriptor)
