"""Fixtures for the tests of the command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_processes import MIB, make_disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def disk(folder: Path) -> Path:
    """4 MiB, half of it random, half a hole."""
    return make_disk(folder / "source.img", 4 * MIB, data=2 * MIB)


@pytest.fixture
def small_place(folder: Path) -> Iterator[Path]:
    """A filesystem with 1 MiB of room."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
