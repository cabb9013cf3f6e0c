from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocksync.engine.reach import Reach
from tests.serving import Receiver, receiver


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as made:
        yield made


@pytest.fixture
def reach(served: Receiver) -> Iterator[Reach]:
    made = served.reach(code=served.listening.code)
    yield made
    made.close()
