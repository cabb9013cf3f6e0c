"""Where both ends of a first pass are, by samples of ``perf``: seconds of processor by what each sample was part of.

Samples come from the processor's clock, so a machine without hardware counters can take them. A sample in a library is
told by the library, one in the kernel by the system call that it is part of; both need no source and no symbols but the
kernel's. The main threads, which start and control, are told apart from those that move data.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import make_disk
from benchmarks.ends import Ends
from benchmarks.tools import free_port

RATE_HERTZ = 997
SETTLE_SECONDS = 1.0
# The first that is part of a file's name, or of a kernel's function anywhere above the sample, says what it is.
LIBRARIES = {
    "backend_c": "zstd",
    "libcrypto": "TLS",
    "libssl": "TLS",
    "_ssl.": "Python",
    "_native": "digests",
    "libpython": "Python",
    "libc.": "C library: copies, memory",
}
CALLS = {
    "page_fault": "kernel: fresh memory",
    "pwrite64": "kernel: write",
    "pread": "kernel: read",
    "sys_write": "kernel: send",
    "sendto": "kernel: send",
    "sys_read": "kernel: receive",
    "recvfrom": "kernel: receive",
    "futex": "kernel: threads that wait for threads",
    "sync": "kernel: sync",
    "fallocate": "kernel: holes",
    "lseek": "kernel: holes",
    "irq": "kernel: interrupts",
}


def profile(folder: Path, size: int, level: int) -> list[str]:
    """One pass of a seeded disk, sampled; a table of both ends.

    Raises:
        RuntimeError: there is no ``perf`` here, or it cannot sample.
    """
    perf = shutil.which("perf")
    if perf is None:
        raise RuntimeError("perf is not installed")
    with tempfile.TemporaryDirectory(dir=folder, prefix="blocksync-profile-") as made:
        place = Path(made)
        disk = place / "disk.img"
        make_disk(disk, size)
        record = (perf, "record", "-q", "-e", "cpu-clock", "-F", str(RATE_HERTZ), "-g", "-o")
        with Ends(place, {"a": size}, ports=(free_port(), free_port())) as ends:
            ends.pair(disk, "a")
            watching = subprocess.Popen([*record, place / "receiver", "-p", str(ends.process_id)])
            time.sleep(SETTLE_SECONDS)
            ends.near = (*record, str(place / "sender"), "--")
            ends.send(disk, "a", "--level", str(level))
            watching.send_signal(signal.SIGINT)
            watching.wait()
        found = {end: _seconds(perf, place / end) for end in ("sender", "receiver")}
    return _table(found)


def _seconds(perf: str, recorded: Path) -> dict[str, float]:
    done = subprocess.run(
        [perf, "script", "-i", recorded, "-F", "pid,tid,ip,sym,dso"], check=True, capture_output=True, text=True
    )
    seconds: dict[str, float] = defaultdict(float)
    for main, frames in _samples(done.stdout):
        seconds["start and control" if main else _kind(frames)] += 1 / RATE_HERTZ
    return seconds


def _samples(text: str) -> Iterator[tuple[bool, list[str]]]:
    """Whether a sample is of a main thread, and its frames, the innermost first."""
    for sample in text.split("\n\n"):
        head, *frames = sample.strip("\n").split("\n")
        process, _, thread = head.strip().partition("/")
        if frames:
            yield process == thread.strip(), frames


def _kind(frames: list[str]) -> str:
    inner = frames[0]
    if "[kernel" not in inner and "[guest" not in inner:
        return next((kind for name, kind in LIBRARIES.items() if name in inner), "else")
    above = " ".join(frame for frame in frames if "[kernel" in frame)
    return next((kind for name, kind in CALLS.items() if name in above), "kernel: else")


def _table(found: dict[str, dict[str, float]]) -> list[str]:
    kinds = {kind for seconds in found.values() for kind in seconds}
    rows = sorted(kinds, key=lambda kind: -sum(seconds.get(kind, 0.0) for seconds in found.values()))
    lines = ["| where | sender | receiver |", "| --- | --- | --- |"]
    lines += [
        f"| {kind} | {found['sender'].get(kind, 0.0):.2f} s | {found['receiver'].get(kind, 0.0):.2f} s |"
        for kind in rows
    ]
    total = {end: sum(seconds.values()) for end, seconds in found.items()}
    return [*lines, f"| in all | {total['sender']:.2f} s | {total['receiver']:.2f} s |"]
