"""Reads the tables of docs/*.md."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def tables(page: str) -> list[list[list[str]]]:
    """Each table of a page as rows of cells, the head row first."""
    found: list[list[list[str]]] = []
    rows: list[list[str]] = []
    for line in [*(DOCS / page).read_text().splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not all(re.fullmatch(r"-+", cell) for cell in cells):
                rows.append(cells)
        elif rows:
            found.append(rows)
            rows = []
    return found


def layouts(page: str) -> list[list[tuple[int, int]]]:
    """``(offset, size)`` of each table that lays out bytes, in the page's order."""
    return [
        [(int(row[0]), int(row[1])) for row in table[1:]]
        for table in tables(page)
        if table[0][:2] == ["offset", "size"]
    ]


def names_by_number(page: str, head: str) -> list[dict[int, str]]:
    """``number: name`` of each table whose first two columns are ``head`` and ``name``."""
    return [{int(row[0]): row[1] for row in table[1:]} for table in tables(page) if table[0][:2] == [head, "name"]]
