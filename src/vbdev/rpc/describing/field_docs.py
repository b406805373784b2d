"""Docstrings of attributes: the string below a field says what it is. Python keeps none of them.

They are read from the source that a class was loaded from, so a module that came from a file by
itself has them too. Where there is no source there are no descriptions, and nothing fails.
"""

from __future__ import annotations

import ast
import inspect
import sys
import tokenize
from collections.abc import Callable

__all__ = ["FieldDocs"]


class FieldDocs:
    """Finds descriptions, and reads each source once. Meant for one document, then thrown away."""

    def __init__(self) -> None:
        self._modules: dict[str, dict[str, dict[str, str]]] = {}

    def of(self, cls: type) -> dict[str, str]:
        """Return {field: description}, inherited ones included, each in one paragraph."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            found |= self._module(base.__module__).get(base.__qualname__, {})
        return found

    def _module(self, name: str) -> dict[str, dict[str, str]]:
        if name not in self._modules:
            self._modules[name] = _read(name)
        return self._modules[name]


def _read(name: str) -> dict[str, dict[str, str]]:
    """Return {class: {field: description}} of a module; nothing where it has no source."""
    try:
        source = _source(name)
        return _classes(ast.parse(source), "") if source else {}
    except (OSError, ImportError, SyntaxError, UnicodeError, ValueError):
        return {}  # it has gone, or is being edited


def _source(name: str) -> str | None:
    spec = getattr(sys.modules.get(name), "__spec__", None)
    get_source: Callable[[str], str | None] | None = getattr(
        getattr(spec, "loader", None), "get_source", None
    )
    if get_source is not None:
        return get_source(name)
    # A loader need not tell, as that of pytest does not, by which plugins and all beside them come.
    if spec is None or not spec.has_location or not str(spec.origin).endswith(".py"):
        return None
    with tokenize.open(spec.origin) as file:
        return file.read()


def _classes(node: ast.AST, prefix: str) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            name = prefix + child.name
            found[name] = _fields(child)
            found |= _classes(child, f"{name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= _classes(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.If | ast.Try | ast.With):
            found |= _classes(child, prefix)
    return found


def _fields(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[statement.target.id] = " ".join(inspect.cleandoc(below.value.value).split())
    return found
