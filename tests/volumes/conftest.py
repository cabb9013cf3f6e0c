"""Fixtures of this room."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
