"""An OpenRPC document in words: how help and the reference page write types and bounds.

No import of anything that describes or decodes: whoever has a document from a daemon needs no more.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["by_group", "default_of", "near", "type_words"]

Schema = dict[str, Any]

NAMES = {"boolean": "boolean", "null": "null", "number": "number", "string": "string"}
UNBOUNDED = ("anything", "object")


def type_words(schema: Schema) -> str:
    """Return what a schema wants, in a few words: `integer, 0 to 255`, `list of strings`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return "one of " + ", ".join(shown(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(type_words(one) for one in schema["anyOf"])
    match schema.get("type"):
        case "integer":
            return "integer" + bounds(schema)
        case "number":
            return "number" + bounds(schema)
        case "string" if schema.get("x-names") == "bdev":
            return "name of a bdev"
        case "string" if schema.get("x-names") == "file":
            return "path"
        case "string" if schema.get("format") == "uuid":
            return "UUID"
        case "array":
            most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
            return f"list of {plural(type_words(schema.get('items', {})))}{most}"
        case "object":
            values = schema.get("additionalProperties")
            return f"object of {plural(type_words(values))}" if values else "object"
        case str() as name:
            return NAMES.get(name, name)
    return "anything"


def bounds(schema: Schema) -> str:
    """Return `, 0 to 255`, where there are bounds."""
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f", {number(least)} to {number(most)}"
    if least is not None:
        return f", {number(least)} or more"
    return f", {number(most)} or less" if most is not None else ""


def number(value: float) -> str:
    """Return a number, powers of two that nobody reads digit by digit as such."""
    if isinstance(value, int) and value.bit_length() >= 31:
        for power in (31, 32, 43, 63, 64):
            if value in (1 << power, (1 << power) - 1):
                return f"2^{power}" + (" - 1" if value & 1 else "")
            if value == -(1 << power):
                return f"-2^{power}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def plural(words: str) -> str:
    """Return the plural of what `type_words` says of one."""
    if words == "name of a bdev":
        return "names of bdevs"
    head, comma, rest = words.partition(",")
    if head in (*NAMES, "integer", "UUID", "object"):
        return f"{head}s{comma}{rest}"
    return words


def default_of(schema: Schema) -> str | None:
    """Return a default that is worth telling; None where absence says as much."""
    value = schema.get("default")
    return None if value in (None, "", [], {}) else shown(value)


def shown(value: Any) -> str:
    """Return a value as one types it behind `key=`: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def by_group(document: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (group, its methods): what is about all bdevs, each module's, then the others."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for method in document["methods"]:
        tags = method.get("tags") or [{"name": str(method["name"]).partition("_")[0]}]
        groups.setdefault(tags[0]["name"], []).append(method)

    def order(name: str) -> tuple[bool, bool, str]:
        return name != "bdev", not name.startswith("bdev_"), name

    return [
        (name, sorted(groups[name], key=lambda method: str(method["name"])))
        for name in sorted(groups, key=order)
    ]


def near(name: str, names: list[str]) -> list[str]:
    """Return the names that somebody who typed this one may have meant, the nearest first."""
    import difflib

    parts = set(name.split("_"))
    alike = difflib.get_close_matches(name, names, n=5, cutoff=0.6)
    sharing = [one for one in names if parts and parts <= set(one.split("_"))]
    return list(dict.fromkeys([*alike, *sharing]))[:5]
