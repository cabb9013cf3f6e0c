"""Opening a target again when its own rights are gone.

After a failed sync a target must be opened anew (rule 3), which takes root's rights for a disk. A receiver that gave
those up keeps a helper: a process with root's rights that does nothing but open the very files and devices that were
open when it was started, and hand their descriptors over. It takes a number of one byte, and no path: whoever takes the
receiver over gains no more than another descriptor of what it has already.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

from blocksync.errors import PrivilegesError

OpenAgain = Callable[[int], int]
"""Opens a target again with these flags; an OSError as ``os.open`` raises it."""

_REPLY_BYTES = 4
_HELPER = (
    "import sys; sys.path[:] = {path!r}; from blocksync.targets.helper import main; main({channel}, {places!r})"
)
_WAIT_SECONDS = 60.0


class Helper:
    """A process that opens again what is open now.

    Args:
        descriptors: of open targets, which stay the caller's.

    Raises:
        PrivilegesError: it cannot be started.
    """

    def __init__(self, descriptors: list[int]) -> None:
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair()
        # A place holds on to the inode, whatever becomes of the path, without keeping the target open.
        places: list[int] = []
        try:
            places.extend(os.open(f"/proc/self/fd/{each}", os.O_PATH | os.O_CLOEXEC) for each in descriptors)
            code = _HELPER.format(path=sys.path, channel=theirs.fileno(), places=places)
            self._process = subprocess.Popen(
                # Isolated: what root starts must not be found in the folder where it was started.
                [sys.executable, "-I", "-c", code],
                pass_fds=[theirs.fileno(), *places],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            self._channel = ours
            self._channel.settimeout(_WAIT_SECONDS)
            self._receive()
        except (OSError, EOFError) as error:
            ours.close()
            raise PrivilegesError(
                f"the helper that opens targets again cannot be started: {error}",
                remedy="see whether Python's own program may be started here, or leave --user out",
            ) from error
        finally:
            theirs.close()
            for place in places:
                os.close(place)

    def opener(self, index: int) -> OpenAgain:
        """What opens the target of that number."""

        def again(flags: int) -> int:
            try:
                with self._lock:
                    self._channel.sendall(bytes((index,)) + flags.to_bytes(_REPLY_BYTES, "little"))
                    return self._receive()
            except EOFError as error:
                raise OSError(0, "the helper that may open it has ended") from error

        return again

    def _receive(self) -> int:
        """The descriptor it sent; -1 for its greeting."""
        data, descriptors, _, _ = socket.recv_fds(self._channel, _REPLY_BYTES, 1)
        if len(data) != _REPLY_BYTES:
            raise EOFError("it has ended")
        number = int.from_bytes(data, "little")
        if number:
            raise OSError(number, os.strerror(number))
        return descriptors[0] if descriptors else -1

    def close(self) -> None:
        """Let it end; may be called twice."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_SECONDS)
