"""What stands before a source passes on all that is asked of it: a wrapper that inherits an answer hides the truth.

Two did. A pass with limits believed that nobody used a mounted disk, and left out what its map called unused.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blocksync.engine.allocation import AllocatedSource
from blocksync.engine.cancel import Cancel
from blocksync.engine.governor import Governed, LiveLimits
from blocksync.flatten.sources import _Borrowed
from blocksync.limits import Limits
from blocksync.sources.base import Source
from blocksync.sources.memory import MemorySource
from blocksync.sources.rescue import RescueSource
from blocksync.sources.volume import VolumeSource
from blocksync.volumes.allocation import DiskMap
from blocksync.volumes.reader import SourceReader

ASKED = {name for name, each in vars(Source).items() if callable(each) and not name.startswith("_")}
# The state of a source besides its methods; what is a wrapper's own to say is left out below.
TOLD = {name for name in Source.__annotations__ if not name.startswith("_")}
INHERITED = {
    _Borrowed: {"descriptor"},  # of a disk whose volumes are read through it: all reads are theirs
}
UNTOLD = {
    AllocatedSource: {"told"},  # its map is made of it already
    RescueSource: {"tracker"},  # then everything is read, which is what a failing disk is sent for
    _Borrowed: {"tracker"},  # of the whole disk, where volumes have their own
}


def governed(base: Source) -> Source:
    return Governed(base, LiveLimits(Limits()), Cancel(), None)


WRAPPERS: list[tuple[type[Source], Callable[[Source], Source]]] = [
    (Governed, governed),
    (_Borrowed, _Borrowed),
    (RescueSource, RescueSource),
    (AllocatedSource, lambda base: AllocatedSource(base, DiskMap(SourceReader(base)))),
]


class Telling(MemorySource):
    """A source in which nothing is as an ordinary one has it."""

    def __init__(self) -> None:
        super().__init__(8192)
        self.name, self.identity, self.sector_bytes = "a name", "an identity", 4096
        self.tracker = object()  # type: ignore[assignment]
        self.told = {}

    def in_use(self) -> str:
        return "it is mounted at /mnt"

    def unreadable(self) -> tuple[tuple[int, int], ...]:
        return ((4096, 512),)


@pytest.mark.parametrize(("kind", "wrap"), WRAPPERS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_wrapper_answers_no_question_by_inheritance(kind: type[Source], wrap: Callable[[Source], Source]) -> None:
    assert ASKED - set(vars(kind)) == INHERITED.get(kind, set())
    base = Telling()
    wrapped = wrap(base)
    assert wrapped.in_use() == base.in_use()
    assert base.unreadable()[0] in wrapped.unreadable() or kind is RescueSource  # which tells its own
    for name in TOLD - UNTOLD.get(kind, set()):
        assert getattr(wrapped, name) == getattr(base, name), name


def test_a_volume_answers_for_its_disks() -> None:
    assert ASKED - set(vars(VolumeSource)) == {"descriptor"}
