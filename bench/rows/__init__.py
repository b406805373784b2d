"""The rows of the table, in its order."""

from __future__ import annotations

from bench.rows import control, files, layers, memory, nbd, python_layers, reactors, scale
from bench.runner import Row

__all__ = ["ROWS"]

ORDER = ("1", "2", "3", "4", "5", "6", "6b", "7", "8", "9", "10", "rpc", "client", "scale")
FOUND = {
    row.number: row
    for module in (layers, memory, files, nbd, python_layers, control, reactors, scale)
    for row in module.ROWS
}
ROWS: dict[str, Row] = {number: FOUND[number] for number in ORDER}
"""{number: row}."""
