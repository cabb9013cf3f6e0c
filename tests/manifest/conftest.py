from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.manifest.folder import OsFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[OsFolder]:
    with OsFolder(tmp_path / "slot") as made:
        yield made
