"""The page: a summary with one line for each work, and below it every side's figures.

The page is also written by hand; what is measured stands between two marks, and only that is
replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.figures import Session, SideFigures, Verdict, WorkFigures
from bench.runner import Row

__all__ = ["BEGIN", "END", "check", "goal_text", "number", "render", "verdict_text", "write_into"]

BEGIN = "<!-- `make bench` writes from here -->"
END = "<!-- to here -->"
BUSY_LOAD = 0.5
"""A load average from which on others are said to have used the machine."""
VERDICTS: dict[Verdict, str] = {
    "stretch": "reached, stretch too",
    "reached": "reached",
    "missed": "**not reached**",
    "open": "not known",
}
DETAILS = ("p99 us", "batch", "system calls per I/O")
"""What has a column of its own; the rest stands below the table."""


def number(value: float) -> str:
    """Return three digits that count, and commas."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def goal_text(work: WorkFigures) -> str:
    """Return what a work is to reach."""
    goal = work.goal
    if goal is None:
        return ""
    sign = "≤ " if goal.at_most else "≥ "
    unit = work.unit if goal.of == "figure" else "x"
    return f"{sign}{goal.reach:g} ({goal.stretch:g}) {unit}"


def verdict_text(work: WorkFigures) -> str:
    """Return how a work stands to its goal."""
    return work.problem or (VERDICTS[work.verdict] if work.goal is not None else "")


def side_text(side: SideFigures, unit: str) -> str:
    """Return a side's median, and how far its runs are apart."""
    median = side.median
    if median is None:
        return side.problem or "no figure"
    if side.role == "recorded" and len(side.samples) > 1:
        return f"{number(side.lowest)} to {number(side.highest)} {unit}"
    spread = f" ±{side.spread / 2:.0%}" if side.spread is not None else ""
    return f"{number(median)} {unit}{spread}"


def peer_text(work: WorkFigures) -> str:
    """Return who is compared with, and why others are not."""
    best = work.against()
    told = []
    for side in work.sides:
        if side.role == "ours":
            continue
        if best is None or side.name == best.name or side.median is None:
            told.append(f"{side.name}: {side_text(side, work.unit)}")
    return "; ".join(told)


def summary(session: Session, rows: Mapping[str, Row]) -> list[str]:
    """Return a table with one line for each work."""
    lines = [
        "| # | work | vbdev | best peer | ratio | to reach (stretch) | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in rows:
        works = session.of_row(name)
        if not works:
            lines.append(f"| {name} | {rows[name].title} | | | | | not measured |")
        for work in works:
            ours, best = work.ours, work.against()
            cells = [
                name,
                work.name,
                side_text(ours, work.unit) if ours is not None else "",
                peer_text(work),
                f"{best.ratio:.2f}" if best is not None else "",
                goal_text(work),
                verdict_text(work),
            ]
            lines.append("| " + " | ".join(map(cell, cells)) + " |")
    return lines


def cell(text: str) -> str:
    """Keep a text within its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def details(work: WorkFigures) -> list[str]:
    """Return a table with one line for each side of a work, and what else was seen."""
    lines = [
        f"**{work.name}**, {work.unit}",
        "",
        (
            "| who | median | lowest | highest | runs | p99, us | batch | system calls per I/O"
            " | copies |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for side in work.sides:
        if side.median is None:
            cells = [side.name, side.problem or "no figure", *[""] * 7]
        else:
            more = side.more | side.counts
            cells = [
                side.name + (f" ({side.problem})" if side.problem else ""),
                number(side.median),
                number(side.lowest),
                number(side.highest),
                "recorded" if side.role == "recorded" else str(len(side.samples)),
                *(number(more[name]) if name in more else "" for name in DETAILS),
                side.copies,
            ]
            others = [f"{name}: {number(v)}" for name, v in more.items() if name not in DETAILS]
            if others:
                notes.append(f"{side.name}: {'; '.join(others)}.")
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    for note in notes:
        lines += ["", note]
    return lines


def conditions(session: Session) -> list[str]:
    """Return where, when and how it was measured, and what that means for the figures."""
    command = "make bench QUICK=1" if session.quick else "make bench"
    load = ", ".join(f"{value:.2f}" for value in session.load)
    lines = [
        (
            f"`{command}` of {session.when} UTC, {session.elapsed_s:.0f} s:"
            f" {session.runs} runs of each side by turns, {session.seconds:g} s each where nothing"
            " else is said; medians, and ± half of the distance from the lowest to the highest."
        ),
        "",
        f"- Machine: {'; '.join(session.machine.values())}.",
        "- Versions: " + ", ".join(f"{name} {v}" for name, v in session.versions.items()) + ".",
        f"- Load averages before the first run: {load}.",
    ]
    if session.load and session.load[0] >= BUSY_LOAD:
        lines.append(
            "- **Others used the machine meanwhile.** Ratios come from runs by turns and can be"
            " read; absolute figures are those of a busy machine, and no claim."
        )
    if session.quick or session.runs < 5:
        lines.append("- Short and few runs: a look, and no claim.")
    return lines


def reached(session: Session) -> str:
    """Return how many goals were reached, of those whose figures are known."""
    verdicts = [work.verdict for work in session.works if work.goal is not None]
    known = len(verdicts) - verdicts.count("open")
    met = known - verdicts.count("missed")
    return (
        f"**{met} of {known} goals are reached**, {verdicts.count('stretch')} of them with the"
        f" stretch; {len(verdicts) - known} are not measured."
    )


def render(session: Session, rows: Mapping[str, Row], picture: str) -> str:
    """Return what stands between the marks. picture: the chart's file name."""
    lines = [
        *conditions(session),
        "",
        reached(session),
        "",
        f"![How much of each goal is reached]({picture})",
        "",
    ]
    lines += [*summary(session, rows), ""]
    lines.append(
        "A ratio is vbdev's median to the best peer's. Figures called recorded are of another day"
        " and a machine of this kind; nothing is divided by them. System calls are the server's,"
        " counted in a run apart; copies are those between a socket and the disk's memory, in the"
        " server."
    )
    for name, row in rows.items():
        works = [work for work in session.of_row(name) if work.sides]
        if works:
            lines += ["", f"### {name}: {row.title}", "", f"Against {row.against}."]
        for work in works:
            lines += ["", *details(work)]
    return "\n".join(lines) + "\n"


def check(page: Path) -> tuple[str, str]:
    """Return what a page has before the marks and behind them. ValueError: it has none."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no place for figures: {BEGIN} and {END}")
    return before, after


def write_into(page: Path, session: Session, rows: Mapping[str, Row]) -> None:
    """Replace what a page has between the marks. ValueError: it has none."""
    before, after = check(page)
    picture = page.with_suffix(".svg").name
    page.write_text(f"{before}{BEGIN}\n\n{render(session, rows, picture)}\n{END}{after}")
