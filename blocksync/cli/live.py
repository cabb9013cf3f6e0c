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
from blocksync.cli.quantities import show_size
from blocksync.cli.speed import Speed
from blocksync.options import Progress
from blocksync.trust.names import printable

REDRAWS_A_SECOND = 4
BAR_CHARACTERS = 30


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
                speed.saw(time.monotonic(), progress.done)
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
        with self._lock:
            return Group(*(_rows(progress, speed) for progress, speed in self._shown.values()))


def _rows(progress: Progress, speed: Speed) -> Group:
    size = max(progress.size, 1)
    row = Table.grid(padding=(0, 1))
    row.add_row(
        escape(printable(title_of(progress), 60)),
        ProgressBar(total=size, completed=progress.done, width=BAR_CHARACTERS),
        f"{100 * progress.done // size:3d} %",
        f"{show_size(progress.done)} of {show_size(progress.size)}",
    )
    details = ", ".join(details_of(progress, speed)) or " "
    return Group(row, Text(f"  {details}", style="dim", no_wrap=True, overflow="ellipsis"))
