"""The surfaces, by name."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

NAMES = (
    "answers", "codes", "control", "cow", "filesystems", "frames", "gpt", "journal", "kernels", "lvm", "manifest",
    "messages", "nbd", "patches", "peer", "raid", "stores", "thin", "tools", "zstd",
)  # fmt: skip
# One input that takes more of a processor breaks the promise.
INPUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """One place where bytes of others are read.

    Args:
        run: feeds it; a BlocksyncError is a good end, anything else that is raised a broken promise.
        seeds: inputs to begin from.
        modules: of ours that are instrumented for coverage.
        most_bytes: longest input.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    modules: tuple[str, ...]
    most_bytes: int = 4096


def load(name: str) -> Surface:
    """The surface of a name."""
    if name not in NAMES:
        raise ValueError(f"there is no surface {name!r}; there are {', '.join(NAMES)}")
    surface = importlib.import_module(f"fuzz.surfaces.{name}").SURFACE
    assert isinstance(surface, Surface)
    return surface


def meets(surface: Surface, data: bytes) -> None:
    """Feed a surface; raises whatever breaks the promise."""
    from blocksync.errors import BlocksyncError

    began = time.process_time()
    try:
        surface.run(data)
    except BlocksyncError as error:
        if type(error) is BlocksyncError:
            raise AssertionError(f"an error without a class: {error}") from error
        if not error.message or not isinstance(error.message, str):
            raise AssertionError("an error without words") from error
    took = time.process_time() - began
    if took > INPUT_SECONDS:
        raise AssertionError(f"one input took {took:.1f} s of a processor")
