"""What the methods declare, as one OpenRPC document: for programs, pages and command lines.

Nothing is said here that is not declared elsewhere: names and states come from the method table,
types, bounds and defaults from the parameters' and results' Structs, words from docstrings. The
methods of modules that others wrote appear as those of our own do.

`x-spdk-state` says when a method may be called; `x-names` on a schema, what the string names:
`bdev`, or `file`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from vbdev import __version__
from vbdev.api.methods import Method, State
from vbdev.rpc.describing.field_docs import FieldDocs

__all__ = ["OPENRPC_VERSION", "describe_methods"]

log = logging.getLogger(__name__)

OPENRPC_VERSION: Final = "1.3.2"
PREFIX: Final = "#/components/schemas/"

Schema = dict[str, Any]


def describe_methods(methods: Iterable[Method[Any]]) -> dict[str, Any]:
    """Return the OpenRPC document of these methods. Takes some 0.1 s, and may run on any thread."""
    methods = list(methods)
    types = [type_ for method in methods for type_ in (method.params, method.result)]
    schemas, components = _schemas(types)
    described = [
        _method(method, params, result, components)
        for method, params, result in zip(methods, schemas[::2], schemas[1::2], strict=True)
    ]
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "vbdev",
            "description": "Control of a vbdev daemon: JSON-RPC 2.0 over a stream socket.",
            "version": __version__,
        },
        "methods": described,
        "components": {"schemas": _referred_to(described, components)},
    }


def _method(
    method: Method[Any], params: Schema, result: Schema, components: dict[str, Schema]
) -> dict[str, Any]:
    summary, _, description = method.summary.partition("\n\n")
    return {
        "name": method.name,
        "summary": " ".join(summary.split()),
        **({"description": description} if description else {}),
        "tags": [{"name": method.group}],
        "paramStructure": "by-name",
        "params": _params(params, components),
        "result": {"name": "result", "schema": result},
        "errors": [{"code": code, "message": text} for code, text in method.refusals()],
        "x-spdk-state": [state.name for state in State if state in method.states],
    }


def _params(schema: Schema, components: dict[str, Schema]) -> list[dict[str, Any]]:
    """Return the fields of a parameters' Struct, in its order, as content descriptors."""
    struct = components.get(schema.get("$ref", "").removeprefix(PREFIX), {})
    found = []
    for name, field in struct.get("properties", {}).items():
        own = _without_null(field)
        description = own.pop("description", "")
        found.append(
            {
                "name": name,
                **({"description": description} if description else {}),
                "required": name in struct["required"],
                "schema": own,
            }
        )
    return found


def _without_null(schema: Schema) -> Schema:
    """Return what a client may send: None is how a Struct notes that nothing was sent."""
    own = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    some = [one for one in own.get("anyOf", ()) if one != {"type": "null"}]
    if "anyOf" in own and len(some) == 1:
        del own["anyOf"]
        own |= some[0]
    elif some:
        own["anyOf"] = some
    return own


def _schemas(types: list[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return the types' schemas, and those of the classes that these refer to, by name.

    A type that msgspec does not know, of a module that decodes it otherwise, may be anything.
    """
    classes: dict[type, None] = {}
    known = []
    for type_ in types:
        try:
            _collect(msgspec.inspect.type_info(type_), classes)
            msgspec.json.schema_components([type_], schema_hook=_anything)
        except TypeError as error:
            log.warning("rpc schema: %r can not be described: %s", type_, error)
            known.append(Any)
        else:
            known.append(type_)
    schemas, components = msgspec.json.schema_components(
        [*known, *classes], ref_template=PREFIX + "{name}", schema_hook=_anything
    )
    docs = FieldDocs()
    for cls, schema in zip(classes, schemas[len(types) :], strict=True):
        _describe(cls, components[schema["$ref"].removeprefix(PREFIX)], docs)
    return list(schemas[: len(types)]), components


def _anything(cls: type) -> Schema:
    """Return the schema of a class that only its module knows how to decode."""
    return {"title": cls.__name__}


def _collect(type_: msgspec.inspect.Type, classes: dict[type, None]) -> None:
    """Add the classes with fields that a type is made of."""
    match type_:
        case msgspec.inspect.StructType() | msgspec.inspect.DataclassType():
            if type_.cls not in classes:
                classes[type_.cls] = None
                for field in type_.fields:
                    _collect(field.type, classes)
        case msgspec.inspect.UnionType():
            for one in type_.types:
                _collect(one, classes)
        case msgspec.inspect.TupleType():
            for one in type_.item_types:
                _collect(one, classes)
        case msgspec.inspect.CollectionType():
            _collect(type_.item_type, classes)
        case msgspec.inspect.DictType():
            _collect(type_.value_type, classes)
        case msgspec.inspect.Metadata():
            _collect(type_.type, classes)


def _describe(cls: type, component: Schema, docs: FieldDocs) -> None:
    """Add the words: of the class, and of its fields."""
    component["description"] = " ".join((cls.__doc__ or "").split())
    words = docs.of(cls)
    for name, schema in component["properties"].items():
        if name in words:
            schema["description"] = words[name]


def _referred_to(described: Any, components: dict[str, Schema]) -> dict[str, Schema]:
    """Return the components that a document refers to, and those that these refer to."""
    wanted: set[str] = set()
    todo = [described]
    while todo:
        match todo.pop():
            case dict() as part:
                name = str(part.get("$ref", "")).removeprefix(PREFIX)
                if name in components and name not in wanted:
                    wanted.add(name)
                    todo.append(components[name])
                todo += part.values()
            case list() as part:
                todo += part
    return {name: components[name] for name in sorted(wanted)}
