"""Figures: costs of one I/O, each under the name that it has in the baseline.

Of a name, what comes before the last comma is a load (of `loads`), and what comes after it the
unit. "one layer more" is a difference: the part of each of four of the five layers. A "watching"
one has a method `completed`, an "awaiting" one a coroutine for each I/O; a "looking" one makes a
column for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from costs.loads import LOADS
from costs.tools import Costs, Tools

INSTRUCTIONS = (
    "null, layers;null, watching;null, awaiting;null, looking;nbd, null;uring;idle turn;client"
)
SYSTEM_CALLS = "nbd, malloc;uring;client"
COPIES = "malloc;nbd, malloc;uring;client;null, awaiting;null, looking"
DIGITS = 3

MORE_IS_BETTER = "I/Os in a batch"
OF_THE_TOOLCHAIN = ("instructions", "allocations")
"""Units that depend on the compiler and on the version of Python."""

Figures = dict[str, float]


def unit(name: str) -> str:
    """Return the unit of a figure."""
    return name.rpartition(", ")[2]


def of_toolchain(name: str) -> bool:
    """Whether another compiler, or another Python, makes another figure of the same source."""
    return unit(name) in OF_THE_TOOLCHAIN


def instructions(tools: Tools, loads: str = INSTRUCTIONS, layer: str = "") -> Figures:
    """Instructions in user space for one I/O."""
    costs = tools.instructions(loads, layer)
    return rounded(_instructions(costs))


def _instructions(costs: Costs) -> Iterator[tuple[str, float]]:
    for name, cost in costs.items():
        keywords = LOADS[name]
        count = keywords.get("layers")
        if not name.startswith("null") or not count:
            yield f"{name}, instructions", cost["instructions"]
        elif count > 1:
            yield one_more(name, costs, "instructions")


def one_more(name: str, costs: Costs, what: str) -> tuple[str, float]:
    """Return the name and the cost of one of several layers."""
    count = LOADS[name]["layers"]
    one = costs[name.replace(f"layers {count}", "layers 1")][what]
    which, _, _ = name.removeprefix("null, ").partition("layers")
    each = (costs[name][what] - one) / (count - 1)
    return f"null, one {which}layer more, QD {LOADS[name]['queue_depth']}, {what}", each


def system_calls(tools: Tools, loads: str = SYSTEM_CALLS, layer: str = "") -> Figures:
    """System calls for one I/O, of all kinds."""
    costs = tools.system_calls(loads, layer)
    return rounded((f"{name}, system calls", cost["system calls"]) for name, cost in costs.items())


def copies(tools: Tools, loads: str = COPIES, layer: str = "") -> Figures:
    """Bytes copied and allocations for one I/O, and I/Os in a batch."""
    costs = tools.copies(loads, layer)
    return rounded(_copies(costs))


def _copies(costs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, float]]:
    for name, cost in costs.items():
        if name.startswith("null") and LOADS[name]["layers"]:
            if LOADS[name]["layers"] > 1:
                yield one_more(name, costs, "allocations")
            continue
        yield f"{name}, bytes copied", cost["bytes copied"]
        yield f"{name}, allocations", cost["allocations"]
        if name.startswith("malloc, randwrite"):
            continue  # its batches are those of randread
        for number, batch in enumerate(cost["batches"], 1):
            yield f"{name}, bdev {number} from the top, {MORE_IS_BETTER}", batch


def rounded(figures: Any) -> Figures:
    """Return the figures as they are written down."""
    return {name: round(value, DIGITS) for name, value in figures}


MEASURES = {"instructions": instructions, "system calls": system_calls, "copies": copies}
