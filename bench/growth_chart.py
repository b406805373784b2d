"""The picture of growth: what one of many costs, by how many there are. Level is linear.

A panel for each group of works; both scales are logarithmic. A line that goes up from the left to
the right is worse than linear; one that comes down has a part that is paid once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from bench.figures import Session, WorkFigures
from bench.report import number, unique
from bench.runner import Row
from bench.svg import GREY, line, picture, rect, shorten, text

__all__ = ["growth_chart"]

WIDTH = 1160
COLUMNS = 2
GAP = 20
TOP = 76
PANEL_WIDTH = (WIDTH - (COLUMNS + 1) * GAP) / COLUMNS
PANEL_HEIGHT = 250
PLOT_LEFT, PLOT_TOP = 58, 40
PLOT_WIDTH, PLOT_HEIGHT = 262, 172
LABEL_LINE = 15
"""Pixels between labels, at least."""
COLOURS = ("#0b62a8", "#d1672b", "#1a7f37", "#8a3ffc", "#b5323e", "#6b6b00", "#3c3c3c")
BINARY = {20: "MiB", 30: "GiB", 40: "TiB", 50: "PiB", 60: "EiB"}
FACTOR = 10.0
"""A scale spans that much at least, so that what is level looks level."""


class Scale:
    """Values to pixels, by their logarithms."""

    def __init__(self, values: Iterable[float], start: float, end: float, factor: float) -> None:
        values = list(values)
        low, high = math.log(min(values)), math.log(max(values))
        missing = max(math.log(factor) - (high - low), 0) / 2
        self.low, self.high = low - missing, high + missing
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """Return where a value is."""
        part = (math.log(value) - self.low) / (self.high - self.low or 1)
        return self._start + part * (self._end - self._start)

    def decades(self) -> list[float]:
        """Return the powers of ten on it."""
        first, last = (math.ceil(self.low / math.log(10)), math.floor(self.high / math.log(10)))
        return [10.0**power for power in range(first, last + 1)]


def points(work: WorkFigures) -> list[tuple[int, float]]:
    """Return (how many, what one costs), fewest first."""
    found = [(side.number, side.median) for side in work.sides if side.median and side.number]
    return sorted((many, median) for many, median in found if median > 0)


def many_text(many: int) -> str:
    """Return a number, or a size in bytes."""
    for shift, unit in reversed(BINARY.items()):
        if many >= 1 << shift:
            return f"{many >> shift} {unit}"
    return f"{many:,}"


def spread_out(places: list[float]) -> list[float]:
    """Return places for labels, near those they belong to, and none upon another."""
    order = sorted(range(len(places)), key=places.__getitem__)
    placed = list(places)
    for before, after in itertools.pairwise(order):
        placed[after] = max(placed[after], placed[before] + LABEL_LINE)
    lowest = PLOT_TOP + PLOT_HEIGHT
    for place in reversed(order):
        placed[place] = min(placed[place], lowest)
        lowest = placed[place] - LABEL_LINE
    return placed


def panel(title: str, works: list[WorkFigures], left: float, top: float) -> list[str]:
    """Return one panel."""
    lines = [
        rect(left, top, PANEL_WIDTH, PANEL_HEIGHT, "#f7f9fb", rx=4),
        text(left + 14, top + 22, shorten(title, 78), font_weight="bold"),
    ]
    drawn = [(work, found) for work in works if (found := points(work))]
    if not drawn:
        return [*lines, text(left + 14, top + 60, "no figures", fill=GREY)]
    across = Scale(
        (many for _, found in drawn for many, _ in found),
        left + PLOT_LEFT,
        left + PLOT_LEFT + PLOT_WIDTH,
        FACTOR,
    )
    up = Scale(
        (cost for _, found in drawn for _, cost in found),
        top + PLOT_TOP + PLOT_HEIGHT,
        top + PLOT_TOP,
        FACTOR,
    )
    right, bottom = left + PLOT_LEFT + PLOT_WIDTH, top + PLOT_TOP + PLOT_HEIGHT
    lines.append(rect(left + PLOT_LEFT, top + PLOT_TOP, PLOT_WIDTH, PLOT_HEIGHT, "#fff"))
    for value in up.decades():
        lines.append(line(left + PLOT_LEFT, up(value), right, up(value), "#e3e7eb"))
        lines.append(
            text(left + PLOT_LEFT - 6, up(value) + 4, f"{value:,g}", text_anchor="end", fill=GREY)
        )
    last = -math.inf
    for many in sorted({many for _, found in drawn for many, _ in found}):
        at = across(many)
        lines.append(line(at, bottom, at, bottom + 4, GREY))
        if at - last >= 34:
            lines.append(text(at, bottom + 18, many_text(many), text_anchor="middle", fill=GREY))
            last = at
    ends = spread_out([up(found[-1][1]) - top for _, found in drawn])
    for (work, found), colour, label in zip(drawn, COLOURS * 2, ends, strict=False):
        places = [(across(many), up(cost)) for many, cost in found]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        x, y = places[-1]
        lines.append(line(x + 4, y, right + 8, top + label, colour, stroke_opacity=0.5))
        told = f"{number(found[-1][1])} {work.unit}  {work.label}"
        told = shorten(told, 38)
        lines.append(text(right + 11, top + label + 4, told, fill=colour, font_size=11))
    return lines


def growth_chart(session: Session, rows: Mapping[str, Row]) -> str:
    """Return the picture of all rows that grow, as SVG."""
    works = [work for name, row in rows.items() if row.grows for work in session.of_row(name)]
    panels = unique(work.panel for work in works)
    load = f"{session.load[0]:.2f}" if session.load else "?"
    lines = [
        text(20, 26, "Growth: what one of many costs, by how many there are", font_size=18),
        text(
            20,
            46,
            "Level is linear; up to the right is worse, down is a part that is paid once."
            f"  {session.when} UTC, load {load}, {session.machine.get('processor', '')}",
            fill=GREY,
        ),
        text(20, 64, "Both scales are logarithmic; labels say the figure of the most.", fill=GREY),
    ]
    for place, title in enumerate(panels):
        row, column = divmod(place, COLUMNS)
        lines += panel(
            title,
            [work for work in works if work.panel == title],
            GAP + column * (PANEL_WIDTH + GAP),
            TOP + row * (PANEL_HEIGHT + GAP),
        )
    height = TOP + math.ceil(len(panels) / COLUMNS) * (PANEL_HEIGHT + GAP)
    return picture(WIDTH, height, "What one of many costs, by how many there are", lines)
