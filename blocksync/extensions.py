"""Sources and targets from other packages, through entry points.

A package that declares the entry point ``NAME`` in the group ``blocksync.sources`` (or ``blocksync.targets``) is asked
to open what people write as ``NAME:…``. A path that exists is never taken for such a name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

SOURCES = "blocksync.sources"
TARGETS = "blocksync.targets"
# Two characters at least: C: is a drive.
_NAMED = re.compile(r"([a-z][a-z0-9+.-]+):", re.ASCII)


def find_extension(group: str, text: str) -> Callable[..., Any] | None:
    """What opens ``text``; None where no package is meant.

    Args:
        group: :data:`SOURCES` or :data:`TARGETS`.

    Raises:
        Exception: whatever importing the package raises.
    """
    match = _NAMED.match(text)
    if match is None or os.path.lexists(text):
        return None
    from importlib.metadata import entry_points

    for entry in entry_points(group=group, name=match[1]):
        opener: Callable[..., Any] = entry.load()
        return opener
    return None
