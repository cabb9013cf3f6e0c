"""Tables for people, as rich draws them."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from blocksync.trust.names import printable

# Where there is no terminal whose width one could keep to, nothing is wrapped.
UNBOUNDED_CHARACTERS = 400
CELL_CHARACTERS = 300


def draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> str:
    """Draw a table as text.

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
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        right = column in numbers
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, CELL_CHARACTERS)) for cell in row))
    console.print(table)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"
