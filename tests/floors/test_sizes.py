"""Sizes: a room that one person can hold in mind, or one that says why it is larger.

A file of more than `MAX_FILE` lines says "One room:" and why in its docstring (what Cython includes
in its first comment); a function of more than `MAX_FUNCTION` says "One piece:" in its own. What is
generated is nobody's to read.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src/vbdev"
MAX_FILE = 500
MAX_FUNCTION = 60
FILES = sorted(
    path
    for suffix in ("py", "pyx", "pxd")
    for path in ROOT.rglob(f"*.{suffix}")
    if "generated" not in path.parts
)
START = re.compile(r"^( *)(?:async )?(?:def|cdef|cpdef)\b(?! class| extern| enum)[^#\n]*\(")


def head(text):
    """Return the docstring, or the comment, that a file begins with."""
    found = re.match(r'"""(.*?)"""|((?:#[^\n]*\n)+)', text, re.DOTALL)
    return found[0] if found else ""


def functions(text):
    """Yield (name, lines, text) of each function, by indentation: of Python and of Cython."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        found = START.match(lines[number])
        if not found:
            number += 1
            continue
        indent, first = len(found[1]), number
        signature = lines[number].count("(") - lines[number].count(")")
        while signature > 0:
            number += 1
            signature += lines[number].count("(") - lines[number].count(")")
        if not lines[number].rstrip().endswith(":"):  # declared, or on one line
            number += 1
            continue
        last = number
        number += 1
        while number < len(lines) and (
            not lines[number].strip() or len(lines[number]) - len(lines[number].lstrip()) > indent
        ):
            if lines[number].strip():
                last = number
            number += 1
        name = lines[first].split("(")[0].split()[-1]
        yield name, last - first + 1, "\n".join(lines[first : last + 1])


def test_it_looks_at_all_there_is():
    assert len(FILES) > 250
    names = {path.suffix for path in FILES}
    assert names == {".py", ".pyx", ".pxd"}
    seen = sum(1 for path in FILES for _ in functions(path.read_text()))
    assert seen > 2500


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_large_room_says_why(path):
    text = path.read_text()
    if text.count("\n") > MAX_FILE:
        assert "One room:" in head(text), f"{text.count(chr(10))} lines"
    for name, length, body in functions(text):
        if length > MAX_FUNCTION:
            assert "One piece:" in body, f"{name} has {length} lines"
