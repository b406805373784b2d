"""`vbdev rpc METHOD [key=value ...]`: one call, its result as JSON.

Help is in `rpc_help`, imported when it is asked for: who calls a method does not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from typing import Any

from vbdev.api.methods import RpcError
from vbdev.cli.talk import complain
from vbdev.client.connection import Connection
from vbdev.vocab.address import ListenError, default_rpc_path
from vbdev.vocab.text import is_utf8
from vbdev.wire.jsonrpc import METHOD_NOT_FOUND

MAX_TIMEOUT_S = 1e9


def add_socket_argument(parser: argparse.ArgumentParser) -> None:
    """Add --rpc-socket."""
    parser.add_argument(
        "-s",
        "--rpc-socket",
        metavar="ADDRESS",
        default=default_rpc_path(),
        help="the daemon's control plane: a unix socket's path, or host:port"
        " (default: %(default)s)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev rpc`."""
    parser.add_argument(
        "-h",
        "--help",
        action="store_true",
        help="show this and all methods; behind a METHOD, what it takes and answers",
    )
    add_socket_argument(parser)
    parser.add_argument(
        "--timeout", type=seconds, default=60, metavar="SECONDS", help="default: %(default)g"
    )
    parser.add_argument("method", metavar="METHOD", nargs="?", help="what to call")
    parser.add_argument(
        "params",
        nargs="*",
        metavar="key=value",
        help="parameters; text where the method declares text, else JSON (8, true, [1])",
    )
    parser.set_defaults(parser=parser)


def seconds(text: str) -> float:
    """Parse a time for argparse: more than none, and no more than a socket takes."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) <= MAX_TIMEOUT_S:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def run(arguments: argparse.Namespace) -> int:
    """Call and print; 1 when the daemon answers with an error or is not there."""
    if arguments.help:
        return show_help(arguments)
    if arguments.method is None:
        complain("vbdev rpc", "which METHOD? `vbdev rpc --help` lists them")
        return 2
    words: dict[str, str] = {}
    typed = [as_utf8(word) for word in (arguments.method, *arguments.params)]
    for word in typed:
        if not is_utf8(word):
            complain("vbdev rpc", f"{word!r} is not UTF-8")
            return 2
    method, *params = typed
    for word in params:
        key, equals, value = word.partition("=")
        if not equals or not key:
            complain("vbdev rpc", f"{word!r} is not key=value")
            return 2
        if key in words:
            complain("vbdev rpc", f"{key} is given twice")
            return 2
        words[key] = value
    try:
        with Connection(arguments.rpc_socket, arguments.timeout) as connection:
            result = call(connection, method, words)
    except (RpcError, ConnectionError, TimeoutError, ListenError) as error:
        complain("vbdev rpc", f"{method}: {error}")
        return 1
    print(json.dumps(result, indent=2))
    return 0


def as_utf8(word: str) -> str:
    """Return a word of the command line read as UTF-8, which JSON is, whatever the locale says."""
    return os.fsencode(word).decode("utf-8", "surrogateescape")


def show_help(arguments: argparse.Namespace) -> int:
    """Print help on all, or on one method."""
    from vbdev.cli.rpc_help import show_method, show_methods

    if arguments.method is not None:
        return show_method(arguments.rpc_socket, arguments.method)
    arguments.parser.print_help()
    print()
    return show_methods(arguments.rpc_socket)


def call(connection: Connection, method: str, words: dict[str, str]) -> Any:
    """Call a method with parameters as they were typed. Failures are Connection.call's."""
    params = {key: json_or_text(word) for key, word in words.items()}
    # What is JSON may be meant as text all the same: a bdev may be called 123.
    doubtful = [key for key, value in params.items() if value is None or not isinstance(value, str)]
    if doubtful:
        is_text = text_parameters(connection, method)
        params |= {key: words[key] for key in doubtful if key in is_text}
    try:
        return connection.call(method, **params)
    except RpcError as error:
        if error.code != METHOD_NOT_FOUND:
            raise
        from vbdev.rpc.describing.schema_words import near

        try:
            alike = near(method, connection.call("rpc_get_methods"))
        except RpcError:  # which --rpcs-allowed has forbidden
            raise error from None
        hint = "`vbdev rpc --help` lists the methods"
        if alike:
            hint = f"did you mean {', '.join(alike)}?"
        raise RpcError(error.code, error.message, hint) from error


def text_parameters(connection: Connection, method: str) -> set[str]:
    """Return the parameters of a method that are declared to be text.

    Of our own methods the typed client knows; of a module's the daemon does.
    """
    from vbdev.client.generated.methods import Methods

    declared = getattr(Methods, method, None)
    if declared is not None:
        text = ("str", "UUID", "Literal['")
        return {
            name
            for name, annotation in declared.__annotations__.items()
            if annotation.startswith(text)
        }
    try:
        document = connection.call("rpc_get_schema")
    except RpcError:
        return set()  # no vbdev daemon, or an old one
    for one in document["methods"]:
        if one["name"] == method:
            return {param["name"] for param in one["params"] if is_text(param["schema"])}
    return set()


def is_text(schema: dict[str, Any]) -> bool:
    """Say whether a schema takes strings and nothing else."""
    if "enum" in schema:
        return all(isinstance(value, str) for value in schema["enum"])
    return schema.get("type") == "string"


def json_or_text(text: str) -> Any:
    """Return what a word means: JSON where it is JSON, text otherwise."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
