"""The process that resumes what another one has suspended, when that one dies or takes too long.

Started before the deed, as a process of its own in a session of its own, locked into memory. It is told on its
standard input, a JSON object a line, what it would have to undo and within how many seconds; the end of the input
is the other's death.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from blocksync.platforms import devicemapper

READY = b"ready\n"
KEPT = b"kept\n"
UNDONE = b"undone\n"
_MOST_BYTES = 1 << 20


def main() -> None:
    """Watch until the input ends."""
    # Whoever ends the other process by name or group means that one; this one ends by itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    devicemapper.lock_memory()
    os.write(1, READY)
    suspended: list[str] = []
    deadline: float | None = None
    undone = False
    held = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], left)[0]:  # noqa: TID251 - of descriptor 0, in a process of its own
            undo(suspended)
            undone, deadline = True, None
            continue
        piece = os.read(0, 65536)
        if not piece or len(held) > _MOST_BYTES:
            undo(suspended)
            return
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            told = json.loads(line)
            suspended = list(told["suspended"])
            deadline = time.monotonic() + told["seconds"] if suspended and not undone else None
            with contextlib.suppress(OSError):
                os.write(1, UNDONE if undone else KEPT)


def undo(suspended: list[str]) -> None:
    """Resume, each whatever becomes of the others; the last first."""
    for name in reversed(suspended):
        with contextlib.suppress(OSError):
            devicemapper.resume(name)


if __name__ == "__main__":
    main()
