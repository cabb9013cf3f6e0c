"""What goes wrong in a run: a plan drawn from its seed, each fault waiting for its moment.

Every operation of a disk, every part sent on a link, every control request and every read of the source counts as one
*announcement*. A fault is due at a number of announcements, and happens at the first one after it that it fits.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

# What each kind of fault happens to.
DISK = {
    "read error": ("EIO", ("read",)),
    "write error": ("EIO", ("write", "punch")),
    "half a write, then an error": ("half", ("write",)),
    "short write": ("short", ("write",)),
    "short read": ("short", ("read",)),
    "disk full": ("ENOSPC", ("write", "create", "rename")),
    "sync failed, writes lost": ("lost", ("sync",)),
    "metadata error": ("EIO", ("open", "create", "rename", "remove", "truncate", "sync folder")),
    "slow disk": ("slow", ("read", "write", "sync", "sync folder", "rename")),
}
LIE = "sync lied"
PROCESSES = (
    "sender killed",
    "receiver killed",
    "both killed",
    "sender power cut",
    "receiver power cut",
    "both power cut",
    "receiver stopped",
    "sender interrupted",
)
LINKS = ("link cut", "link half-open", "link stalled", "link dribbles", "network down")
REQUESTS = {
    "request lost": "lost",
    "answer lost": "unanswered",
    "request doubled": "doubled",
    "request late": "late",
}
SOURCE = ("source changed in a pass", "source read error")
FOREIGN = "foreign write"

COMMON = (*DISK, *PROCESSES, *LINKS, *REQUESTS, *SOURCE, FOREIGN)
KINDS = (*COMMON, LIE)

FULL_DISK_SECONDS = 90.0


@dataclass(slots=True)
class Fault:
    """Of a kind, due after so many announcements."""

    kind: str
    due: int


class Plan:
    """The faults of one run.

    Args:
        chance: what it is drawn from.
        most: faults at most.
    """

    def __init__(self, chance: random.Random, most: int = 6) -> None:
        horizon = chance.choice((20, 80, 250, 600))
        count = chance.randint(0, most)
        # Few kinds in one run, several times each, find what all kinds together would seldom meet.
        swarm = chance.sample(COMMON, chance.choice((2, 3, 3, 5, len(COMMON))))
        kinds = [chance.choice(swarm) for _ in range(count)]
        if chance.random() < 0.03:
            kinds[:1] = [LIE]
        self.pending = sorted(
            (Fault(kind, chance.randrange(horizon)) for kind in kinds), key=lambda fault: fault.due
        )
        self.announced = 0
        self.hit: Counter[str] = Counter()
        self.stopped = False

    def stop(self) -> None:
        """No more faults from here on."""
        self.stopped = True
        self.pending.clear()

    def due(self, *kinds: str) -> str:
        """The kind of a due fault among these, which thereby happens; "" for none."""
        for index, fault in enumerate(self.pending):
            if fault.due > self.announced:
                break
            if fault.kind in kinds:
                del self.pending[index]
                self.hit[fault.kind] += 1
                return fault.kind
        return ""

    def announce(self) -> bool:
        """Count an operation; returns whether any fault is due."""
        self.announced += 1
        return bool(self.pending) and self.pending[0].due <= self.announced

    def at_disk(self, operation: str) -> str:
        """A due fault that fits a disk's operation."""
        for index, fault in enumerate(self.pending):
            if fault.due > self.announced:
                break
            fits = DISK.get(fault.kind, ("lied", ("sync",)) if fault.kind == LIE else ("", ()))
            if operation in fits[1]:
                del self.pending[index]
                self.hit[fault.kind] += 1
                return fits[0]
        return ""
