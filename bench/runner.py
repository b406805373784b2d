"""Runs the sides of each work by turns, and keeps going whatever fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Goal, Role, Sample, SideFigures, WorkFigures
from bench.progress import Progress

__all__ = ["Plan", "Row", "Side", "Work", "alternate", "measure_row"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    runs: int
    seconds: float
    quick: bool
    directory: Path
    """For sockets, and images that live in memory."""
    disk_directory: Path
    """For files whose disk matters."""
    progress: Progress = field(default_factory=lambda: Progress({}))


@dataclass(slots=True, kw_only=True)
class Side:
    """One of those that do the same work.

    measure: does one run. Raises what it likes: the side is then reported as failed.
    count: one run more, behind the others, in which something is counted and time does not matter.
    recorded: figures of another time, which are shown and never compared with.
    missing: why it can not be measured here.
    number: of how many of the same it is, in a row that grows.
    """

    name: str
    role: Role = "peer"
    measure: Callable[[], Sample] | None = None
    count: Callable[[], dict[str, float]] | None = None
    recorded: list[float] = field(default_factory=list)
    missing: str = ""
    copies: str = ""
    number: int = 0


@dataclass(slots=True, kw_only=True)
class Work:
    """One line of the table.

    problem: why there is nothing to measure.
    panel: the part of the picture that shows it, in a row that grows.
    """

    name: str
    unit: str = ""
    goal: Goal | None = None
    sides: list[Side] = field(default_factory=list)
    runs: int | None = None
    problem: str = ""
    panel: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: its number, its title, whom it is measured against.

    works: yields its works one after the other. What they need is there from one `yield` to the
    next; at the end, or when something fails, the generator is closed and takes it away.
    """

    number: str
    title: str
    against: str
    works: Callable[[Plan], Generator[Work]]
    grows: bool = False
    """Its sides are numbers of the same, and it has a table and a picture of its own."""


def turns(names: list[str], runs: int) -> Iterator[tuple[int, str]]:
    """Yield who runs next: all in order, then all backwards, and so on.

    A machine that gets slower or faster while it measures then does so for all of them alike.
    """
    for turn in range(runs):
        for name in names if turn % 2 == 0 else reversed(names):
            yield turn, name


def alternate(row: str, work: Work, plan: Plan) -> WorkFigures:
    """Run the sides of a work by turns. One that fails is left out from then on."""
    figures = WorkFigures(
        row=row,
        name=work.name,
        unit=work.unit,
        goal=work.goal,
        problem=work.problem,
        panel=work.panel,
    )
    figures.sides = [
        SideFigures(
            name=side.name,
            role=side.role,
            samples=[Sample(value) for value in side.recorded],
            problem=side.missing,
            copies=side.copies,
            number=side.number,
        )
        for side in work.sides
    ]
    sides = {side.name: side for side in work.sides}
    of_side = {side.name: side for side in figures.sides}
    able = [side.name for side in work.sides if side.measure is not None and not side.missing]
    runs = work.runs or plan.runs
    for turn, name in turns(able, runs):
        measure = sides[name].measure
        if measure is None or of_side[name].problem:
            continue
        plan.progress.now(f"{row:>3}  {work.name}: {name}, run {turn + 1} of {runs}")
        try:
            of_side[name].samples.append(measure())
        except Exception as error:  # noqa: BLE001 - the others go on
            of_side[name].problem = said(error)
    for name in able:
        count = sides[name].count
        if count is None or of_side[name].problem:
            continue
        try:
            of_side[name].counts = count()
        except Exception as error:  # noqa: BLE001 - there are figures, only no counts
            plan.progress.say(f"    {name}: no counts: {said(error)}")
    return figures


def measure_row(row: Row, plan: Plan) -> Iterator[WorkFigures]:
    """Yield the figures of each work as soon as it is done; of a row that fails, why."""
    plan.progress.begin(row.number)
    plan.progress.now(f"{row.number:>3}  {row.title}")
    try:
        with contextlib.closing(row.works(plan)) as works:
            for work in works:
                figures = alternate(row.number, work, plan)
                show(figures, plan.progress)
                yield figures
    except Exception as error:  # noqa: BLE001 - the other rows go on
        figures = WorkFigures(row=row.number, name=row.title, problem=said(error))
        show(figures, plan.progress)
        yield figures


def said(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def show(figures: WorkFigures, progress: Progress) -> None:
    """Say what a work came to."""
    cells = [
        f"{side.name} {side.problem}" if side.median is None else f"{side.name} {side.median:.4g}"
        for side in figures.sides
    ]
    problems = {side.problem for side in figures.sides if side.median is None}
    if len(problems) == 1 and all(side.median is None for side in figures.sides):
        cells = [*problems]
    told = figures.problem or f"{', '.join(cells)} {figures.unit}"
    progress.say(f"{figures.row:>3}  {figures.name}: {told}")
