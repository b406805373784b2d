"""The baseline: what was measured last time, and what may not become worse.

`baseline.toml` has a line for each figure. Those that depend on the compiler and on Python are
recorded for each toolchain that was measured; on another one they are compared with the first
that is recorded, and with more tolerance.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from costs.figures import DIGITS, MORE_IS_BETTER, Figures, of_toolchain, unit

FILE = Path(__file__).with_name("baseline.toml")
TOLERANCE = 0.05
FOREIGN_TOLERANCE = 0.3
"""Of figures that were recorded with another toolchain."""
SLACK = 0.005
"""Of any unit: what happens for one I/O in 200 is a timer's."""

HEAD = f"""\
# What an I/O costs; held by tests/costs, rewritten by `make baseline`. See docs/testing.md.
# "what, unit" = value. {TOLERANCE:.0%} worse fails, and {TOLERANCE:.0%} better has to be recorded.
"""

Toolchain = dict[str, str]


class Baseline:
    """What `baseline.toml` says: `counts`, and (toolchain, figures) for each in `toolchains`."""

    def __init__(self, text: str = "") -> None:
        data: dict[str, Any] = tomllib.loads(text)
        self.counts: Figures = data.get("counts", {})
        self.toolchains: list[tuple[Toolchain, Figures]] = [
            (table["made_with"], table["counts"]) for table in data.get("toolchain", [])
        ]

    @classmethod
    def load(cls) -> Baseline:
        """Read the file; empty where it is not there."""
        return cls(FILE.read_text() if FILE.exists() else "")

    def knows(self, toolchain: Toolchain) -> bool:
        """Whether figures of this toolchain are recorded."""
        return any(made_with == toolchain for made_with, _ in self.toolchains)

    def recorded(self, toolchain: Toolchain) -> Figures:
        """Return all figures to compare with."""
        known = [figures for made_with, figures in self.toolchains if made_with == toolchain]
        known += [figures for _, figures in self.toolchains[:1]]
        return {**self.counts, **(known[0] if known else {})}

    def complaints(self, measured: Figures, toolchain: Toolchain) -> list[str]:
        """Return a sentence for each figure that is not as recorded; none is good."""
        recorded, exact = self.recorded(toolchain), self.knows(toolchain)
        said = []
        for name, value in measured.items():
            if name not in recorded:
                said.append(f"{name}: {value:g}, not in the baseline yet; `make baseline`")
                continue
            foreign = of_toolchain(name) and not exact
            tolerance = FOREIGN_TOLERANCE if foreign else TOLERANCE
            verdict = judge(name, value, recorded[name], tolerance)
            if verdict == "better" and foreign:
                continue
            if verdict:
                said.append(f"{name}: {show(value, recorded[name])}; {advice(verdict, tolerance)}")
        return said

    def record(
        self, measured: Figures, toolchain: Toolchain, unmeasured: Iterable[str] = ()
    ) -> None:
        """Take these figures for this toolchain's, and for everybody's what depends on none.

        What is recorded of loads that could not be measured stays.
        """
        earlier = [figures for made_with, figures in self.toolchains if made_with == toolchain]
        kept = {
            name: n
            for figures in (self.counts, *earlier)
            for name, n in figures.items()
            if any(name.startswith(f"{load}, ") for load in unmeasured)
        }
        measured = {**measured, **kept}
        self.counts = {name: n for name, n in measured.items() if not of_toolchain(name)}
        own = {name: n for name, n in measured.items() if of_toolchain(name)}
        others = [table for table in self.toolchains if table[0] != toolchain]
        first = not self.toolchains or self.toolchains[0][0] == toolchain
        self.toolchains = [(toolchain, own), *others] if first else [*others, (toolchain, own)]

    def text(self) -> str:
        """Return the file's text."""
        lines = [HEAD, "[counts]", *map(line, self.counts.items())]
        for made_with, figures in self.toolchains:
            lines += ["", "[[toolchain]]", "[toolchain.made_with]"]
            lines += [f'{name} = "{value}"' for name, value in made_with.items()]
            lines += ["[toolchain.counts]", *map(line, figures.items())]
        return "\n".join(lines) + "\n"


def line(figure: tuple[str, float]) -> str:
    """Return a figure's line of the file."""
    return f'"{figure[0]}" = {figure[1]:.{DIGITS}f}'


def judge(name: str, value: float, recorded: float, tolerance: float) -> str:
    """Return "worse", "better", or nothing."""
    change = value - recorded
    if abs(change) <= max(recorded * tolerance, SLACK):
        return ""
    return "better" if (change > 0) == (unit(name) == MORE_IS_BETTER) else "worse"


def show(value: float, recorded: float) -> str:
    """Return both values, and by how much the first differs."""
    by = f" ({value / recorded - 1:+.1%})" if recorded else ""
    return f"{value:g}, recorded are {recorded:g}{by}"


def advice(verdict: str, tolerance: float) -> str:
    """Return what is to be done."""
    if verdict == "worse":
        return f"more than {tolerance:.0%} worse"
    return "better: record it with `make baseline`, so that it stays"
