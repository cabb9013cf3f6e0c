"""Progress while work is going on: live on a terminal, plain lines elsewhere, objects with ``--json``.

The callbacks come from threads of the engine and must neither raise nor wait: a display only notes what it is told and
writes a line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from blocksync.cli.output import Output
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.speed import Speed, ratio
from blocksync.results import Progress

if TYPE_CHECKING:
    from blocksync.cli.logbook import Logbook

LINE_SECONDS = 5.0
"""Between two plain lines: a log of an hour stays readable."""
OBJECT_SECONDS = 0.5
"""Between two progress objects; a pass reports once a second anyway."""

_BOTTLENECKS = {
    "read": "reading the source",
    "processor": "the processor",
    "link": "the link",
    "target": "writing the target",
}
_STAGES = {
    "sampling": "sampling the source",
    "probing": "measuring the link",
    "rehearsing": "rehearsing a pass and a verify",
    "watching": "watching the source change",
    "planning": "finding out what must be sent",
}
_MOVING = frozenset({"transferring", "verifying", "rebuilding"})
HAPPENINGS = frozenset({"opened", "paired", "committed", "closed", "divided", "finished", "removed"})
"""Stages that are events of a receiver, not moments of a pass."""


def facts_of(progress: Progress) -> dict[str, object]:
    """A moment as an object for programs."""
    facts = dataclasses.asdict(progress)
    if not facts["detail"]:
        del facts["detail"]
    return facts


def title_of(progress: Progress) -> str:
    """What is going on, in a few words, behind the name of its slot."""
    if progress.stage == "transferring":
        what = f"{progress.kind} pass" if progress.kind else "transferring"
    else:
        what = _STAGES.get(progress.stage, progress.stage)
    return f"{progress.slot}: {what}" if progress.slot else what


def line_of(progress: Progress, speed: Speed) -> str:
    """A moment as a line: share, amounts, rate, ratio, time left, bottleneck."""
    share = 100 * progress.done // progress.size if progress.size else 0
    parts = [title_of(progress), f"{share} %", f"{show_size(progress.done)} of {show_size(progress.size)}"]
    return ", ".join([*parts, *details_of(progress, speed)])


def details_of(progress: Progress, speed: Speed) -> list[str]:
    """Rate, time left, wire, ratio, level and bottleneck, as far as they are known."""
    parts = []
    if speed.rate:
        parts.append(show_rate(speed.rate))
    left = speed.remaining(progress.size - progress.done)
    if left is not None and progress.size > progress.done:
        around = speed.spread(progress.size - progress.done)
        give_or_take = f" ± {show_seconds(around)}" if around is not None and around >= 1 else ""
        parts.append(f"ETA {show_seconds(left)}{give_or_take}")
    if progress.wire:
        parts.append(f"wire {show_size(progress.wire)}")
    packed = ratio(progress)
    if packed is not None:
        parts.append(f"ratio {packed:.2f}")
    if progress.wire:
        parts.append("uncompressed" if progress.level is None else f"level {progress.level}")
    if progress.bottleneck in _BOTTLENECKS:
        parts.append(f"limited by {_BOTTLENECKS[progress.bottleneck]}")
    return parts


class Display(Protocol):
    """Called with each moment; leaves the terminal to a question between ``pause`` and ``resume``."""

    def __call__(self, progress: Progress) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class LineDisplay:
    """Plain lines on stderr (or objects on stdout): each remark at once, the numbers every few seconds.

    Args:
        output: takes them.
        clock: monotonic seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._lock = threading.Lock()
        self._speed = Speed()
        self._said_at: float | None = None
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if self._output.json_lines:
            with self._lock:
                due = self._due(progress)
            if due:
                self._output.event("progress", facts_of(progress))
            return
        with self._lock:
            line = self._line(progress)
        if line:
            self._output.note(line)

    def _due(self, progress: Progress) -> bool:
        """Whether a program should hear of it: what is new at once, the numbers once in a while."""
        now = self._clock()
        fresh, self._stage = progress.stage != self._stage, progress.stage
        if (
            not fresh
            and not progress.message
            and self._said_at is not None
            and now - self._said_at < OBJECT_SECONDS
        ):
            return False
        self._said_at = now
        return True

    def pause(self) -> None:
        """Lines are in nobody's way."""

    def resume(self) -> None:
        """See :meth:`pause`."""

    def _line(self, progress: Progress) -> str:
        if progress.stage in HAPPENINGS:
            return ""  # whoever calls told it as an event
        now = self._clock()
        fresh, self._stage = progress.stage != self._stage, progress.stage
        if progress.message:
            return f"{title_of(progress)}: {progress.message}"
        if progress.stage not in _MOVING:
            # Each stage of the first pass; of those that follow what they found is enough.
            told = fresh and progress.stage != "done" and not self._output.passes
            return title_of(progress) if told else ""
        self._speed.saw(now, progress.done)
        if self._said_at is None:
            self._said_at = now - LINE_SECONDS + 1.0  # the first numbers soon, once there is a rate
        if now - self._said_at < LINE_SECONDS:
            return ""
        self._said_at = now
        return line_of(progress, self._speed)


@contextlib.contextmanager
def showing(output: Output) -> Iterator[Display]:
    """The display that fits where the command runs, and the log behind it; yields it."""
    with _shown(output) as display:
        yield display if output.log is None else _Logged(display, output.log)


class _Logged:
    """A display whose moments are also logged."""

    def __init__(self, display: Display, log: Logbook) -> None:
        self._display = display
        self._log = log
        self.pause, self.resume = display.pause, display.resume

    def __call__(self, progress: Progress) -> None:
        self._log.progress(progress)
        self._display(progress)


@contextlib.contextmanager
def _shown(output: Output) -> Iterator[Display]:
    if output.json_lines or output.quiet or not sys.stderr.isatty():
        yield LineDisplay(output)
        return
    from blocksync.cli.live import LiveDisplay

    with LiveDisplay(output) as display:
        yield display
