"""How long dividing a target and repairing the system on it will take, before anything is moved.

The receiver does that work, and nothing of the kind may be tried on its target. So each part is tried here, on what
is at hand, and counted as often as the plan needs it: the system's files are found and read in the source itself, a
file is written and synced, a tool is started, GRUB's image is built. What another machine does faster or slower is the
interval.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocksync.flatten.outlook import outlook
from blocksync.flatten.refusals import Wishes
from blocksync.flatten.sources import plan_for
from blocksync.sources.base import Source

Span = tuple[float, float, float]

# Between two machines of one generation, idle or busy, each step was within this factor of the trial.
ERROR = 3.0
TRIALS = 3
TOOL_SECONDS = 60
# Where this machine has no GRUB tools to try; the receiver's take about that.
IMAGE_SECONDS = 0.5
SYNCED_BYTES = 64 << 10
# Of a divided target: its table twice and its plan; of each partition: its claims, its folder and its first header.
TARGET_SYNCS, PART_SYNCS = 4, 4
# A filesystem is looked at, mounted, unmounted, and synced.
PART_TOOLS = 3
_MODULES = ("part_gpt", "part_msdos", "ext2", "xfs", "normal", "configfile", "search", "linux")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """Seconds as ``(likeliest, least, most)``: of dividing a target, and of repairing the system on it."""

    divide: Span
    repair: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Seconds of each part: to find and read the system's files, to sync a file, to start a tool, to build an image."""

    look: float
    sync: float
    tool: float
    image: float


def foresee(disks: Sequence[Source], wishes: Wishes, folder: Path) -> Foresight:
    """Try the parts and count them.

    Args:
        disks: open; all disks of the volume groups.
        folder: where a file may be written for a moment.

    Raises:
        FlattenRefusedError: the layout cannot be flattened.
        OSError: nothing can be written there.
    """
    began = time.perf_counter()
    plan = outlook(disks, plan_for(disks, wishes))
    look = time.perf_counter() - began
    parts = sum(bool(copy.filesystem) and copy.filesystem != "swap" for copy in plan.copies)
    return counted(tried(look, folder), parts=parts, edits=len(plan.edits))


def counted(trials: Trials, *, parts: int, edits: int) -> Foresight:
    """The parts' times, as often as they are needed. Pure.

    Args:
        parts: filesystems that are mounted.
        edits: files that are written, each beside a copy of what it was.
    """
    divide = (TARGET_SYNCS + PART_SYNCS * parts) * trials.sync
    repair = (
        trials.look + parts * (PART_TOOLS * trials.tool + trials.sync) + trials.image + (1 + edits) * trials.sync
    )
    return Foresight(divide=_span(divide), repair=_span(repair))


def tried(look: float, folder: Path) -> Trials:
    """Each part by itself; the middle one of some trials."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="foresight-") as place:
        path = Path(place) / "trial"
        return Trials(
            look=look,
            sync=_middle(lambda: _sync(path)),
            tool=_middle(lambda: _run(["mount", "--version"])),
            image=_image(path),
        )


def _middle(work: Callable[[], object]) -> float:
    return statistics.median(_timed(work) for _ in range(TRIALS))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _sync(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(os.urandom(SYNCED_BYTES))
        os.fsync(file.fileno())


def _run(words: list[str]) -> bool:
    try:
        done = subprocess.run(
            words, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=TOOL_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _image(path: Path) -> float:
    tool = shutil.which("grub-mkimage") or shutil.which("grub2-mkimage")
    modules = Path("/usr/lib/grub/i386-pc")
    if tool is None or not modules.is_dir():
        return IMAGE_SECONDS
    words = [tool, "-O", "i386-pc", "-d", str(modules), "-o", str(path), "-p", "/boot/grub", *_MODULES]
    began = time.perf_counter()
    return time.perf_counter() - began if _run(words) else IMAGE_SECONDS


def _span(seconds: float) -> Span:
    return seconds, seconds / ERROR, seconds * ERROR
