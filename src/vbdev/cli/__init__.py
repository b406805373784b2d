"""The command line: `vbdev serve | spdk-tgt | rpc | ls | config | bench | demo`, one file each.

Results go to stdout, talk goes to stderr; exit status 0, 1 for a failure, 2 for wrong usage.
A subcommand's file is imported when it is called, so that `vbdev rpc` starts without the core.
A link to the command that is called spdk_tgt is `vbdev spdk-tgt`, for scripts that have its path.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys

from vbdev import __version__
from vbdev.cli.streams import OutputError, open_standard_streams
from vbdev.cli.talk import complain
from vbdev.vocab.text import printable

__all__ = ["build_parser", "main"]

COMMANDS = {
    "serve": "serve a stack of block devices over NBD, with a JSON-RPC control plane",
    "spdk-tgt": "serve as SPDK's spdk_tgt does, with its options",
    "rpc": "call a JSON-RPC method of a running daemon",
    "ls": "show a running daemon's bdevs as a tree",
    "config": "say what a configuration would do, without doing it",
    "log": "show, check, replay and cut logs of writes (dm-log-writes)",
    "crash": "make, check and judge the disks that power cuts leave of a log",
    "bench": "measure a stack of block devices, in this process",
    "completion": "print a script that completes vbdev's words in bash, zsh or fish",
    "demo": "show a passthru disk served to a real NBD client, with the figures",
}


STRAYS_PASS = frozenset({"spdk-tgt"})
"""Commands that get words which belong to no option in `strays`, and go on."""


def is_stray(word: str) -> bool:
    """Say whether a word is no option (getopt(3)): `-` alone is none."""
    return not word.startswith("-") or word == "-"


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; with `only`, the other subcommands have no options (and no imports)."""
    parser = argparse.ArgumentParser(
        prog="vbdev",
        description="A disk you can program: user-space block devices, stacked live.",
    )
    parser.add_argument("--version", action="version", version=f"vbdev {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        # What `rpc` has to say of itself depends on the daemon.
        own_help = name == "rpc"
        command = commands.add_parser(
            name, help=summary, description=summary, add_help=not own_help
        )
        if only in (None, name):
            module = importlib.import_module(f"vbdev.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run, refuse=command.error)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command line (default: sys.argv) and return its exit status."""
    open_standard_streams()
    if argv is None:
        argv = sys.argv[1:]
        if sys.argv[0].rpartition("/")[2] == "spdk_tgt":
            argv = ["spdk-tgt", *argv]
    only = next((word for word in argv if word in COMMANDS), None)
    try:
        try:
            return _run(argv, only)
        finally:  # help too, at the end of which argparse raises SystemExit
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        if ".so" not in (error.path or ""):
            raise
        complain(f"vbdev {only}", f"can not load {error.name or error.path}: {error}")
        return 1
    except OutputError as error:
        if error.errno != errno.EPIPE:  # whoever read our output has seen enough
            complain(" ".join(["vbdev", *([only] if only else [])]), f"output: {error}")
        return 1


def _run(argv: list[str], only: str | None) -> int:
    if argv[:1] == ["__complete"]:  # what the scripts of `completion` ask
        from vbdev.cli.complete import main as complete

        return complete(argv[1:])
    strays: list[str] = []
    if only in STRAYS_PASS and "--" in argv:
        end = argv.index("--")
        argv, strays = argv[:end], argv[end + 1 :]
    arguments, unknown = build_parser(only or "").parse_known_args(argv)
    if only in STRAYS_PASS:
        arguments.strays = [word for word in unknown if is_stray(word)] + strays
        unknown = [word for word in unknown if not is_stray(word)]
    if unknown:  # argparse itself would show the usage of all of vbdev
        arguments.refuse(f"unrecognized arguments: {' '.join(map(printable, unknown))}")
    status: int = arguments.run(arguments)
    return status
