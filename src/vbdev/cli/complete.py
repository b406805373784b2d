"""`vbdev __complete WORD...`: what the last word may become, for the scripts of `completion`.

The words are those behind `vbdev`, the last one is the one that is being typed, and may be empty.
Printed is one candidate a line, behind a tab what it is; `:files` asks the shell for its files.

What a daemon knows it is asked for, if it answers at once. Without one, methods and parameters are
those of the typed client, which is at hand; bdevs there are none then. It never fails: a shell in
the middle of a line has no use for an error.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from vbdev.api.methods import RpcError
from vbdev.client.connection import Connection
from vbdev.vocab.address import ListenError, default_rpc_path
from vbdev.vocab.text import printable

__all__ = ["candidates", "main"]

DAEMON_TIMEOUT_S = 0.5
FILES = (":files", "")
FILE_WORDS = ("FILE", "PATH", "ADDRESS", "BASE", "LOG", "IMAGE")
SOCKET_OPTIONS = ("-s", "--rpc-socket")

Candidate = tuple[str, str]
"""A word, and what it is."""


def main(words: list[str]) -> int:
    """Print the candidates."""
    try:
        for word, what in candidates(words):
            # A shell takes a line for a candidate, and shows it as it is.
            if word.isprintable():
                print(f"{word}\t{printable(what)}" if what else word)
    except (RpcError, ConnectionError, TimeoutError, ListenError):
        return 1
    return 0


def candidates(words: list[str]) -> Iterator[Candidate]:
    """Return what the last of the words may become."""
    from vbdev.cli import COMMANDS

    *before, current = words or [""]
    command = next((word for word in before if word in COMMANDS), None)
    if command is None:
        options = [("--help", "show help"), ("--version", "show the version")]
        yield from fitting(current, options if current.startswith("-") else COMMANDS.items())
    elif command == "rpc":
        yield from of_rpc(before[before.index("rpc") + 1 :], current)
    else:
        yield from of_parser(*parser_of(before), current)


def fitting(current: str, found: Iterable[Candidate]) -> Iterator[Candidate]:
    """Return those that begin with what has been typed."""
    return ((word, what) for word, what in found if word.startswith(current) or word == FILES[0])


# Commands as argparse knows them


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser of the command, or of the command's command, that words have come to.

    And the words from that one on.
    """
    from vbdev.cli import COMMANDS, build_parser

    parser = build_parser(next(word for word in words if word in COMMANDS))
    rest = words
    for at, word in enumerate(words):
        for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:  # noqa: SLF001 - as above
                parser, rest = action.choices[word], words[at:]
    return parser, rest


def of_parser(
    parser: argparse.ArgumentParser, before: list[str], current: str
) -> Iterator[Candidate]:
    """Return options, their values, and what stands without an option."""
    action = awaiting(parser, before[-1]) if before else None
    if action is not None:
        yield from fitting(current, values(action))
    elif current.startswith("-"):
        yield from fitting(current, options(parser))
    else:
        actions = parser._actions  # noqa: SLF001 - as above
        typed, _ = without_options(parser, before[1:])
        for one in [one for one in actions if not one.option_strings][len(typed) :][:1]:
            yield from fitting(current, values(one))


def awaiting(parser: argparse.ArgumentParser, word: str) -> argparse.Action | None:
    """Return the option that a word is, if a value has to follow it."""
    for action in parser._actions:  # noqa: SLF001 - as above
        if word in action.option_strings and action.nargs != 0:
            return action
    return None


def options(parser: argparse.ArgumentParser) -> Iterator[Candidate]:
    """Return a parser's options, in their long forms where they have some."""
    for action in parser._actions:  # noqa: SLF001 - as above
        if action.option_strings and action.help != argparse.SUPPRESS:
            long = [name for name in action.option_strings if name.startswith("--")]
            yield from ((name, plain(parser, action)) for name in long or action.option_strings)


def plain(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an option's help in one line."""
    text = parser._get_formatter()._expand_help(action) if action.help else ""  # noqa: SLF001
    return " ".join(text.split())


def values(action: argparse.Action) -> Iterator[Candidate]:
    """Return what an option, or a word without one, takes."""
    if action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices)
    elif isinstance(action.metavar, str) and action.metavar.startswith(FILE_WORDS):
        yield FILES


# vbdev rpc METHOD key=value


def of_rpc(before: list[str], current: str) -> Iterator[Candidate]:
    """Return options, methods, parameters of the method, or values of the parameter."""
    parser, _ = parser_of(["rpc"])
    if current.startswith("-") or (before and awaiting(parser, before[-1]) is not None):
        yield from of_parser(parser, before, current)
        return
    typed, address = without_options(parser, before)
    with contextlib.closing(Methods(address)) as methods:
        yield from fitting(current, behind_method(methods, typed, current))


def behind_method(methods: Methods, typed: list[str], current: str) -> Iterator[Candidate]:
    """Return methods, parameters or values, whichever is due behind the words that are there."""
    if not typed:
        yield from methods.names()
        return
    name, equals, _ = current.partition("=")
    if not equals:
        given = {word.partition("=")[0] for word in typed[1:]}
        found = [one for one in methods.parameters(typed[0]) if one["name"] not in given]
        found.sort(key=lambda one: not one.get("required", False))
        yield from ((f"{one['name']}=", described(one)) for one in found)
        return
    for one in methods.parameters(typed[0]):
        if one["name"] == name:
            for value, what in methods.values(one.get("schema", {})):
                yield (FILES if value == FILES[0] else (f"{name}={value}", what))


def described(one: dict[str, Any]) -> str:
    """Return what a parameter is, in one line."""
    required = "required. " if one.get("required") else ""
    return " ".join(f"{required}{one.get('description', '')}".split())


def without_options(parser: argparse.ArgumentParser, words: list[str]) -> tuple[list[str], str]:
    """Return the words that are no options, and where the daemon is."""
    address, typed = default_rpc_path(), []
    following = iter(words)
    for word in following:
        name, equals, value = word.partition("=")
        if awaiting(parser, word) is not None:
            value = next(following, "")
        elif not word.startswith("-"):
            typed.append(word)
            continue
        elif not equals:
            continue
        if name in SOCKET_OPTIONS and value:
            address = value
    return typed, address


class Methods:
    """The methods as the daemon declares them, or as the typed client has them."""

    def __init__(self, address: str) -> None:
        self._connection: Connection | None = None
        self._declared: dict[str, dict[str, Any]] | None = None
        try:
            self._connection = Connection(address, DAEMON_TIMEOUT_S)
            document = self._connection.call("rpc_get_schema")
            self._declared = {method["name"]: method for method in document["methods"]}
        except (RpcError, ConnectionError, TimeoutError, ListenError):
            pass  # no daemon, one that is busy, or SPDK's

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()

    def names(self) -> Iterator[Candidate]:
        """Return the methods."""
        if self._declared is not None:
            yield from ((name, one.get("summary", "")) for name, one in self._declared.items())
            return
        for name, method in client_methods().items():
            yield name, (inspect.getdoc(method) or "").partition("\n")[0]

    def parameters(self, method: str) -> list[dict[str, Any]]:
        """Return the parameters of a method, as OpenRPC has them."""
        if self._declared is not None:
            found: list[dict[str, Any]] = self._declared.get(method, {}).get("params", [])
            return found
        function = client_methods().get(method)
        return [] if function is None else parameters_of(function)

    def values(self, schema: dict[str, Any]) -> Iterator[Candidate]:
        """Return what a parameter may be, where that can be listed."""
        if "enum" in schema:
            yield from ((str(value), "") for value in schema["enum"])
        elif schema.get("type") == "boolean":
            yield from (("true", ""), ("false", ""))
        elif schema.get("x-names") == "bdev" and self._connection is not None:
            for entry in self._connection.call("vbdev_get_stack"):
                yield entry["name"], entry["kind"]
        elif schema.get("x-names") == "file":
            yield FILES


def client_methods() -> dict[str, Any]:
    """Return the methods of the typed client."""
    from vbdev.client.generated import methods

    return {name: one for name, one in vars(methods.Methods).items() if not name.startswith("_")}


def parameters_of(function: Any) -> list[dict[str, Any]]:
    """Return the parameters of one of the client's methods, as far as its annotations tell."""
    found = []
    for one in inspect.signature(function).parameters.values():
        annotation = str(one.annotation)
        schema: dict[str, Any] = {}
        if chosen := re.match(r"Literal\[(.*)\]", annotation):
            schema["enum"] = re.findall(r"'([^']*)'", chosen[1])
        elif annotation.startswith("bool"):
            schema["type"] = "boolean"
        if one.kind is one.KEYWORD_ONLY:
            required = one.default is one.empty
            found.append({"name": one.name, "required": required, "schema": schema})
    return found
