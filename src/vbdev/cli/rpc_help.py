"""`vbdev rpc --help` and `vbdev rpc METHOD --help`: what is declared, in words.

A running daemon is asked, so that the modules which it has loaded are there; without one it is what
this installation would offer.
"""

from __future__ import annotations

import shutil
import textwrap
from typing import Any

from vbdev.api.methods import RpcError
from vbdev.cli.talk import complain
from vbdev.client.connection import Connection
from vbdev.rpc.describing.schema_words import by_group, default_of, near, type_words
from vbdev.vocab.address import ListenError
from vbdev.vocab.text import printable_lines

__all__ = ["document_of", "show_method", "show_methods"]

DAEMON_TIMEOUT_S = 2.0


def document_of(address: str, timeout_s: float = DAEMON_TIMEOUT_S) -> tuple[dict[str, Any], str]:
    """Return the document of a daemon, or of this installation; and whose it is, in words."""
    try:
        with Connection(address, timeout_s) as connection:
            document = connection.call("rpc_get_schema")
    except RpcError as error:  # SPDK's own, or --rpcs-allowed
        why = f"the daemon on {address} does not tell: {error}"
    except (ConnectionError, TimeoutError, ListenError):
        why = f"no daemon answers on {address}"
    else:
        return document, f"as the daemon on {address} has it"
    return built_in(), f"as this installation has it: {why}"


def built_in() -> dict[str, Any]:
    """Return the document of what a daemon would offer that loads no file of modules."""
    from vbdev.daemon.app import App
    from vbdev.rpc.describing.schema import describe_methods

    app = App()
    try:
        app.load_installed_modules()
        return describe_methods(app.dispatcher.methods())
    finally:
        app.close()


def show_methods(address: str) -> int:
    """Print all methods by group, one line each."""
    document, whose = document_of(address)
    tell(f"methods ({whose}):")
    for group, methods in by_group(document):
        tell(f"\n  {group}")
        for method in methods:
            tell(f"    {method['name']}")
            tell(filled(method.get("summary", ""), "        "))
    tell("\n`vbdev rpc METHOD --help` tells what a method takes and answers.")
    return 0


def show_method(address: str, name: str) -> int:
    """Print what a method takes and answers; 2 where there is none of this name."""
    document, whose = document_of(address)
    methods = {method["name"]: method for method in document["methods"]}
    if name not in methods:
        complain("vbdev rpc", f"{name}: {no_method(name, list(methods))} ({whose})")
        return 2
    method = methods[name]
    schemas = document.get("components", {}).get("schemas", {})
    required = [f"{one['name']}=..." for one in method["params"] if one.get("required")]
    optional = ["[key=value ...]"] if len(required) < len(method["params"]) else []
    tell(" ".join(["usage: vbdev rpc", name, *required, *optional]))
    tell(f"\n{filled(method.get('summary', ''))}")
    if "description" in method:
        tell(f"\n{method['description']}")
    if method["params"]:
        tell("\nparameters:")
        for one in method["params"]:
            show_parameter(one, schemas)
    answer = method["result"]["schema"]
    tell(f"\nanswer: {type_words(answer)}")
    for field, schema in struct_of(answer, schemas).get("properties", {}).items():
        tell(f"  {field}: {type_words(schema)}")
        if "description" in schema:
            tell(filled(schema["description"], "      "))
    if method.get("errors"):
        tell("\nerrors:")
        for error in method["errors"]:
            tell(filled(f"{error['code']}  {error['message']}", "  ", then="          "))
    states = " and ".join(method.get("x-spdk-state", []))
    tell(f"\nstate: {states or 'any'}\n({whose})")
    return 0


def show_parameter(one: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Print one parameter: how it is typed, then what it is."""
    schema = one["schema"]
    default = default_of(schema)
    notes = [type_words(schema)]
    notes += ["required"] * bool(one.get("required"))
    notes += [f"default {default}"] if default is not None else []
    tell(f"  {one['name']}: {'; '.join(notes)}")
    if "description" in one:
        tell(filled(one["description"], "      "))
    for field, inner in struct_of(schema, schemas).get("properties", {}).items():
        tell(f"      {field}: {inner.get('description', '')}")


def tell(text: str) -> None:
    """Print what a daemon has told, which may be of anybody's module."""
    print(printable_lines(text))


def struct_of(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a schema is, or is a list of; {} where it is none."""
    while "items" in schema:
        schema = schema["items"]
    found: dict[str, Any] = schemas.get(str(schema.get("$ref", "")).rpartition("/")[2], {})
    return found


def no_method(name: str, names: list[str]) -> str:
    """Say that there is no such method, and which ones there are that are called much the same."""
    alike = near(name, names)
    return "no such method" + (f"; did you mean {', '.join(alike)}?" if alike else "")


def filled(text: str, indent: str = "", then: str | None = None) -> str:
    """Return text in lines that fit the terminal."""
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent if then is None else then
    )
