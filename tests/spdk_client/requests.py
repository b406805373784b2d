"""Parameters as JSON text: valid in the ways SPDK takes, and wrong in all the ways it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from spdk_client.facts import ARRAYS, INTEGERS, Fact, Param

UNKNOWN = "no_such_parameter"
_CONTAINERS = (("an array", "[]"), ("an object", "{}"))


def text(params: dict[str, Any], **literals: str) -> str:
    """Return an object; `literals` are values that are JSON text already."""
    parts = {key: json.dumps(value) for key, value in params.items()} | literals
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in parts.items()) + "}"


def integral(fact: Fact, params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield valid parameters with their integers written as SPDK takes them too: 8.0, 8e0."""
    numbers = {
        param.name: params[param.name]
        for param in fact.params
        if param.kind in INTEGERS and param.name in params
    }
    if numbers:
        yield "integers as 8.0", text(params, **{key: f"{n}.0" for key, n in numbers.items()})
        yield "integers as 8e0", text(params, **{key: f"{n}e0" for key, n in numbers.items()})


def undecodable(fact: Fact, params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong and parameters that are wrong in this one way; `params` are valid."""
    for param in fact.required:
        rest = {key: value for key, value in params.items() if key != param.name}
        yield f"{param.name} is missing", text(rest)
    for param in fact.params:
        for label, literal in wrong_values(param):
            yield f"{param.name} is {label}", text(params, **{param.name: literal})
    yield "an unknown parameter besides", text({**params, UNKNOWN: 1})
    twice = next(iter(params), "")
    if twice:
        once = text(params)
        yield "a parameter twice", f"{once[:-1]}, {text({twice: params[twice]})[1:]}"
    yield "an array", "[]"
    yield "an array of one", f"[{text(params)}]"


def wrong_values(param: Param) -> Iterator[tuple[str, str]]:
    """Yield values that SPDK's decoder of this type refuses, as JSON text."""
    yield "null", "null"
    if param.kind in INTEGERS:
        low, high = INTEGERS[param.kind]
        yield "true", "true"
        yield "a string", '"8"'
        yield f"{low - 1}", str(low - 1)
        yield f"{high + 1}", str(high + 1)
        yield "1.5", "1.5"
        yield "1e400", "1e400"
        yield from _CONTAINERS
    elif param.kind == "boolean":
        yield "1", "1"
        yield "a string", '"true"'
        yield from _CONTAINERS
    elif param.kind == "array":
        items = ARRAYS[param.of]
        yield "a string", '"a"'
        yield "a number", "5"
        yield "an object", "{}"
        yield "an array of nulls", "[null]"
        yield "an array of arrays", "[[]]"
        yield "an array of another type", "[true]"
        one = '"a"' if items["items"] == "string" else "1"
        yield f"an array of {items['most'] + 1}", f"[{', '.join([one] * (items['most'] + 1))}]"
    else:
        yield "a number", "5"
        yield "true", "true"
        yield from _CONTAINERS
        if param.kind == "string":
            yield "a string with a NUL", '"a\\u0000b"'
        else:  # an enum's word, a UUID
            yield "no such word", '"no-such-word"'
            yield "an empty string", '""'
