"""The rows of the table, in its order."""

from __future__ import annotations

from bench.rows import control, files, layers, memory, nbd, python_layers, reactors, scale
from bench.runner import Row

__all__ = ["ROWS", "expected_s"]

ORDER = ("1", "2", "3", "4", "5", "6", "6b", "7", "8", "9", "10", "rpc", "client", "scale")
FOUND = {
    row.number: row
    for module in (layers, memory, files, nbd, python_layers, control, reactors, scale)
    for row in module.ROWS
}
ROWS: dict[str, Row] = {number: FOUND[number] for number in ORDER}
"""{number: row}."""

EXPECTED_S = {
    "1": (50, 4),
    "2": (4, 2),
    "3": (24, 9),
    "4": (45, 20),
    "5": (640, 45),
    "6": (60, 8),
    "6b": (25, 10),
    "7": (32, 6),
    "8": (32, 6),
    "9": (14, 8),
    "10": (110, 20),
    "rpc": (30, 9),
    "client": (85, 22),
    "scale": (100, 20),
}
"""{row: seconds of a full run, of a quick one}, on a machine of two CPUs with all peers there."""


def expected_s(row: str, *, quick: bool) -> float:
    """Return how long a row takes, more or less."""
    return EXPECTED_S.get(row, (30, 10))[quick]
