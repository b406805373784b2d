"""The typed methods of vbdev.client, from what the RPC methods declare."""

from __future__ import annotations

import textwrap

from declared import component, document, name_of

from vbdev.api import results
from vbdev.rpc.describing.schema_words import by_group

WIDTH = 100
NAMES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}

HEAD = '''"""Generated from what the RPC methods declare by tests/generated/write.py; do not edit.

{what}
"""

from __future__ import annotations

{imports}

if TYPE_CHECKING:
    from vbdev.api.results import (
{results}
    )

__all__ = [{exported}]

T = TypeVar("T")
'''


def render(*, is_async):
    """Return the text of methods.py, or of async_methods.py."""
    writer = Writer(is_async=is_async)
    return writer.module()


class Writer:
    """Collects what the methods need on its way through them."""

    def __init__(self, *, is_async):
        self.is_async = is_async
        self.name = "AsyncMethods" if is_async else "Methods"
        self.results = set()
        self.typing = {"TYPE_CHECKING", "Any", "TypeVar"}
        self.abc = {"Callable", "Mapping"} | ({"Awaitable"} if is_async else set())
        self.other = set()
        self.dicts = {}

    def module(self):
        """Return the whole text."""
        methods = [self.method(one) for _, some in by_group(document()) for one in some]
        dicts = "".join(self.dicts.values())
        kind = "AsyncClient" if self.is_async else "Client"
        imports = [f"from collections.abc import {', '.join(sorted(self.abc))}"]
        imports.append(f"from typing import {', '.join(sorted(self.typing, key=isort_key))}")
        imports += sorted(self.other)
        head = HEAD.format(
            what=f"One method of {kind} for each RPC method. A parameter that is None is not sent.",
            imports="\n".join(imports),
            results="\n".join(f"        {name}," for name in sorted(self.results, key=isort_key)),
            exported=", ".join(f'"{name}"' for name in sorted({self.name, *self.dicts})),
        )
        return head + dicts + self.base() + "\n".join(methods)

    def base(self):
        """Return the start of the class: what the methods call."""
        if self.is_async:
            takes, gives, how = "Callable[..., Awaitable[T]]", "T", "async "
        else:
            takes, gives, how = "Callable[..., T]", "T", ""
        return f'''

class {self.name}:
    """The RPC methods, as methods."""

    {how}def _typed(self, method: {takes}, params: Mapping[str, Any]) -> {gives}:
        raise NotImplementedError

'''

    def method(self, declared):
        """Return the text of one method."""
        name = declared["name"]
        params = sorted(declared["params"], key=lambda one: not one["required"])
        result = self.type(declared["result"]["schema"], answered=True)
        lines = []
        how = "async def" if self.is_async else "def"
        if params:
            lines += [f"{how} {name}(", "    self,", "    *,"]
            for one in params:
                type_ = self.type(one["schema"])
                lines.append(
                    f"    {one['name']}: {type_}" + ("," if one["required"] else " | None = None,")
                )
            lines.append(f") -> {result}:")
        else:
            lines.append(f"{how} {name}(self) -> {result}:")
        lines += [f"    {line}".rstrip() for line in self.docstring(declared, params)]
        call = f"self._typed({self.name}.{name}, "
        call = f"    return {'await ' if self.is_async else ''}{call}"
        if params:
            lines += [f"{call.rstrip(' ')[: call.rindex('(') + 1]}"]
            lines += [f"        {self.name}.{name},", "        {"]
            lines += [f'            "{one["name"]}": {one["name"]},' for one in params]
            lines += ["        },", "    )"]
        else:
            lines.append(f"{call}{{}})")
        return "".join(f"    {line}".rstrip() + "\n" for line in lines)

    def docstring(self, declared, params):
        """Return its lines: what the method does, and each parameter."""
        lines = wrapped(declared["summary"], first='"""')
        if "description" in declared:
            lines.append("")
            lines += declared["description"].splitlines()
        if params:
            lines.append("")
        for one in params:
            text = f"{one['name']}: {one.get('description', '')}"
            default = one["schema"].get("default")
            if default not in (None, "", [], {}):
                text += f" Default: {default}."
            lines += wrapped(text, then="    ")
        if len(lines) == 1:
            return [lines[0] + '"""']
        return [*lines, '"""']

    def type(self, schema, *, answered=False):
        """Return the annotation of what a schema describes."""
        if "$ref" in schema:
            name = name_of(schema["$ref"])
            if answered:
                assert hasattr(results, name), f"declare {name} in vbdev.api.results"
                self.results.add(name)
            else:
                self.typed_dict(name, component(schema["$ref"]))
            return name
        if "enum" in schema:
            self.typing.add("Literal")
            return f"Literal[{', '.join(literal(value) for value in schema['enum'])}]"
        if "anyOf" in schema:
            return " | ".join(
                dict.fromkeys(self.type(one, answered=answered) for one in schema["anyOf"])
            )
        if schema.get("type") == "null":
            return "None"
        if schema.get("type") == "array":
            item = self.type(schema.get("items", {}), answered=answered)
            if answered:
                return f"list[{item}]"
            self.abc.add("Sequence")
            return f"Sequence[{item}]"
        if schema.get("type") == "object":
            value = schema.get("additionalProperties", {})
            value = self.type(value, answered=answered) if isinstance(value, dict) else "Any"
            return f"dict[str, {value}]" if answered else f"Mapping[str, {value}]"
        if schema.get("format") == "uuid" and not answered:
            self.other.add("from uuid import UUID")
            return "UUID | str"
        return NAMES.get(schema.get("type"), "Any")

    def typed_dict(self, name, schema):
        """Note a parameter that is an object of named fields."""
        if name in self.dicts:
            return
        self.typing |= {"TypedDict", "NotRequired"}
        lines = ["", "", f"class {name}(TypedDict):"]
        lines += [f"    {line}" for line in wrapped(schema["description"], first='"""', last='"""')]
        lines.append("")
        for field, own in schema["properties"].items():
            kept = {key: value for key, value in own.items() if key != "description"}
            if "anyOf" in kept:
                kept["anyOf"] = [one for one in kept["anyOf"] if one != {"type": "null"}]
            type_ = self.type(kept)
            if field not in schema["required"]:
                type_ = f"NotRequired[{type_}]"
            lines.append(f"    {field}: {type_}")
            lines += [
                f"    {line}"
                for line in wrapped(own.get("description", ""), first='"""', last='"""')
            ]
        self.dicts[name] = "\n".join(lines) + "\n"


def wrapped(text, first="", last="", then=""):
    """Return text in lines that fit a method's docstring."""
    return textwrap.wrap(
        first + text + last, WIDTH - 8, subsequent_indent=then, break_long_words=False
    )


def literal(value):
    """Return a value as Python writes it, with the formatter's quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def isort_key(name):
    """Return what import sorting sorts by: CONSTANTS, then Classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name.lower())
