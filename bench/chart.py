"""The chart: a bar for each work, as long as the part of its goal that was reached.

One line stands for all goals, so that what is beyond it is seen at a glance. The scale is
logarithmic: twice the goal is as far to the right of the line as half of it to the left. Works
stand below the title of their row; those without a figure are told in one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bench.figures import Session, Verdict, WorkFigures
from bench.report import goal_text, missing_text, number, reached_text, stand_text, unique
from bench.runner import Row
from bench.svg import GREY, line, picture, rect, shorten, text

__all__ = ["chart"]

WIDTH = 1160
LEFT = 400
"""Where bars begin; names stand before them."""
RIGHT = 820
"""Where bars end at most; figures stand behind them."""
LINE = 19
"""Pixels from one bar to the next."""
BAR = 12
HEAD = 26
"""Pixels that the title of a row takes."""
TOP = 112
LOWEST, HIGHEST = 0.25, 4.0
"""Parts of a goal that the scale reaches; what is beyond ends there."""
COLOURS: dict[Verdict, str] = {
    "stretch": "#1a7f37",
    "reached": "#4a9edb",
    "missed": "#d1672b",
    "open": "#b0b0b0",
}
MEANINGS: dict[Verdict, str] = {
    "stretch": "stretch goal reached",
    "reached": "goal reached",
    "missed": "not reached",
}
TICKS = {0.25: "1/4", 0.5: "1/2", 1.0: "goal", 2.0: "2 x goal", 4.0: "4 x"}


def position(part: float) -> float:
    """Return where a part of a goal is, in pixels from the left."""
    part = min(max(part, LOWEST), HIGHEST)
    return LEFT + (RIGHT - LEFT) * math.log(part / LOWEST) / math.log(HIGHEST / LOWEST)


def result_text(work: WorkFigures) -> str:
    """Return what was reached, and of what."""
    reached = work.reached
    if reached is None or work.goal is None:
        return missing_text(work)
    if work.goal.of == "figure":
        return f"{number(reached)} {work.unit}   (goal {goal_text(work)})"
    best = work.against()
    return f"{reached:.2f} x {best.name if best else ''}   (goal {goal_text(work)})"


def bar(work: WorkFigures, y: float) -> list[str]:
    """Return a work's line of the chart."""
    label = work.name.replace("queue depth", "QD")
    label = shorten(label.replace(" connections", " conn.").replace(" connection", " conn."), 60)
    part, goal = work.part_of_goal, work.goal
    if part is None or goal is None:
        return []
    stretch = goal.reach / goal.stretch if goal.at_most else goal.stretch / goal.reach
    at, middle = position(stretch), y + LINE / 2
    return [
        text(LEFT - 10, middle + 4, label, text_anchor="end"),
        rect(
            LEFT,
            middle - BAR / 2,
            max(position(part) - LEFT, 2),
            BAR,
            COLOURS[work.verdict],
            rx=2,
        ),
        # Upon the bar, which else would hide it.
        line(position(1), y, position(1), y + LINE, "#000", stroke_width=2),
        line(at, middle - BAR / 2 - 2, at, middle + BAR / 2 + 2, "#222", stroke_width=2),
        text(RIGHT + 12, middle + 4, shorten(result_text(work), 52), fill="#333"),
    ]


def head(name: str, row: Row, works: list[WorkFigures], y: float) -> list[str]:
    """Return the title of a row, and how its works stand."""
    title = f"{name}  {row.title}"
    told = stand_text(works).replace("*", "")
    reached = reached_text(works)
    stand = f"{told}; {reached}" if reached and len(works) > 1 else told
    return [
        rect(20, y + 4, WIDTH - 40, HEAD - 6, "#f0f3f6"),
        text(28, y + HEAD - 8, title, font_weight="bold"),
        text(LEFT, y + HEAD - 8, f"against {row.against}", fill=GREY),
        text(RIGHT + 12, y + HEAD - 8, shorten(stand, 50), fill=GREY),
    ]


def legend() -> list[str]:
    """Return what colours and marks mean."""
    lines, x = [], 20.0
    for verdict, meaning in MEANINGS.items():
        lines.append(rect(x, 60, 12, 12, COLOURS[verdict], rx=2))
        lines.append(text(x + 18, 70, meaning))
        x += 38 + 6.6 * len(meaning)
    lines.append(line(x + 4, 59, x + 4, 73, "#222", stroke_width=2))
    lines.append(text(x + 12, 70, "stretch goal"))
    return lines


def chart(session: Session, rows: Mapping[str, Row]) -> str:
    """Return the chart of all works that have a goal, as SVG; but for those of growth."""
    lines, y = [], float(TOP)
    shown: list[WorkFigures] = []
    for name, row in rows.items():
        works = [work for work in session.of_row(name) if work.goal is not None]
        if row.grows or not works:
            continue
        shown += works
        lines += head(name, row, works, y)
        y += HEAD
        for work in works:
            made = bar(work, y)
            lines += made
            y += LINE if made else 0
        y += 4
    ticks = []
    for part, name in TICKS.items():
        at, strong = position(part), part == 1
        stroke = "#000" if strong else "#dfe3e8"
        ticks.append(line(at, TOP - 6, at, y, stroke, stroke_width=2 if strong else 1))
        weight = "bold" if strong else "normal"
        for tick_y in (TOP - 12, y + 16):
            ticks.append(text(at, tick_y, name, text_anchor="middle", font_weight=weight))
    verdicts = [work.verdict for work in shown]
    met = verdicts.count("reached") + verdicts.count("stretch")
    known = len(verdicts) - verdicts.count("open")
    load = f"{session.load[0]:.2f}" if session.load else "?"
    where = unique([session.machine.get("processor", ""), session.machine.get("kernel", "")])
    title = [
        text(20, 26, "vbdev beside its peers: how much of each goal is reached", font_size=18),
        text(
            20,
            46,
            f"{met} of {known} goals, {verdicts.count('stretch')} with the stretch.  "
            + ", ".join([f"{session.when} UTC", f"load {load}", *where]),
            fill=GREY,
        ),
    ]
    return picture(
        WIDTH,
        y + 28,
        "How much of each goal is reached",
        [*title, *legend(), *ticks, *lines],
    )
