"""Small plots as HTML and inline SVG, bars and curves in the page's own colours, for light and dark. Pure text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

WIDTH = 640
LEAST_WIDTH = 1.5
# Of a bar, in hundredths: what is there is seen.
LEAST_SHARE = 0.4


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
    """Horizontal bars, whose words keep their size and are wrapped however narrow the page is.

    Args:
        rows: label, amount, the amount as text.
        colour: CSS class.
        spans: of each row, between which it lies: drawn as a whisker.
    """
    most = max([amount for _, amount, _ in rows] + [high for _, high in spans], default=0.0) or 1.0
    drawn = []
    for index, (label, amount, text) in enumerate(rows):
        bar = f'<i class="{colour}" style="width:{_share(amount, most)}"></i>'
        if spans and spans[index][0] < spans[index][1]:
            low, high = spans[index]
            bar += f'<i class="span" style="left:{_share(low, most)};width:{_share(high - low, most)}"></i>'
        drawn.append(
            f'<li><span>{escape(label)}</span><span class="track">{bar}</span><span>{escape(text)}</span></li>'
        )
    return f'<ul class="bars">{"".join(drawn)}</ul>'


def _share(amount: float, most: float) -> str:
    return f"{max(LEAST_SHARE, 100 * amount / most):.1f}%"


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
        f'<text class="{kind}" x="{left + part * wide:.1f}" y="{height - 8}" text-anchor="{anchor}">'
        f"{escape(show_x(part * most_x))}</text>"
        for part, anchor, kind in (
            (1 / 3, "middle", "label"),
            (2 / 3, "middle", "label spare"),
            (1.0, "end", "label"),
        )
    )
    marks = "".join(
        f'<text class="label" x="{left - 8}" y="{8 + high - part * high + 4:.1f}" text-anchor="end">'
        f"{escape(show_y(part * most_y))}</text>"
        for part in (0.0, 0.5, 1.0)
    )
    return _svg(WIDTH, height, f'{axes}<path class="line" d="{line}"/>{dots}{labels}{marks}')


def _svg(width: int, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{content}</svg>'
