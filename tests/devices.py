"""Real loop devices for tests, and the words for what needs root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def need_root() -> None:
    """Skip where there is no root, except in CI, where that would hide a missing part."""
    if os.geteuid() != 0:
        assert os.environ.get("BLOCKSYNC_REQUIRE_NATIVE") != "1", "the gate must run as root"
        pytest.skip("loop devices and mounts need root")


def run(*words: str | Path, text: str | None = None) -> str:
    done = subprocess.run([str(word) for word in words], input=text, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.strip()


@contextmanager
def loop_device(image: Path, *, sector: int = 512, read_only: bool = False) -> Iterator[str]:
    """Attach an image; yields the device's path; detached at the end, mounted or not."""
    more = ["--read-only"] if read_only else []
    device = run("losetup", "--find", "--show", "--sector-size", str(sector), *more, image)
    try:
        yield device
    finally:
        subprocess.run(["umount", "-q", device], check=False, capture_output=True)
        run("losetup", "--detach", device)


@contextmanager
def mounted(path: Path, place: Path, *, read_only: bool = False) -> Iterator[Path]:
    """An image's filesystem, mounted through a loop device, beside copies of itself; both are gone at the end."""
    place.mkdir(exist_ok=True)
    with path.open("rb") as file:
        options = ["ro" if read_only else "rw", *(["nouuid"] if file.read(4) == b"XFSB" else [])]
    with loop_device(path, read_only=read_only) as device:
        run("mount", "-o", ",".join(options), device, place)
        try:
            yield place
        finally:
            run("umount", place)
            released(device)


def image(path: Path, size: int, content: bytes = b"") -> Path:
    """A sparse file that begins with ``content``."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    return path


def released(device: str) -> None:
    """Wait until nothing holds a device: a namespace that another process made meanwhile may keep its mount alive."""
    deadline = time.monotonic() + 120
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError:
            assert time.monotonic() < deadline, f"{device} is still held"
            time.sleep(0.05)
        else:
            return


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Overwrite ``old`` wherever it is by ``new``, with blanks up to the same length."""
    content = path.read_bytes()
    at = content.find(old)
    assert at >= 0
    with path.open("r+b") as file:
        while at >= 0:
            file.seek(at)
            file.write(new.ljust(len(old), b" "))
            at = content.find(old, at + 1)
