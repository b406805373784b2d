"""The words that `serve` and `bench` share: BASE, --layer, sizes; and what they make of them."""

from __future__ import annotations

import argparse
import re
import types
import typing
from typing import Any

import msgspec

from vbdev.bdev import Bdev, VirtualBdev
from vbdev.daemon.app import App, AppError
from vbdev.reactor.reactors import MAX_REACTORS
from vbdev.vocab.sizes import parse_size

__all__ = [
    "add_stack_arguments",
    "build_stack",
    "load_modules",
    "reactor_count",
]

SIZED_KINDS = ("malloc", "null")
FILE_KINDS = ("uring", "aio")
NBD_URI = re.compile(r"nbds?(\+\w+)?://")  # those of TLS too: the module says that it has none
DEFAULT_BLOCK_SIZE = 512
TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})


def add_stack_arguments(parser: argparse.ArgumentParser) -> None:
    """Add BASE, --layer, --module and --read-only."""
    parser.add_argument(
        "base",
        nargs="?",
        metavar="BASE",
        help="a file or block device; or malloc:SIZE, null:SIZE, uring:PATH, aio:PATH, nbd:URI,"
        " each with ,key=value... behind it; or an NBD URI",
    )
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="KIND[,key=value]...",
        help="stack a vbdev of this kind on what is there; repeat for more, in order",
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="FILE.py",
        help="load bdev modules from a Python file",
    )
    parser.add_argument("--read-only", action="store_true", help="open BASE for reading only")


def reactor_count(text: str) -> int:
    """Parse a number of reactors for argparse."""
    count = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= count <= MAX_REACTORS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_REACTORS}")
    return count


def client_count(text: str) -> int:
    """Parse the most clients that are served at once for argparse; 0: any number."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of clients")
    return int(text)


def load_modules(app: App, arguments: argparse.Namespace) -> None:
    """Load the modules of installed packages, and of --module. AppError."""
    app.load_installed_modules()
    for path in arguments.module:
        app.load_module_file(path)


def build_stack(app: App, arguments: argparse.Namespace) -> str | None:
    """Create BASE and the layers of loaded modules; return the topmost name. AppError."""
    if arguments.base is None:
        if arguments.layer:
            raise AppError("--layer needs a BASE to stand on")
        return None
    kind, params = base_params(arguments.base)
    if arguments.read_only and kind in (*FILE_KINDS, "nbd"):
        params["readonly"] = True
    top = _create(app, kind, params)
    for layer in arguments.layer:
        kind, *pairs = layer.split(",")
        module = _module(app, kind)
        if not issubclass(module, VirtualBdev):
            raise AppError(f"--layer {layer}: {kind} is a base and no layer")
        if not module.is_layer:
            raise AppError(f"--layer {layer}: {kind} makes several bdevs; vbdev rpc creates them")
        params = key_values(pairs, f"--layer {layer}")
        if module.base_param in params:
            raise AppError(
                f"--layer {layer}: {module.base_param} is not for a layer; this one stands on {top}"
            )
        params[module.base_param] = top
        top = _create(app, kind, params)
    return top


def base_params(text: str) -> tuple[str, dict[str, Any]]:
    """Return the kind that BASE means, and its parameters as text."""
    kind, colon, rest = text.partition(":")
    if NBD_URI.match(text):
        kind, colon, rest = "nbd", ":", text
    if not colon or kind not in (*SIZED_KINDS, *FILE_KINDS, "nbd"):
        return "uring", {"filename": text}
    what, *pairs = rest.split(",")
    params = key_values(pairs, text)
    if kind == "nbd":
        return kind, {"uri": what, **params}
    if kind in FILE_KINDS:
        return kind, {"filename": what, **params}
    try:
        size = parse_size(what)
        block_size = parse_size(params.setdefault("block_size", str(DEFAULT_BLOCK_SIZE)))
    except ValueError as error:
        raise AppError(f"{text}: {error}") from error
    if block_size <= 0 or size % block_size:
        raise AppError(f"{text}: {size} bytes are no multiple of the block size {block_size}")
    return kind, {**params, "num_blocks": str(size // block_size)}


def key_values(pairs: list[str], where: str) -> dict[str, str]:
    """Return {key: value} of `key=value` words. AppError names a word that is none."""
    params: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise AppError(f"{where}: {pair!r} is not key=value")
        if key in params:
            raise AppError(f"{where}: {key} is given twice")
        params[key] = value
    return params


def _module(app: App, kind: str) -> type[Bdev]:
    module = app.modules.get(kind)
    if module is None:
        raise AppError(f"unknown kind {kind!r}; kinds: {', '.join(sorted(app.modules))}")
    return module


def _create(app: App, kind: str, params: dict[str, Any]) -> str:
    module = _module(app, kind)
    params.setdefault("name", app.registry.unused_name(auto_name(kind)))
    fields = {field.name: field for field in msgspec.structs.fields(module.Params)}
    typed: dict[str, Any] = {}
    for key, value in params.items():
        if key not in fields:
            base = module.base_param if issubclass(module, VirtualBdev) else None
            known = ", ".join(name for name in fields if name != base)
            raise AppError(f"{kind}: unknown key {key!r}; keys: {known}")
        try:
            typed[key] = from_text(value, fields[key].type) if isinstance(value, str) else value
        except ValueError as error:
            raise AppError(f"{kind}: {key}: {error}") from error
    return app.create(kind, typed)


def auto_name(kind: str) -> str:
    """Return what the names of bdevs that were given none begin with."""
    return "".join(part.capitalize() for part in kind.split("_"))


def from_text(text: str, declared: Any) -> Any:
    """Return the value that a word on the command line means for a parameter of a type."""
    kinds = [
        _bare(kind) for kind in (typing.get_args(declared) if _is_union(declared) else [declared])
    ]
    if str in kinds:
        return text
    if bool in kinds:
        if text.lower() not in TRUE | FALSE:
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in TRUE
    if int in kinds:
        return int(text, 0) if re.fullmatch(r"-?\d+|0[xob]\w+", text) else parse_size(text)
    if float in kinds:
        return float(text)
    return text


def _bare(declared: Any) -> Any:
    """Return a type without the bounds that it is annotated with."""
    return (
        typing.get_args(declared)[0]
        if typing.get_origin(declared) is typing.Annotated
        else declared
    )


def _is_union(declared: Any) -> bool:
    return typing.get_origin(declared) in (typing.Union, types.UnionType)
