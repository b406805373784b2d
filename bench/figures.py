"""What is kept of a session: every run's figure, and what follows from them.

Written as JSON (build/bench.json), so that the report can be made again without measuring.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

__all__ = [
    "Goal",
    "Peer",
    "Sample",
    "Session",
    "SideFigures",
    "WorkFigures",
    "load",
    "save",
]

Role = Literal["ours", "peer", "recorded"]
Verdict = Literal["stretch", "reached", "missed", "open"]


class Sample(msgspec.Struct, frozen=True):
    """One run."""

    value: float
    """In the work's unit."""
    more: dict[str, float] = {}
    """What else was measured in it, by a name that says the unit: `p99 us`."""


class Goal(msgspec.Struct, frozen=True):
    """What a work is to reach, and what would be better still."""

    reach: float
    stretch: float
    of: Literal["ratio", "figure"] = "ratio"
    """The ratio of medians to the best peer, or vbdev's own median."""
    at_most: bool = False
    """Less is better, of the figure as of the goal."""


class SideFigures(msgspec.Struct, kw_only=True):
    """One of those that did the same work."""

    name: str
    role: Role
    samples: list[Sample] = []
    problem: str = ""
    """Why there are no figures, or fewer: it is not installed, or it failed."""
    counts: dict[str, float] = {}
    """From a run apart, slowed down by counting: `system calls per I/O`."""
    copies: str = ""
    """Which copies an I/O's data goes through in this process, where that is known."""
    number: int = 0
    """Of how many of the same it is, in a row that grows."""

    @property
    def median(self) -> float | None:
        """The median of the runs; None without any."""
        return statistics.median(sample.value for sample in self.samples) if self.samples else None

    @property
    def lowest(self) -> float:
        """The lowest figure of a run."""
        return min(sample.value for sample in self.samples)

    @property
    def highest(self) -> float:
        """The highest figure of a run."""
        return max(sample.value for sample in self.samples)

    @property
    def spread(self) -> float | None:
        """How far the runs are apart, as a part of their median; None below two runs."""
        median = self.median
        if median is None or len(self.samples) < 2 or not median:
            return None
        return (self.highest - self.lowest) / median

    @property
    def more(self) -> dict[str, float]:
        """The medians of what else was measured, of the runs that have it."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.more)
        return {
            name: statistics.median(
                sample.more[name] for sample in self.samples if name in sample.more
            )
            for name in names
        }


class Peer(msgspec.Struct, frozen=True):
    """The one to be compared with, and how: vbdev's median divided by its."""

    name: str
    ratio: float


class WorkFigures(msgspec.Struct, kw_only=True):
    """One line of the table: one kind of work, done by all sides."""

    row: str
    """The number of its row."""
    name: str
    unit: str = ""
    goal: Goal | None = None
    sides: list[SideFigures] = []
    problem: str = ""
    """Why there are no figures at all: it is not built, or its row failed."""
    panel: str = ""
    """The part of the picture of growth that shows it."""

    @property
    def label(self) -> str:
        """Its name, without what its panel says already."""
        return self.name.partition(": ")[2] if self.panel else self.name

    @property
    def lower_is_better(self) -> bool:
        """Whether a figure counts the more the smaller it is."""
        return self.goal.at_most if self.goal is not None else bool(self.panel)

    @property
    def ours(self) -> SideFigures | None:
        """The side that is vbdev."""
        return next((side for side in self.sides if side.role == "ours"), None)

    def against(self, role: Role = "peer") -> Peer | None:
        """Return the best peer and the ratio to it; None where one of them has no figure."""
        ours = self.ours and self.ours.median
        if not ours:
            return None
        medians = [
            (side.median, side.name) for side in self.sides if side.role == role and side.median
        ]
        if not medians:
            return None
        median, name = min(medians) if self.lower_is_better else max(medians)
        return Peer(name, ours / median)

    @property
    def reached(self) -> float | None:
        """What is compared with the goal: a ratio or vbdev's figure; None where it is not known."""
        if self.goal is not None and self.goal.of == "figure":
            return self.ours.median if self.ours is not None else None
        peer = self.against()
        return None if peer is None else peer.ratio

    @property
    def verdict(self) -> Verdict:
        """How what was reached stands to the goal; `open` where one of them is missing."""
        reached = self.reached
        if reached is None or self.goal is None:
            return "open"
        sign = -1 if self.goal.at_most else 1
        if sign * reached >= sign * self.goal.stretch:
            return "stretch"
        return "reached" if sign * reached >= sign * self.goal.reach else "missed"

    @property
    def part_of_goal(self) -> float | None:
        """What was reached as a part of the goal, 1 where it is met; None where it is not known."""
        reached = self.reached
        if not reached or self.goal is None:
            return None
        return self.goal.reach / reached if self.goal.at_most else reached / self.goal.reach


class Session(msgspec.Struct, kw_only=True):
    """All that one command has measured, and where."""

    when: str
    """Day and time it began, UTC."""
    quick: bool
    runs: int
    """Of each side of a work."""
    seconds: float
    """Of each run, where the work has no length of its own."""
    machine: dict[str, str]
    versions: dict[str, str]
    """Of vbdev and of each peer that was found, by name."""
    load: list[float]
    """Load averages of 1, 5 and 15 minutes before the first run."""
    elapsed_s: float = 0
    works: list[WorkFigures] = []

    def of_row(self, number: str) -> list[WorkFigures]:
        """Return the works of a row, in order."""
        return [work for work in self.works if work.row == number]

    def replace(self, number: str, works: Iterable[WorkFigures]) -> None:
        """Put works in the place of those that a row had."""
        self.works = [work for work in self.works if work.row != number] + list(works)


def save(session: Session, path: Path) -> None:
    """Write a session, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_bytes(msgspec.json.format(msgspec.json.encode(session), indent=1))
    written.replace(path)


def load(path: Path) -> Session:
    """Read a session. msgspec.ValidationError where the file is none."""
    return msgspec.json.decode(path.read_bytes(), type=Session)
