"""`vbdev config check FILE`: what a configuration would do, without doing it."""

from __future__ import annotations

import argparse
import json
import sys

import msgspec

from vbdev.cli.ls import lines
from vbdev.cli.talk import complain
from vbdev.daemon.app import AppError
from vbdev.daemon.config import ConfigError, read_config
from vbdev.daemon.rehearsal import Rehearsal, rehearse
from vbdev.vocab.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the words of `vbdev config`."""
    parser.add_argument("action", choices=("check",), help="say what FILE would do")
    parser.add_argument("file", metavar="FILE", help="a configuration, as for vbdev serve --config")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="FILE.py",
        help="load bdev modules from a Python file",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Say what would happen; 1 where a daemon would not start."""
    try:
        found = rehearse(read_config(arguments.file), arguments.module)
    except (AppError, ConfigError) as error:
        complain("vbdev config", error)
        return 1
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(found), indent=2))
    else:
        show(found)
    return 1 if found.errors else 0


def show(found: Rehearsal) -> None:
    """Print the stack on stdout, and what there is to say about it on stderr."""
    for line in lines(msgspec.to_builtins(found.stack)):
        print(line)
    for name, bdev in found.exports.items():
        print(printable(f"export {name}: {bdev}"))
    sys.stdout.flush()  # so that the parts stay apart where both go to one file
    for finding in found.errors:
        complain("error", f"{finding.where}: {finding.message}")
    for finding in found.warnings:
        complain("warning", f"{finding.where}: {finding.message}")
