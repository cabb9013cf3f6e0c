"""Identities and loopback listeners for the tests of trust."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trust_loopback import Greeter

from blocksync.trust.identity import Identity


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder that passes for a state folder."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def make(private: Path) -> Callable[[str], Identity]:
    return lambda name: Identity.load_or_create(private / name)


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext], Greeter]]:
    with contextlib.ExitStack() as stack:
        yield lambda context: stack.enter_context(Greeter(context))
