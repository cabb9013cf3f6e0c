"""Real NBD servers for tests: qemu-nbd, qemu-storage-daemon, nbdkit. Each ends with its block."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

READY_SECONDS = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    words: list[str | Path], where: Path | int, *, abruptly: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; enters once it listens.

    Args:
        words: the command line.
        where: path of its socket, or its port on loopback.
        abruptly: end it by SIGKILL, as a crash would.
    """
    process = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _await(process, where)
        yield process
    finally:
        process.kill() if abruptly else process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _await(process: subprocess.Popen[bytes], where: Path | int) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read().decode())
        if isinstance(where, Path):
            # Bound is not yet listening: 00010000 is __SO_ACCEPTCON.
            lines = Path("/proc/net/unix").read_text().splitlines()
            if any(line.split()[3] == "00010000" and line.endswith(f" {where}") for line in lines[1:]):
                return
        elif _listens(where):
            return
        time.sleep(0.02)
    raise AssertionError("the server does not listen")


def _listens(port: int) -> bool:
    """Looked up, since qemu-nbd would take a probing connection for its client."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


@contextlib.contextmanager
def nbdkit(folder: Path, *words: str | Path) -> Iterator[str]:
    """nbdkit on a unix socket; yields the address of its default export."""
    where = folder / f"nbdkit-{len(os.listdir(folder))}.sock"
    with serving(["nbdkit", "--foreground", "--exit-with-parent", "--unix", where, *words], where):
        yield f"nbd+unix:///?socket={where}"


@contextlib.contextmanager
def qemu_nbd(folder: Path, image: Path, *words: str | Path, image_format: str = "raw") -> Iterator[str]:
    """qemu-nbd on a unix socket; yields the address of its default export."""
    where = folder / f"qemu-{len(os.listdir(folder))}.sock"
    line: list[str | Path] = [
        "qemu-nbd",
        "--persistent",
        "--socket",
        where,
        "--format",
        image_format,
        *words,
        image,
    ]
    with serving(line, where):
        yield f"nbd+unix:///?socket={where}"
