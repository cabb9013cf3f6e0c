"""The live display: a bar and a line of numbers for each slot in motion, redrawn in place."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from blocksync.cli.display import HAPPENINGS, details_of, title_of
from blocksync.cli.output import Output
from blocksync.cli.quantities import show_rate, show_seconds, show_size
from blocksync.cli.speed import Speed
from blocksync.results import Progress
from blocksync.trust.names import printable

REDRAWS_A_SECOND = 4
BAR_CHARACTERS = 30
NARROW_CHARACTERS = 64
"""Below this the bar has a line of its own."""
_HEIGHTS = "▁▂▃▄▅▆▇█"


class LiveDisplay:
    """Callable with each moment; entered while it shows.

    Args:
        output: whose lines go above it in the meantime.
        console: of the terminal; that of stderr by default.
    """

    def __init__(self, output: Output, console: Console | None = None) -> None:
        self._output = output
        self._console = console or Console(stderr=True, highlight=False)
        self._lock = threading.RLock()
        self._shown: dict[str, tuple[Progress, Speed]] = {}
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REDRAWS_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        self._output.above = self._above
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._output.above = None
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        if progress.message:
            self._output.note(f"{title_of(progress)}: {progress.message}")
        with self._lock:
            if progress.stage in HAPPENINGS or progress.stage == "done":
                self._shown.pop(progress.slot, None)
                return
            _, speed = self._shown.get(progress.slot) or (progress, Speed())
            if progress.size:
                now = time.monotonic()
                speed.saw(now, progress.done)
                speed.saw_stages(now, progress.read, progress.wire)
            # Before the receiver names the slot it is shown without a name, and afterwards not twice.
            self._shown.pop("", None)
            self._shown[progress.slot] = (progress, speed)

    def pause(self) -> None:
        """Leave the terminal to a question; the display comes back with :meth:`resume`."""
        self._output.above = None
        self._live.stop()

    def resume(self) -> None:
        self._live.start(refresh=True)
        self._output.above = self._above

    def _above(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _render(self) -> Group:
        width = self._console.width
        with self._lock:
            rows = [_rows(progress, speed, width) for progress, speed in self._shown.values()]
            passes = list(self._output.passes)
        if len(passes) > 1:
            rows.append(Group(_history(passes, width)))
        return Group(*rows)


def _rows(progress: Progress, speed: Speed, width: int) -> Group:
    """A bar that takes what the words leave of the line, and the numbers below it, wrapped at whole facts."""
    size = max(progress.size, 1)
    title = printable(title_of(progress), max(10, width - 30) if width >= NARROW_CHARACTERS else width)
    if not progress.size:
        # Nothing that could be counted: a wait, a word on the way.
        return Group(Text(title, style="bold", no_wrap=True, overflow="ellipsis"))
    share = f"{100 * progress.done // size:3d} %"
    amounts = f"{show_size(progress.done)} of {show_size(progress.size)}"
    parts = [Text(title, style="bold", no_wrap=True, overflow="ellipsis")] if width < NARROW_CHARACTERS else []
    words = share if width < NARROW_CHARACTERS else f"{title}{share}{amounts}"
    bar = ProgressBar(
        total=size, completed=progress.done, width=min(BAR_CHARACTERS, max(5, width - len(words) - 4))
    )
    row = Table.grid(padding=(0, 1))
    row.add_row(*((bar, share) if width < NARROW_CHARACTERS else (escape(title), bar, share, amounts)))
    facts = details_of(progress, speed)
    if width < NARROW_CHARACTERS:
        facts.insert(0, amounts)
    read, sent = speed.stages()
    if read and progress.stage == "transferring":
        facts.append(f"reading {show_rate(read)}, sending {show_rate(sent)}")
    return Group(*parts, row, *(Text(f"  {line}", style="dim", no_wrap=True) for line in _filled(facts, width - 2)))


def _filled(facts: list[str], width: int) -> list[str]:
    """Facts in lines of at most ``width`` characters; a line even where there are none, so that nothing jumps."""
    lines = [""]
    for fact in facts:
        longer = f"{lines[-1]}, {fact}" if lines[-1] else fact
        if lines[-1] and len(longer) > width:
            lines.append(fact[:width])
        else:
            lines[-1] = longer[:width]
    return lines


def _history(passes: list[float], width: int) -> Text:
    """How long the passes took, oldest first: a plot of one character a pass."""
    ends = f" {show_seconds(passes[0])} to {show_seconds(passes[-1])}"
    shown = passes[-max(1, min(len(passes), width - len("passes ") - len(ends))) :]
    return Text(f"passes {sparkline(shown)}{ends}"[:width], no_wrap=True)


def sparkline(values: list[float]) -> str:
    """Eight heights, from zero to the largest."""
    most = max(values, default=0.0) or 1.0
    return "".join(_HEIGHTS[min(len(_HEIGHTS) - 1, int(len(_HEIGHTS) * value / most))] for value in values)
