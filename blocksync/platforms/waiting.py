"""Waiting for a descriptor, whatever its number: ``select`` refuses those above 1023, and an agent may have more."""

from __future__ import annotations

import selectors

# One that needs no descriptor of its own, where there is one: somebody who waits may have used up all of them.
_Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.DefaultSelector)


def readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or an end, within so many seconds."""
    with _Selector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(seconds))
