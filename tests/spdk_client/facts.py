"""What SPDK 26.09 declares: `methods.toml` as objects."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

_DECLARED = tomllib.loads(Path(__file__).with_name("methods.toml").read_text())

ENUMS: dict[str, list[str]] = _DECLARED["enums"]
ARRAYS: dict[str, dict] = _DECLARED["arrays"]
INTEGERS = {
    "uint8": (0, (1 << 8) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
}
"""Least and greatest value of each."""


@dataclass(frozen=True)
class Param:
    """One parameter. kind: "string", "uint32", "enum", "array"...; of: which enum or array."""

    name: str
    kind: str
    of: str
    required: bool


@dataclass(frozen=True)
class Fact:
    """One method. states: "S" in STARTUP, "R" in RUNTIME, "SR" in both."""

    name: str
    group: str
    states: str
    params: tuple[Param, ...]

    @property
    def required(self) -> tuple[Param, ...]:
        """What every call has to name."""
        return tuple(param for param in self.params if param.required)


def _param(name: str, declared: str) -> Param:
    kind, _, of = declared.removesuffix("!").partition(" ")
    return Param(name, kind, of, declared.endswith("!"))


METHODS: dict[str, Fact] = {
    name: Fact(
        name,
        fact["group"],
        fact["states"],
        tuple(_param(*declared) for declared in fact["params"].items()),
    )
    for name, fact in _DECLARED["methods"].items()
}
