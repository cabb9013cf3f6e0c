"""Bars as SVG, by hand: a plotting library would be a large dependency for a few rectangles."""

from __future__ import annotations

from html import escape

ROW, LEFT, WIDTH = 26, 190, 640
FONT = 'font-family="sans-serif" font-size="13"'


def bars(title: str, values: dict[str, float]) -> str:
    """One bar a value; ours stands out."""
    most = max(values.values(), default=1.0) or 1.0
    height = 40 + ROW * len(values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(values.items()):
        top = 36 + ROW * number
        length = max(1.0, (WIDTH - LEFT - 70) * value / most)
        colour = "#2a7ab0" if name == "blocksync" else "#9aa5ad"
        parts += [
            f'<text x="{LEFT - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{top}" width="{length:.1f}" height="{ROW - 8}" fill="{colour}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{top + 14}">{value:.2f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
