"""Shapes of answers: which fields, in which order, of which type.

A shape is one of
    "str", "bool", "u8", "u32", "u64", "i32", "i64", "uuid", "hex"  a scalar of that type;
    Is(value)     this value and no other;
    OneOf(...)    one of these values;
    [shape]       a list of any length;
    {...}         an object with these keys in this order; one that ends in ? may be missing;
    Rest(head, shape)   an object that begins as `head` says, and goes on with keys of any name;
    ANY           whatever it is (what stands there is checked elsewhere).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

ANY = object()

RANGES = {
    "u8": (0, (1 << 8) - 1),
    "u32": (0, (1 << 32) - 1),
    "u64": (0, (1 << 64) - 1),
    "i32": (-(1 << 31), (1 << 31) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
}
PATTERNS = {
    "str": r"(?s).*",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "hex": r"0x[0-9a-f]+",
}


@dataclass(frozen=True)
class Is:
    """This value, of this type: 1 is not true."""

    value: Any


@dataclass(frozen=True)
class OneOf:
    """One of these strings."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Rest:
    """Keys that are known first, then keys that are not, each with a value of `shape`."""

    head: dict[str, Any] = field(default_factory=dict)
    shape: Any = ANY


def mismatch(value: Any, shape: Any, at: str = "result") -> str:
    """Return what of an answer is not as the shape says, or an empty string."""
    if shape is ANY:
        return ""
    if isinstance(shape, Is):
        same = type(value) is type(shape.value) and value == shape.value
        return "" if same else f"{at}: {value!r}, not {shape.value!r}"
    if isinstance(shape, OneOf):
        return "" if value in shape.values else f"{at}: {value!r}, not one of {shape.values}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at}: {value!r} is no list"
        return _first(mismatch(one, shape[0], f"{at}[{n}]") for n, one in enumerate(value))
    if isinstance(shape, Rest):
        if not isinstance(value, dict):
            return f"{at}: {value!r} is no object"
        head = {key: value[key] for key in list(value)[: len(shape.head)]}
        tail = {key: one for key, one in value.items() if key not in head}
        return mismatch(head, shape.head, at) or _first(
            mismatch(one, shape.shape, f"{at}.{key}") for key, one in tail.items()
        )
    if isinstance(shape, dict):
        return _object_mismatch(value, shape, at)
    return _scalar_mismatch(value, shape, at)


def lacking(value: Any, fields: dict[str, Any], at: str) -> str:
    """Return which of these fields an object has not, or an empty string; it may have more."""
    for key, expected in fields.items():
        told = value.get(key) if isinstance(value, dict) else None
        if isinstance(expected, dict):
            problem = lacking(told, expected, f"{at}.{key}")
        else:
            problem = mismatch(told, Is(expected), f"{at}.{key}")
        if problem:
            return problem
    return ""


def _object_mismatch(value: Any, shape: dict[str, Any], at: str) -> str:
    if not isinstance(value, dict):
        return f"{at}: {value!r} is no object"
    keys = list(value)
    for declared, inner in shape.items():
        key = declared.removesuffix("?")
        if not keys or keys[0] != key:
            if declared.endswith("?") and key not in value:
                continue
            return f"{at}: {key!r} has to come here, not {keys[:1] or 'the end'}"
        keys.pop(0)
        if problem := mismatch(value[key], inner, f"{at}.{key}"):
            return problem
    return f"{at}: {keys[0]!r} is none of SPDK's fields" if keys else ""


def _scalar_mismatch(value: Any, shape: str, at: str) -> str:
    if shape == "bool":
        return "" if isinstance(value, bool) else f"{at}: {value!r} is no boolean"
    if bounds := RANGES.get(shape):
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{at}: {value!r} is no integer"
        low, high = bounds
        return "" if low <= value <= high else f"{at}: {value} is out of range of {shape}"
    if not isinstance(value, str):
        return f"{at}: {value!r} is no string"
    return "" if re.fullmatch(PATTERNS[shape], value) else f"{at}: {value!r} is no {shape}"


def _first(problems: Any) -> str:
    return next((problem for problem in problems if problem), "")
