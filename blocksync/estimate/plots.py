"""Small plots as inline SVG: bars and curves in the page's own colours, readable in light and dark. Pure text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

WIDTH = 640
ROW = 26
LABEL = 150
VALUE = 110
# About as wide as a letter of the plots' text.
LETTER = 7.5
LEAST_WIDTH = 1.5


def stacked(parts: Sequence[tuple[str, float, str]], show: Callable[[float], str]) -> str:
    """One bar of several parts with a legend.

    Args:
        parts: name, amount, CSS class of the colour.
        show: an amount as text.
    """
    total = sum(amount for _, amount, _ in parts) or 1.0
    at = 0.0
    bars = []
    for name, amount, colour in parts:
        if not amount:
            continue
        width = max(LEAST_WIDTH, amount / total * WIDTH)
        title = f"<title>{escape(name)}: {escape(show(amount))}</title>"
        bars.append(
            f'<rect class="{colour}" x="{at:.1f}" y="0" width="{width:.1f}" height="22" rx="2">{title}</rect>'
        )
        at += width
    legend = "".join(
        f'<li><span class="key {colour}"></span>{escape(name)} <b>{escape(show(amount))}</b></li>'
        for name, amount, colour in parts
        if amount
    )
    return _svg(WIDTH, 22, "".join(bars)) + f'<ul class="legend">{legend}</ul>'


def bars(rows: Sequence[tuple[str, float, str]], colour: str, spans: Sequence[tuple[float, float]] = ()) -> str:
    """Horizontal bars.

    Args:
        rows: label, amount, the amount as text.
        colour: CSS class.
        spans: of each row, between which it lies: drawn as a whisker.
    """
    most = max([amount for _, amount, _ in rows] + [high for _, high in spans], default=0.0) or 1.0
    # Room behind the longest bar for the longest text, so that none is cut off at the plot's edge.
    room = max([VALUE] + [16 + LETTER * len(text) for _, _, text in rows])
    scale = (WIDTH - LABEL - room) / most
    drawn = []
    for index, (label, amount, text) in enumerate(rows):
        y = index * ROW
        width = max(LEAST_WIDTH, amount * scale)
        drawn.append(f'<text class="label" x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>')
        drawn.append(f'<rect class="{colour}" x="{LABEL}" y="{y + 4}" width="{width:.1f}" height="16" rx="2"/>')
        end = width
        if spans:
            low, high = (LABEL + edge * scale for edge in spans[index])
            ends = f"M{low:.1f} {y + 7}v10M{high:.1f} {y + 7}v10"
            drawn.append(f'<path class="whisker" d="M{low:.1f} {y + 12}H{high:.1f}{ends}"/>')
            end = max(width, high - LABEL)
        drawn.append(f'<text x="{LABEL + end + 8:.1f}" y="{y + 16}">{escape(text)}</text>')
    return _svg(WIDTH, len(rows) * ROW, "".join(drawn))


def curve(
    points: Sequence[tuple[float, float]],
    along: Callable[[float], float],
    show_x: Callable[[float], str],
    show_y: Callable[[float], str],
) -> str:
    """What was seen as dots, and the curve through it drawn on to three times the distance."""
    height, left, bottom = 190, 84, 28
    most_x = max(x for x, _ in points) * 3
    samples = [most_x * step / 60 for step in range(61)]
    most_y = max([along(x) for x in samples] + [y for _, y in points]) or 1.0
    wide, high = WIDTH - left - 12, height - bottom - 8

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * wide, 8 + high - y / most_y * high

    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(x, along(x)) for x in samples))
    dots = "".join(
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in (place(*point) for point in points)
    )
    base = 8 + high
    axes = f'<path class="axis" d="M{left} 8V{base}H{WIDTH - 12}"/>'
    labels = "".join(
        f'<text class="label" x="{left + part * wide:.1f}" y="{height - 8}" text-anchor="{anchor}">'
        f"{escape(show_x(part * most_x))}</text>"
        for part, anchor in ((1 / 3, "middle"), (2 / 3, "middle"), (1.0, "end"))
    )
    marks = "".join(
        f'<text class="label" x="{left - 8}" y="{8 + high - part * high + 4:.1f}" text-anchor="end">'
        f"{escape(show_y(part * most_y))}</text>"
        for part in (0.0, 0.5, 1.0)
    )
    return _svg(WIDTH, height, f'{axes}<path class="line" d="{line}"/>{dots}{labels}{marks}')


def _svg(width: int, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{content}</svg>'
