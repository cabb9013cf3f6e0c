"""Arming the shim: which operation of a process is met by what.

The shim is compiled at first use and preloaded into the driver, which is started anew for that. A child is armed
after it was forked and before it runs the command.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
VARIABLE = "BLOCKSYNC_TEST_SHIM"


class Operations(IntFlag):
    """Classes of operations; files are those below the bench's folder and its devices."""

    CHANGES = 1
    READS = 2
    OPENS = 4
    SENDS = 8
    RECEIVES = 16
    FILES = CHANGES | READS | OPENS
    SOCKETS = SENDS | RECEIVES
    ALL = FILES | SOCKETS


class Action(IntEnum):
    COUNT = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    TEAR = 3  # half of a write, then killed
    FAIL = 4
    SHORT = 5
    FAIL_ON = 6  # this one and all after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What meets the ``at``-th operation of some classes.

    Args:
        error: errno of a failure.
    """

    action: Action
    at: int = 0
    operations: Operations = Operations.ALL
    error: int = errno.EIO

    @property
    def name(self) -> str:
        words = {Action.FAIL: "", Action.FAIL_ON: " from there on"}
        if self.action in words:
            return errno.errorcode[self.error] + words[self.action]
        return self.action.name.lower().replace("_", " ")


def build() -> Path:
    """The shim, compiled once for each version of its source and each user."""
    content = SOURCE.read_bytes()
    name = f"blocksync-shim-{os.geteuid()}-{hashlib.sha256(content).hexdigest()[:16]}.so"
    path = Path(tempfile.gettempdir()) / name
    if path.exists() and path.stat().st_uid == os.geteuid():
        return path
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".so", delete=False) as fresh:
        pass
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o", fresh.name, str(SOURCE)], check=True
    )
    os.replace(fresh.name, path)
    return path


def preload() -> None:
    """Start this program anew with the shim in it, unless it is there already."""
    if os.environ.get(VARIABLE):
        return
    shim = build()
    environment = {**os.environ, VARIABLE: str(shim), "LD_PRELOAD": str(shim)}
    module = ["-m", "tests.faults", *sys.argv[1:]]
    os.execve(sys.executable, [sys.executable, *module], environment)


def arm(wanted: Arm, folder: str, device: str, report: int) -> None:
    """Arm the process that calls this."""
    shim = ctypes.CDLL(os.environ[VARIABLE])
    shim.shim_arm.argtypes = (
        ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int,
    )  # fmt: skip
    shim.shim_arm.restype = None
    shim.shim_arm(
        int(wanted.action),
        wanted.at,
        int(wanted.operations),
        wanted.error,
        folder.encode(),
        device.encode(),
        report,
    )


def seen() -> int:
    """Operations of the armed classes that this process made."""
    shim = ctypes.CDLL(os.environ[VARIABLE])
    shim.shim_seen.restype = ctypes.c_long
    return int(shim.shim_seen())
