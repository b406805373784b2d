"""`vbdev serve`: a daemon in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import urllib.parse
from functools import partial

from vbdev import __version__
from vbdev.bdev import Bdev, VirtualBdev
from vbdev.cli.rpc import add_socket_argument
from vbdev.cli.streams import never_wait
from vbdev.cli.talk import complain
from vbdev.cli.words import (
    add_stack_arguments,
    build_stack,
    client_count,
    load_modules,
    reactor_count,
)
from vbdev.daemon.app import App, AppError
from vbdev.files.leaving import leave
from vbdev.reports.logs import Logs
from vbdev.vocab.address import Address
from vbdev.vocab.sizes import show_size
from vbdev.vocab.text import printable

LEVELS = ("debug", "info", "notice", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev serve`."""
    add_stack_arguments(parser)
    parser.add_argument(
        "--nbd",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="serve NBD on unix:/path or tcp:host:port; repeat for more",
    )
    parser.add_argument(
        "--nbd-max-connections",
        type=client_count,
        default=0,
        metavar="N",
        help="NBD clients at most, on all addresses together; default: no limit",
    )
    parser.add_argument(
        "--nbd-strict-blocks",
        action="store_true",
        help="refuse NBD requests that begin or end inside a block",
    )
    parser.add_argument(
        "--reactors",
        type=reactor_count,
        default=1,
        metavar="N",
        help="threads that clients are spread over; default: %(default)s",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--wait-for-rpc",
        action="store_true",
        help="settle options by RPC first; all else waits for framework_start_init",
    )
    add_socket_argument(parser)
    parser.add_argument(
        "--log-level", choices=LEVELS, default="warning", help="default: %(default)s"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal; 0 after an orderly stop."""
    never_wait()
    logs = Logs()
    logs.print_level = arguments.log_level.upper()
    if logs.print_level in ("INFO", "DEBUG"):
        logs.set_flag("all")
    logs.open(sys.stderr)
    with contextlib.closing(logs):
        status = _serve(arguments, logs)
    leave(status)
    return status


def _serve(arguments: argparse.Namespace, logs: Logs) -> int:
    try:
        app = App(num_reactors=arguments.reactors, logs=logs)
    except AppError as error:
        complain("vbdev serve", error)
        return 1
    return app.serve(lambda: start(app, arguments), partial(complain, "vbdev serve"))


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config and what belongs to it."""
    parser.add_argument(
        "--config", "--json", metavar="FILE", help="carry out SPDK's JSON configuration"
    )
    parser.add_argument(
        "--json-ignore-init-errors",
        action="store_true",
        help="log what goes wrong with the configuration, and serve all the same",
    )


def start(app: App, arguments: argparse.Namespace) -> None:
    """Build what was asked for, and say what there is."""
    top: str | None = None

    def say_that_it_waits(rpc: Address) -> None:
        print(f"vbdev {__version__} waits for framework_start_init")
        print(printable(f"  rpc    {rpc}"), flush=True)

    def build() -> None:
        nonlocal top
        top = build_stack(app, arguments)

    app.nbd.strict_blocks = arguments.nbd_strict_blocks

    def serve() -> None:
        if top is not None and (arguments.nbd or not app.nbd.exports):
            app.nbd.add_export(top, read_only=arguments.read_only)
            app.nbd.default_export = top
        if arguments.nbd_max_connections:
            app.nbd.max_connections = arguments.nbd_max_connections
        for address in arguments.nbd:
            app.listen(address)

    if app.start(
        load=lambda: load_modules(app, arguments),
        rpc=arguments.rpc_socket,
        config=arguments.config,
        ignore_errors=arguments.json_ignore_init_errors,
        wait_for_rpc=arguments.wait_for_rpc,
        on_wait=say_that_it_waits,
        build=build,
        serve=serve,
    ):
        (rpc,) = app.rpc.addresses
        print("\n".join(map(printable, describe(app, rpc))), flush=True)


def describe(app: App, rpc: Address) -> list[str]:
    """Return what a person wants to know now, the command to try included."""
    lines = [f"vbdev {__version__}"]
    for bdev in app.topmost():
        lines.append(f"  bdev   {chain(bdev)}, {show_size(bdev.size_bytes)}")
    for name, export in app.nbd.exports.items():
        default = " (default)" if name == app.nbd.default_export else ""
        mode = "read-only" if export.read_only else "read-write"
        lines.append(f"  export {name}{default}, {mode}")
    for address in app.nbd.addresses:
        lines.append(f"  nbd    {address}")
    lines.append(f"  rpc    {rpc}")
    if app.nbd.addresses and app.nbd.exports:
        lines.append(f"try: nbdinfo {shlex.quote(nbd_uri(app.nbd.addresses[0]))}")
    else:
        lines.append(f"try: vbdev ls --rpc-socket {shlex.quote(rpc.path or str(rpc))}")
    return lines


def chain(bdev: Bdev) -> str:
    """Return a stack from the base up: `Malloc0 > Passthru0`."""
    names = [f"{bdev.name}"]
    while isinstance(bdev, VirtualBdev):
        bdev = bdev.base
        names.append(bdev.name)
    return " > ".join(reversed(names))


def nbd_uri(address: Address) -> str:
    """Return the NBD URI of an address's default export."""
    if address.is_unix:
        return f"nbd+unix:///?socket={urllib.parse.quote(address.path)}"
    return f"nbd://{str(address).removeprefix('tcp:')}"
