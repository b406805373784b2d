"""Modules of others: of installed packages, and of a file that somebody names."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vbdev.bdev import Bdev

__all__ = ["LoadError", "installed_modules", "modules_of"]

ENTRY_POINTS = "vbdev.modules"


class LoadError(Exception):
    """What is wrong with a file of modules."""


def installed_modules() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Yield (name, where it is, what loads it) of each entry point of the group."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        yield entry.name, entry.value, entry.load


def modules_of(path: str) -> list[type[Bdev]]:
    """Carry a Python file out, and return the modules that it defines, one at least."""
    file = Path(path)
    name = f"vbdev_module_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError("not a Python file (*.py)")
    python = importlib.util.module_from_spec(spec)
    sys.modules[name] = python  # msgspec and pickle look classes up by their module
    try:
        spec.loader.exec_module(python)
    except Exception as error:
        raise LoadError(f"{type(error).__name__}: {error}") from error
    found = [
        value
        for value in vars(python).values()
        if isinstance(value, type) and issubclass(value, Bdev) and value.__module__ == name
    ]
    if not found:
        raise LoadError("defines no subclass of Bdev or VirtualBdev")
    return found
