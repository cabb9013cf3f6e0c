"""Both implementations, for every test that asks for ``kernels``."""

from __future__ import annotations

import os

import pytest

from blocksync.errors import KernelsError
from blocksync.kernels import Kernels, load


def native_or_skip() -> Kernels:
    """The native kernels; where they must be there, their absence is a failure and not a skip."""
    try:
        return load("native")[1]
    except KernelsError as error:
        if os.environ.get("BLOCKSYNC_REQUIRE_NATIVE") == "1" or os.environ.get("CI") == "true":
            pytest.fail(f"the native kernels are required here: {error}", pytrace=False)
        pytest.skip(f"{error}; build them with BLOCKSYNC_BUILD_NATIVE=yes pip install -e .")


@pytest.fixture(scope="session")
def native() -> Kernels:
    return native_or_skip()


@pytest.fixture(scope="session", params=["native", "python"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return native_or_skip() if request.param == "native" else load("python")[1]
