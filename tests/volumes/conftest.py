"""Fixtures of this room."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lvm_fixtures import MIB, Lvm, image, looped

from blocksync.volumes.reader import FileReader

Open = Callable[[Path], FileReader]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open image files as readers; closed when the test ends."""
    descriptors: list[int] = []

    def open_image(path: Path) -> FileReader:
        descriptor = os.open(path, os.O_RDONLY)
        descriptors.append(descriptor)
        return FileReader(descriptor)

    yield open_image
    for descriptor in descriptors:
        os.close(descriptor)


Disks = Callable[..., "tuple[Lvm, list[Path]]"]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    """Make disk images, attach them as loop devices, and confine lvm2 to them; detached when the test ends."""
    with contextlib.ExitStack() as stack:

        def attach(count: int, size: int = 40 * MIB, sector_bytes: int = 512) -> tuple[Lvm, list[Path]]:
            paths = [image(tmp_path / f"disk{number}", size) for number in range(count)]
            devices = [stack.enter_context(looped(path, sector_bytes)) for path in paths]
            return Lvm(tmp_path, devices), paths

        yield attach
