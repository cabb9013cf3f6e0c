"""A small process that freezes filesystems and thaws them again, whatever becomes of the one that asked.

It is a program of its own, run as ``python -I -B watchdog.py``, so that a ``kill -9`` of the sender cannot leave a
production machine with frozen filesystems: the kernel closes the sender's end of the pipe, and this process thaws. It
imports the standard library alone, and everything before it freezes anything: a frozen root filesystem can be read,
but whoever writes to it waits. It locks its memory, so that it cannot be waiting for its own pages.

It reads lines of JSON on stdin and answers each with one on stdout:

* ``{"mounts": [...], "seconds": S, "command": "..." or null}`` → ``{"ready": true}``
* ``{"freeze": true}`` → ``{"frozen": [...]}``, or ``{"error": ..., "mount": ..., "errno": N}`` with nothing left frozen
* ``{"thaw": true}``, the end of stdin, a signal, or ``seconds`` after the freeze → thaws, runs ``command`` (the
  post-final hook), answers ``{"thawed": [...], "held": bool, "status": N}`` and exits. ``held`` is false where
  somebody else, or the time limit, had thawed before.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

# linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int)
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
MCL_CURRENT, MCL_FUTURE = 1, 2
COMMAND_SECONDS = 600.0


class _Frozen:
    """The mounts this process froze, newest last."""

    def __init__(self) -> None:
        self.held: list[tuple[str, int]] = []

    def freeze(self, mounts: list[str]) -> dict[str, object]:
        import fcntl

        try:
            opened = [(mount, os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) for mount in mounts]
            for mount, descriptor in opened:
                try:
                    fcntl.ioctl(descriptor, FIFREEZE, 0)
                except OSError as error:
                    self.thaw()
                    return {"error": os.strerror(error.errno or 0), "mount": mount, "errno": error.errno or 0}
                self.held.append((mount, descriptor))
        except OSError as error:
            self.thaw()
            return {"error": os.strerror(error.errno or 0), "mount": str(error.filename), "errno": error.errno or 0}
        return {"frozen": [mount for mount, _ in self.held]}

    def thaw(self) -> tuple[list[str], bool]:
        """Thaw in the opposite order; whether each of them was still frozen."""
        import fcntl

        thawed, held = [], True
        while self.held:
            mount, descriptor = self.held.pop()
            try:
                fcntl.ioctl(descriptor, FITHAW, 0)
            except OSError:
                held = False  # EINVAL: somebody thawed it meanwhile
            thawed.append(mount)
            os.close(descriptor)
        return thawed, held


class _Lines:
    """Lines of stdin with a deadline; None at its end or when the time is over."""

    def __init__(self) -> None:
        self._buffer = b""

    def next(self, until: float | None) -> bytes | None:
        while b"\n" not in self._buffer:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select([0], [], [], left)  # noqa: TID251 - of descriptor 0, in a process of its own
            part = os.read(0, 65536) if ready else b""
            if not part:
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _say(answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(answer).encode() + b"\n")


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _run(command: str | None) -> int:
    if not command:
        return 0
    try:
        return subprocess.run(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, stdout=2, timeout=COMMAND_SECONDS, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 124


def main() -> int:
    """Serve one freeze; see the module's text."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE)
    frozen, lines = _Frozen(), _Lines()
    command: str | None = None
    on_time = True
    try:
        first = lines.next(None)
        if first is None:
            return 0
        wanted = json.loads(first)
        command = wanted["command"]
        _say({"ready": True})
        until = None
        while True:
            line = lines.next(until)
            if line is None:
                on_time = until is None or time.monotonic() < until
                break
            said = json.loads(line)
            if said.get("thaw"):
                break
            answer = frozen.freeze(wanted["mounts"])
            until = time.monotonic() + wanted["seconds"]
            _say(answer)
    except KeyboardInterrupt:
        on_time = False
    finally:
        thawed, held = frozen.thaw()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _say({"thawed": thawed, "held": held and on_time, "status": _run(command)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
