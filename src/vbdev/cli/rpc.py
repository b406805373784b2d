"""`vbdev rpc METHOD [key=value ...]`: one call, its result as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vbdev.address import ListenError, default_rpc_path
from vbdev.rpc.client import RpcClient
from vbdev.rpc.errors import RpcError


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
    add_socket_argument(parser)
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="default: %(default)g"
    )
    parser.add_argument("method", metavar="METHOD", help="see: vbdev rpc rpc_get_methods")
    parser.add_argument(
        "params",
        nargs="*",
        metavar="key=value",
        help="parameters; a value that is JSON (8, true, [1]) is taken as JSON, else as text",
    )


def run(arguments: argparse.Namespace) -> int:
    """Call and print; 1 when the daemon answers with an error or is not there."""
    params: dict[str, Any] = {}
    for word in arguments.params:
        key, equals, value = word.partition("=")
        if not equals or not key:
            print(f"vbdev rpc: {word!r} is not key=value", file=sys.stderr)
            return 2
        params[key] = value_of(value)
    try:
        with RpcClient(arguments.rpc_socket, arguments.timeout) as client:
            result = client.call(arguments.method, **params)
    except (RpcError, ConnectionError, TimeoutError, ListenError) as error:
        print(f"vbdev rpc: {arguments.method}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2))
    return 0


def value_of(text: str) -> Any:
    """Return what a word means: JSON where it is JSON, text otherwise."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
