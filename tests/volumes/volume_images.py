"""Images made by the tools of the formats' own projects, and the running of those tools."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def run(*command: str | Path, text: str | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a tool; its output, or a failed test that shows what it said.

    A tool that is missing skips the test, except in CI, where that would hide a missing part.
    """
    if shutil.which(str(command[0])) is None:
        assert os.environ.get("BLOCKSYNC_REQUIRE_NATIVE") != "1", (
            f"{command[0]} is missing: scripts/system-packages"
        )
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [str(part) for part in command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1", **(environment or {})},
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def image(path: Path, size: int) -> Path:
    """A sparse file."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextlib.contextmanager
def looped(path: Path, sector_bytes: int = 512) -> Iterator[str]:
    """The image as a loop device; needs root. What was written through it is in the file afterwards."""
    if os.geteuid():
        pytest.skip("loop devices need root")
    device = run("losetup", "-f", "--show", "--sector-size", str(sector_bytes), path).strip()
    try:
        yield device
    finally:
        run("blockdev", "--flushbufs", device)
        run("losetup", "-d", device)
