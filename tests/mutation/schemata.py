"""A source tree that holds many mutants at once: VBDEV_MUTANT in the environment says which lives.

Each statement that was chosen stands in it several times, behind a comparison of one global that is
read when its module is imported; 0, or nothing, is the code as it is.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.sites import Site, find_sites

VARIABLE = "VBDEV_MUTANT"
_C_READS = f"""\
from libc.stdlib cimport atoi as _mutant_atoi, getenv as _mutant_getenv
cdef int _mutant = (
    _mutant_atoi(_mutant_getenv("{VARIABLE}")) if _mutant_getenv("{VARIABLE}") != NULL else 0
)
"""
_PYTHON_READS = f"""\
import os as _mutant_os
_mutant = int(_mutant_os.environ.get("{VARIABLE}") or 0)
"""


@dataclass(frozen=True)
class Mutant:
    """One change: `number` is what the environment variable says; file: below the source tree."""

    number: int
    file: str
    line: int
    before: str
    after: str

    def diff(self) -> str:
        """Return the change as a person reads it."""
        return f"{self.file}:{self.line}\n  - {self.before}\n  + {self.after}"

    def as_dict(self) -> dict[str, object]:
        """Return its fields, for JSON."""
        return asdict(self)


def candidates(root: Path, files: Iterable[str]) -> list[tuple[str, Site, int]]:
    """Return all that can be changed: file, site, and which of the site's mutants."""
    return [
        (file, site, which)
        for file in files
        for site in find_sites((root / file).read_text())
        for which in range(len(site.mutants))
    ]


def choose(
    found: list[tuple[str, Site, int]], number: int, seed: int
) -> list[tuple[str, Site, int]]:
    """Return so many of them, the same for the same seed; 0: all."""
    if not number or number >= len(found):
        return found
    chosen = random.Random(seed).sample(range(len(found)), number)
    return [found[one] for one in sorted(chosen)]


def write_tree(
    root: Path, target: Path, chosen: list[tuple[str, Site, int]], *, first: int = 1
) -> list[Mutant]:
    """Copy what a build needs from `root` to `target`, with the chosen mutants in it."""
    for name in ("src", "meson.build", "pyproject.toml", "README.md", "LICENSE"):
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target / name)
    mutants: list[Mutant] = []
    by_file: dict[str, dict[Site, list[int]]] = {}
    for file, site, which in chosen:
        by_file.setdefault(file, {}).setdefault(site, []).append(which)
    for file, sites in by_file.items():
        lines = (root / file).read_text().splitlines(keepends=True)
        for site in sorted(sites, key=lambda site: site.first, reverse=True):
            numbered = []
            for which in sites[site]:
                number = first + len(mutants)
                after = site.mutants[which]
                mutants.append(Mutant(number, file, site.first, _shown(site, site.text),
                                      _shown(site, after)))  # fmt: skip
                numbered.append((number, after))
            is_cython = file.endswith(".pyx")
            lines[site.first - 1 : site.last] = [written(site, numbered, is_cython=is_cython)]
        reads = _PYTHON_READS if file.endswith(".py") else _C_READS
        text = "".join(lines)
        at = insertion(text)
        (target / file).write_text(text[:at] + reads + text[at:])
    return sorted(mutants, key=lambda mutant: mutant.number)


def written(site: Site, mutants: list[tuple[int, str]], *, is_cython: bool = False) -> str:
    """Return a statement that does what the chosen mutant does, or what it has always done."""
    if site.kind != "statement":
        # Both branches of a choice have one type in C; a condition's is a truth.
        cast = "<bint>" if is_cython and site.kind == "condition" else ""
        choice = f"{cast}({site.text})"
        for number, after in mutants:
            choice = f"({cast}({after}) if _mutant == {number} else {choice})"
        ending = ":" if site.kind == "condition" else ""
        space = " " if site.kind == "condition" else ""
        return f"{site.indent}{site.head}{space}{choice}{ending}\n"
    indent, parts = site.indent, []
    for place, (number, after) in enumerate(mutants):
        word = "elif" if place else "if"
        parts.append(f"{indent}{word} _mutant == {number}:\n{indent}    {after}\n")
    parts.append(f"{indent}else:\n{indent}    {site.text}\n")
    return "".join(parts)


def _shown(site: Site, text: str) -> str:
    head = f"{site.head} " if site.kind == "condition" else site.head
    return " ".join(f"{head}{text}".split())


def insertion(text: str) -> int:
    """Return where a module's own code may begin: behind its docstring and `__future__`."""
    at = 0
    if head := re.match(r'(\s*#[^\n]*\n|\s*\n)*(?:"""(?:[^"]|"(?!""))*"""\s*\n)?', text):
        at = head.end()
    if future := re.compile(r"(?:\s*from __future__ import [^\n]*\n)+").match(text, at):
        at = future.end()
    return at
