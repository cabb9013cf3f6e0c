from __future__ import annotations

import pytest

from blocksync.geometry import Geometry
from blocksync.protocol.limits import Limits
from blocksync.protocol.receiver import Binding


@pytest.fixture
def binding() -> Binding:
    return Binding(
        epoch=7, geometry=Geometry(10 * (64 << 10) + 512), limits=Limits(connections=2, frame_bytes=1 << 20)
    )
