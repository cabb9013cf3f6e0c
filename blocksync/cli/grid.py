"""Tables for people, as rich draws them."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence

from blocksync.trust.names import printable

# Where there is no terminal whose width one could keep to, nothing is wrapped.
UNBOUNDED_CHARACTERS = 400
CELL_CHARACTERS = 300
# A column that is folded more narrowly than this is no longer read but spelt.
LEAST_CHARACTERS = 12
GAP_CHARACTERS = 3


def draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """Draw a table as text; on a terminal that is too narrow for it, each row as lines of ``name  value``.

    Args:
        title: above it; may be empty.
        columns: their heads.
        rows: cells; neutralised and taken literally.
        numbers: the columns to be set to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    page = io.StringIO()
    console = Console(
        file=page,
        force_terminal=terminal,
        width=None if terminal else UNBOUNDED_CHARACTERS,
        highlight=False,
        markup=False,
        emoji=False,
    )
    cells = [[printable(cell, CELL_CHARACTERS) for cell in row] for row in rows]
    if terminal and _least(columns, cells, numbers) > console.width:
        return "\n".join([*([title] if title else []), *_listed(columns, cells, console.width)]) + "\n"
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        right = column in numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def _least(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> int:
    """Characters that a table takes at least to be read."""
    total = 0
    for number, column in enumerate(columns):
        widest = max([len(column), *(len(row[number]) for row in rows)])
        total += GAP_CHARACTERS + (widest if column in numbers else min(widest, LEAST_CHARACTERS))
    return total


def _listed(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A line a cell, an empty one between rows; what is empty is left out, what is long goes on below itself."""
    names = max(map(len, columns)) + 2
    room = max(1, width - names)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for column, cell in zip(columns, row, strict=True):
            for at in range(0, len(cell), room):
                yield f"{'' if at else column:{names}}{cell[at : at + room]}"
