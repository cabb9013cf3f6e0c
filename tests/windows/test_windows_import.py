"""The package where the modules and calls of Unix are missing, as on Windows: import, the commands' words, state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = r"""
import asyncio, ctypes, importlib.abc, multiprocessing, os, pathlib, selectors, shutil, signal, socket
import subprocess, sys, tempfile
import aiohttp, blake3, click, cryptography.x509, rich.console, rich.live, xxhash, zstandard
import click.testing

GONE = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "uvloop")
for name in [name for name in sys.modules if name in GONE]:
    del sys.modules[name]

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Missing())
import types
sys.modules["msvcrt"] = types.SimpleNamespace(LK_LOCK=1, LK_NBLCK=2, LK_UNLCK=0, locking=lambda *given: None)
sys.platform = "win32"
for name in ("pread", "preadv", "pwrite", "pwritev", "geteuid", "getuid", "getegid", "fchown", "fdatasync",
             "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_PATH", "setresuid",
             "setpriority", "sched_getaffinity", "posix_fadvise", "major", "minor", "makedev", "getloadavg", "sysconf"):
    if hasattr(os, name):
        delattr(os, name)
pair, family = socket.socketpair, socket.AF_UNIX
socket.socketpair = lambda: pair(family)
del socket.AF_UNIX, signal.SIGHUP
"""

IMPORTS = r"""
import blocksync, blocksync.api
from blocksync.cli import main
from blocksync.cli.program import COMMANDS
for words in (["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)):
    assert main(words) == 0, words
import blocksync.engine.operation, blocksync.engine.receiver, blocksync.engine.sender, blocksync.estimate.estimator
import blocksync.flatten.plan, blocksync.preflight.checker, blocksync.snapshots, blocksync.snapshots.cleaning
print("imported", file=sys.stderr)
"""

STATE = r"""
from pathlib import Path
from blocksync.platforms.positioned import pread, pread_into, pwrite
from blocksync.sources import open_source
place = Path(sys.argv[1])
image = place / "image"
image.write_bytes(bytes(range(256)) * 4)
source = open_source(str(image))
room = bytearray(512)
source.read_into(256, memoryview(room))
assert bytes(room) == bytes(range(256)) * 2
assert source.descriptor() is None
source.close()
descriptor = os.open(image, os.O_RDWR)
assert pwrite(descriptor, b"here", 100) == 4
assert pread(descriptor, 4, 100) == b"here"
os.close(descriptor)
print("imported", file=sys.stderr)
"""


@pytest.mark.parametrize("deed", [IMPORTS, STATE], ids=["imports", "state"])
def test_nothing_of_unix_is_needed(deed: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + deed, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.endswith("imported\n")
