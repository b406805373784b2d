"""`vbdev ls`: the bdevs of a daemon as a tree, with sizes, claims and who uses what."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vbdev.api.methods import RpcError
from vbdev.cli.rpc import add_socket_argument
from vbdev.cli.talk import complain
from vbdev.client.connection import Connection
from vbdev.vocab import ClaimType
from vbdev.vocab.address import ListenError
from vbdev.vocab.sizes import show_size
from vbdev.vocab.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbdev ls`."""
    add_socket_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Print the tree; 1 when no daemon is there."""
    try:
        with Connection(arguments.rpc_socket) as client:
            entries = client.call("vbdev_get_stack")
    except (RpcError, ConnectionError, TimeoutError, ListenError) as error:
        complain("vbdev ls", error)
        return 1
    if arguments.json:
        print(json.dumps(entries, indent=2))
    elif sys.stdout.isatty():
        show_on_terminal(entries)
    else:
        for line in lines(entries):
            print(line)
    return 0


def label(entry: dict[str, Any]) -> str:
    """Return one bdev in one line, whatever its name."""
    words = [entry["name"], entry["kind"]]
    if entry["num_blocks"]:
        words.append(show_size(entry["num_blocks"] * entry["block_size"]))
        metadata = f" + {entry['md_size']}" if entry["md_size"] else ""
        words.append(f"({entry['num_blocks']} x {entry['block_size']}{metadata} B)")
    if entry["zone_size"]:
        words.append(f"zones of {entry['zone_size']} blocks")
    if not entry["num_blocks"]:
        words.append(f"[{entry['state']}: {entry['base']}]")
    elif entry["removing_ms"] is not None:
        words.append(f"[{entry['state']} for {entry['removing_ms'] / 1000:.1f} s]")
    others = [holder for holder in entry["holders"] if holder != entry["claim"]]
    if entry["claim"]:
        usual = entry["claim_type"] == ClaimType.EXCLUSIVE_WRITE
        how = "" if usual else f" ({entry['claim_type']})"
        words.append(f"claimed{how} by {entry['claim']}")
    if others:
        words.append(f"open by {', '.join(others)}")
    if entry["examined_by"]:
        words.append(f"examined by {', '.join(entry['examined_by'])}")
    if entry["busy"]:
        busy = ", ".join(f"{number} of {who}" for who, number in entry["busy"].items())
        words.append(f"I/Os outstanding: {busy}")
    return printable("  ".join(words))


def children(entries: list[dict[str, Any]], name: str | None) -> list[dict[str, Any]]:
    """Return what stands on a bdev; of None, what stands on nothing that is there."""
    names = {entry["name"] for entry in entries}
    if name is None:
        return [entry for entry in entries if entry["base"] not in names]
    return [entry for entry in entries if entry["base"] == name]


def lines(entries: list[dict[str, Any]], name: str | None = None, indent: str = "") -> list[str]:
    """Return the tree as plain text, bases first, what stands on them below."""
    out = []
    for entry in children(entries, name):
        out.append(indent + label(entry))
        out += lines(entries, entry["name"], indent + "  ")
    return out


def show_on_terminal(entries: list[dict[str, Any]]) -> None:
    """Draw the tree."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def grow(tree: Tree, name: str | None) -> None:
        for entry in children(entries, name):
            text = Text(label(entry))
            text.stylize("bold", 0, len(printable(entry["name"])))
            grow(tree.add(text), entry["name"])

    root = Tree("bdevs" if entries else "no bdevs", guide_style="dim")
    grow(root, None)
    Console(highlight=False).print(root)
