"""What both pictures are made of."""

from __future__ import annotations

from collections.abc import Mapping
from xml.sax.saxutils import escape, quoteattr

__all__ = ["line", "picture", "rect", "shorten", "text"]

GREY = "#5f6b76"


def attributes(values: Mapping[str, object]) -> str:
    """Return attributes, `_` for `-` in their names."""
    return "".join(
        f" {name.replace('_', '-')}={quoteattr(str(value))}" for name, value in values.items()
    )


def text(x: float, y: float, words: str, **more: object) -> str:
    """Return a text."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes(more)}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, fill: str, **more: object) -> str:
    """Return a rectangle."""
    where = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {where} fill="{fill}"{attributes(more)}/>'


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, **more: object) -> str:
    """Return a line."""
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{stroke}"{attributes(more)}/>'


def shorten(words: str, characters: int) -> str:
    """Cut a text that does not fit."""
    return words if len(words) <= characters else words[: characters - 1] + "…"


def picture(width: float, height: float, label: str, parts: list[str]) -> str:
    """Return a picture, on white whatever is behind it."""
    more = {
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
        "viewBox": f"0 0 {width:.0f} {height:.0f}",
        "font_family": "sans-serif",
        "font_size": 12,
        "role": "img",
        "aria_label": label,
    }
    head = f'<svg xmlns="http://www.w3.org/2000/svg"{attributes(more)}>'
    return "\n".join([head, rect(0, 0, width, height, "#fff"), *parts, "</svg>\n"])
