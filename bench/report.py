"""The page: an overview of the rows, then what each of them measured; growth apart.

The page is also written by hand; what is measured stands between two marks, and only that is
replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.figures import Session, SideFigures, Verdict, WorkFigures
from bench.runner import Row

__all__ = [
    "BEGIN",
    "END",
    "check",
    "goal_text",
    "growth_picture",
    "number",
    "render",
    "verdict_text",
    "write_into",
]

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


def side_text(side: SideFigures) -> str:
    """Return a side's median, and how far its runs are apart."""
    median = side.median
    if median is None:
        return side.problem or "no figure"
    if side.role == "recorded" and len(side.samples) > 1:
        return f"{number(side.lowest)} to {number(side.highest)}"
    spread = f" ±{side.spread / 2:.0%}" if side.spread is not None else ""
    stopped = f" ({side.problem})" if side.problem else ""
    return f"{number(median)}{spread}{stopped}"


def cell(text: str) -> str:
    """Keep a text within its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    """Return a table."""
    head = list(head)
    made = [head, ["---"] * len(head), *lines]
    return ["| " + " | ".join(map(cell, cells)) + " |" for cells in made]


def unique(words: Iterable[str]) -> list[str]:
    """Return each once, in order."""
    return list(dict.fromkeys(filter(None, words)))


# One line for each row


def reached_text(works: list[WorkFigures]) -> str:
    """Return what a row's works reached, from the lowest to the highest, and of what."""
    told = []
    for of in ("ratio", "figure"):
        some = [
            work
            for work in works
            if work.reached is not None and work.goal is not None and work.goal.of == of
        ]
        if some:
            unit = "x" if of == "ratio" else some[0].unit
            values = sorted(work.reached or 0.0 for work in some)
            span = unique([number(values[0]), number(values[-1])])
            told.append(f"{' to '.join(span)} {unit}")
    return "; ".join(told)


def stand_text(works: list[WorkFigures]) -> str:
    """Return how many of a row's works reached their goal; of those without a figure, why."""
    with_goal = [work for work in works if work.goal is not None]
    known = [work for work in with_goal if work.verdict != "open"]
    met = [work for work in known if work.verdict != "missed"]
    stretch = [work for work in known if work.verdict == "stretch"]
    told = []
    if known:
        all_met = len(met) == len(known)
        told.append(
            ("reached" if all_met else "**not reached**")
            if len(known) == 1
            else f"{'' if all_met else '**'}{len(met)} of {len(known)}{'' if all_met else '**'}"
        )
        if stretch:
            told.append("stretch too" if len(known) == 1 else f"stretch {len(stretch)}")
    missing = [work for work in works if work.ours is None or work.ours.median is None]
    for why in unique(missing_text(work) for work in missing):
        many = sum(missing_text(work) == why for work in missing)
        told.append(f"{many} not measured: {why}" if len(works) > 1 else f"not measured: {why}")
    peers = [work for work in with_goal if work not in missing and work.verdict == "open"]
    for why in unique(missing_text(work) for work in peers):
        told.append(f"no peer: {why}")
    return ", ".join(told)


def missing_text(work: WorkFigures) -> str:
    """Return why there is nothing to compare."""
    if work.problem:
        return work.problem
    return "; ".join(unique(side.problem for side in work.sides)) or "no figure"


def overview(session: Session, rows: Mapping[str, Row]) -> list[str]:
    """Return a table with one line for each row."""
    lines = []
    for name, row in rows.items():
        works = session.of_row(name)
        goals = unique(goal_text(work) for work in works)
        lines.append(
            [
                name,
                row.title,
                row.against,
                reached_text(works),
                "; ".join(goals),
                stand_text(works) if works else "not measured",
            ]
        )
    return table(["#", "row", "against", "reached", "goal (stretch)", "works that reach it"], lines)


# What a row measured


def works_table(works: list[WorkFigures]) -> list[str]:
    """Return a table with a line for each work and a column for each side."""
    ours = unique(side.name for work in works for side in work.sides if side.role == "ours")
    others = unique(side.name for work in works for side in work.sides if side.role != "ours")
    first = ours[0] if len(ours) == 1 else "vbdev"
    head = ["work", "in", first, *others, "ratio", "goal (stretch)", ""]
    lines = []
    for work in works:
        best = work.against()
        of_name = {side.name: side for side in work.sides if side.role != "ours"}
        cells = [work.name, work.unit, side_text(work.ours) if work.ours is not None else ""]
        for name in others:
            text = side_text(of_name[name]) if name in of_name else ""
            is_best = best is not None and best.name == name and len(others) > 1
            cells.append(f"**{text}**" if is_best else text)
        cells += [
            f"{best.ratio:.2f}" if best is not None else "",
            goal_text(work),
            verdict_text(work),
        ]
        lines.append(cells)
    kept = [i for i in range(len(head)) if i < 3 or any(line[i] for line in lines)]
    return table([head[i] for i in kept], [[line[i] for i in kept] for line in lines])


def details(works: list[WorkFigures]) -> list[str]:
    """Return a table with a line for each side of each work, folded away."""
    head = ["work", "who", "lowest", "highest", "runs", "p99, us", "batch"]
    head += ["system calls per I/O", "copies"]
    lines, notes = [], []
    for work in works:
        for side in work.sides:
            if side.median is None:
                continue
            more = side.more | side.counts
            lines.append(
                [
                    work.name,
                    side.name,
                    number(side.lowest),
                    number(side.highest),
                    "recorded" if side.role == "recorded" else str(len(side.samples)),
                    *(number(more[name]) if name in more else "" for name in DETAILS),
                    side.copies,
                ]
            )
            others = [f"{name}: {number(v)}" for name, v in more.items() if name not in DETAILS]
            if others:
                notes.append(f"- {work.name}, {side.name}: {'; '.join(others)}.")
    if not lines:
        return []
    kept = [i for i in range(len(head)) if i < 5 or any(line[i] for line in lines)]
    folded = table([head[i] for i in kept], [[line[i] for i in kept] for line in lines])
    summary = "Each side: " + ", ".join(head[i] for i in kept[2:])
    if notes:
        folded += ["", *notes]
    return ["", "<details>", f"<summary>{summary}</summary>", "", *folded, "", "</details>"]


# Growth


def growth_picture(page: Path) -> Path:
    """Return where the picture of growth is."""
    return page.with_name("scale.svg")


def growth_tables(works: list[WorkFigures]) -> list[str]:
    """Return a table for each panel: what one costs, by how many there are."""
    lines = []
    for panel in unique(work.panel for work in works):
        some = [work for work in works if work.panel == panel]
        numbers = {side.number: side.name for work in some for side in work.sides}
        names = [short_number(numbers[many]) for many in sorted(numbers)]
        rows = []
        for work in some:
            of_number = {side.number: side for side in work.sides}
            best = work.against()
            rows.append(
                [
                    work.label,
                    work.unit,
                    *(
                        side_text(of_number[number]) if number in of_number else ""
                        for number in sorted(numbers)
                    ),
                    f"{best.ratio:.2f}" if best is not None else "",
                    verdict_text(work),
                ]
            )
        lines += [
            "",
            f"**{panel}**",
            "",
            *table(["each", "in", *names, "most to least", ""], rows),
        ]
    return lines


def short_number(name: str) -> str:
    """Return the number alone, but a size with its unit."""
    return name if name.endswith("iB") else name.partition(" ")[0]


# The page


def conditions(session: Session) -> list[str]:
    """Return where, when and how it was measured, and what that means for the figures."""
    command = "make bench QUICK=1" if session.quick else "make bench"
    load = ", ".join(f"{value:.2f}" for value in session.load)
    minutes, seconds = divmod(round(session.elapsed_s), 60)
    lines = [
        (
            f"`{command}` of {session.when} UTC, {minutes}:{seconds:02} minutes:"
            f" {session.runs} runs of each side by turns, {session.seconds:g} s each where nothing"
            " else is said; medians, and ± half of the distance from the lowest to the highest."
        ),
        "",
        f"- Machine: {'; '.join(session.machine.values())}.",
        "- Versions: " + ", ".join(f"{name} {v}" for name, v in session.versions.items()) + ".",
        f"- Load averages before the first run: {load}.",
    ]
    missing = unique(
        side.problem
        for work in session.works
        for side in work.sides
        if side.problem.endswith("is not installed")
    )
    if missing:
        lines.append(f"- Not here, so without figures: {'; '.join(missing)}.")
    if session.load and session.load[0] >= BUSY_LOAD:
        lines.append(
            "- **Others used the machine meanwhile.** Ratios come from runs by turns and can be"
            " read; absolute figures are those of a busy machine, and no claim."
        )
    if session.quick or session.runs < 5:
        lines.append("- Short and few runs: a look, and no claim.")
    return lines


def reached(works: list[WorkFigures]) -> str:
    """Return how many goals were reached, of those whose figures are known."""
    verdicts = [work.verdict for work in works if work.goal is not None]
    known = len(verdicts) - verdicts.count("open")
    met = known - verdicts.count("missed")
    return (
        f"**{met} of {known} goals are reached**, {verdicts.count('stretch')} of them with the"
        f" stretch; {len(verdicts) - known} are not measured."
    )


NOTE = (
    "A ratio is vbdev's median to that of the best peer, in bold where there are several. Figures"
    " called recorded are of another day and a machine of this kind; nothing is divided by them."
    " System calls are the server's, counted in a run apart; copies are those between a socket"
    " and the disk's memory, in the server."
)


def render(session: Session, rows: Mapping[str, Row], picture: str) -> str:
    """Return what stands between the marks. picture: the chart's file name."""
    growing = {name: row for name, row in rows.items() if row.grows}
    others = {name: row for name, row in rows.items() if name not in growing}
    lines = [
        *conditions(session),
        "",
        reached([work for work in session.works if work.row in others]),
        "",
        f"![How much of each goal is reached]({picture})",
        "",
        *overview(session, rows),
        "",
        NOTE,
    ]
    for name, row in others.items():
        works = session.of_row(name)
        if any(work.sides for work in works):
            lines += ["", f"### {name}: {row.title}", "", f"Against {row.against}.", ""]
            lines += [*works_table(works), *details(works)]
    for name, row in growing.items():
        works = session.of_row(name)
        if any(work.sides for work in works):
            lines += [
                "",
                f"### {row.title}",
                "",
                reached(works),
                "",
                f"![What one costs, by how many there are]({growth_picture(Path(picture)).name})",
                *growth_tables(works),
            ]
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
