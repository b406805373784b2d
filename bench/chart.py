"""The chart: a bar for each work, as long as the part of its goal that was reached.

One line stands for all goals, so that what is beyond it is seen at a glance. The scale is
logarithmic: twice the goal is as far to the right of the line as half of it to the left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from bench.figures import Session, Verdict, WorkFigures
from bench.report import goal_text, number, verdict_text
from bench.runner import Row

__all__ = ["chart"]

WIDTH = 1200
LEFT = 480
"""Where bars begin; names stand before them."""
RIGHT = 860
"""Where bars end at most; figures stand behind them."""
LINE = 22
"""Pixels from one bar to the next."""
TOP = 74
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
    "open": "no figure",
}
TICKS = {0.25: "1/4", 0.5: "1/2", 1.0: "goal", 2.0: "2 x", 4.0: "4 x"}


def position(part: float) -> float:
    """Return where a part of a goal is, in pixels from the left."""
    part = min(max(part, LOWEST), HIGHEST)
    return LEFT + (RIGHT - LEFT) * math.log(part / LOWEST) / math.log(HIGHEST / LOWEST)


def text(x: float, y: float, words: str, **attributes: str) -> str:
    """Return a text."""
    more = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def result_text(work: WorkFigures) -> str:
    """Return what was reached, and of what."""
    reached = work.reached
    if reached is None or work.goal is None:
        return verdict_text(work) if work.problem else missing_text(work)
    if work.goal.of == "figure":
        return f"{number(reached)} {work.unit}, goal {goal_text(work)}"
    best = work.against()
    return f"{reached:.2f} x {best.name if best else ''}, goal {goal_text(work)}"


def missing_text(work: WorkFigures) -> str:
    """Return why there is nothing to compare."""
    problems = [f"{side.name}: {side.problem}" for side in work.sides if side.problem]
    return "; ".join(problems) or "no figure"


def shorten(words: str, characters: int) -> str:
    """Cut a text that does not fit."""
    return words if len(words) <= characters else words[: characters - 1] + "…"


def bar(work: WorkFigures, y: float) -> list[str]:
    """Return a work's line of the chart."""
    label = shorten(f"{work.row}: {work.name}".replace("queue depth", "QD"), 72)
    lines = [text(LEFT - 10, y + 13, label, text_anchor="end")]
    part = work.part_of_goal
    if part is not None and work.goal is not None:
        end = position(part)
        lines.append(
            f'<rect x="{LEFT}" y="{y + 2}" width="{max(end - LEFT, 2):.1f}" height="{LINE - 7}"'
            f' rx="2" fill="{COLOURS[work.verdict]}"/>'
        )
        goal = work.goal
        stretch = goal.reach / goal.stretch if goal.at_most else goal.stretch / goal.reach
        at = position(stretch)
        lines.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y + 1}" y2="{y + LINE - 4}"'
            ' stroke="#555" stroke-dasharray="2 2"/>'
        )
    lines.append(text(RIGHT + 10, y + 13, shorten(result_text(work), 54), fill="#333"))
    return lines


def chart(session: Session, rows: Mapping[str, Row]) -> str:
    """Return the chart of all works that have a goal, as SVG."""
    works = [work for name in rows for work in session.of_row(name) if work.goal is not None]
    bottom = TOP + LINE * len(works)
    load = f"{session.load[0]:.2f}" if session.load else "?"
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + 30}"'
            f' viewBox="0 0 {WIDTH} {bottom + 30}" font-family="sans-serif" font-size="12"'
            ' role="img" aria-label="How much of each goal is reached">'
        ),
        f'<rect width="{WIDTH}" height="{bottom + 30}" fill="#fff"/>',
        text(20, 24, "vbdev beside its peers: how much of each goal is reached", font_size="17"),
        text(
            20,
            42,
            f"{session.when} UTC, load {load}; {session.machine.get('processor', '')}",
            fill="#666",
        ),
    ]
    x = 20.0
    for verdict, meaning in MEANINGS.items():
        lines.append(f'<rect x="{x}" y="51" width="11" height="11" fill="{COLOURS[verdict]}"/>')
        lines.append(text(x + 16, 61, meaning))
        x += 32 + 6.3 * len(meaning)
    for part, name in TICKS.items():
        at, strong = position(part), part == 1
        lines.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 4}" y2="{bottom}"'
            f' stroke="{"#000" if strong else "#ddd"}"/>'
        )
        lines.append(text(at, bottom + 16, name, text_anchor="middle"))
    for place, work in enumerate(works):
        lines += bar(work, TOP + LINE * place)
    lines.append(text(RIGHT + 50, bottom + 16, "dashes: the stretch goal", fill="#666"))
    return "\n".join([*lines, "</svg>"]) + "\n"
