"""Where a source can be changed by one small mistake: statements, and what stands for each.

Python's tokenizer reads Cython well enough. Only statements inside functions count; of compound
statements only the conditions of `if`, `elif` and `while`. A statement that can not stand in a
branch of its own (a `cdef`, a docstring, an import) is left alone, but for what a `cdef` assigns.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

SWAPS = {
    "==": "!=",
    "!=": "==",
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "+": "-",
    "-": "+",
    "+=": "-=",
    "-=": "+=",
    "|": "&",
    "&": "|",
    "|=": "&=",
    "&=": "|=",
    "<<": ">>",
    ">>": "<<",
    "and": "or",
    "or": "and",
    "True": "False",
    "False": "True",
    "break": "continue",
    "continue": "break",
}
ALONE = {"True", "False", "break", "continue"}
"""Of these there is nothing to the left."""
LEFT_ALONE = {
    "cdef", "cpdef", "def", "async", "import", "from", "cimport", "global", "nonlocal", "pass",
    "class", "assert", "raise", "try", "except", "finally", "else", "with", "for", "ctypedef",
    "cppclass", "extern", "lambda", "yield", "del", "match", "case", "type",
}  # fmt: skip
CONDITIONS = {"if", "elif", "while"}
_FUNCTION = re.compile(r"(async\s+)?(def|cdef|cpdef)\b.*\)[^()]*:\s*$", re.DOTALL)
_CDEF_VALUE = re.compile(r"(cdef\s+[^=(]*?[\w\]] ?=\s*)(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Site:
    """One statement of a file: `lines` (from 1, both included), and what it may become.

    kind: "statement", "condition" (only what is between the keyword and the colon), "value" (only
    what a `cdef` assigns).
    """

    first: int
    last: int
    indent: str
    kind: str
    head: str
    text: str
    mutants: tuple[str, ...]


def find_sites(source: str) -> Iterator[Site]:
    """Yield the sites of a source, in their order."""
    lines = source.splitlines(keepends=True)
    functions: list[int] = []
    for first, last in _statements(source):
        text = "".join(lines[first - 1 : last])
        stripped = text.strip()
        indent = text[: len(text) - len(text.lstrip(" "))]
        functions = [depth for depth in functions if depth < len(indent)]
        if functions:
            site = _site(first, last, indent, stripped)
            if site is not None and site.mutants:
                yield site
        if _FUNCTION.match(stripped):
            functions.append(len(indent))
        elif stripped.startswith(("class ", "cdef class", "cdef struct", "cdef enum")):
            functions = []


def _statements(source: str) -> Iterator[tuple[int, int]]:
    """Yield the first and last line of each logical line."""
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue
        first = first or token.start[0]
        if token.type == tokenize.NEWLINE:
            yield first, token.start[0]
            first = 0


def _site(first: int, last: int, indent: str, text: str) -> Site | None:
    if '"""' in text or "\\\n" in text:
        return None
    words = text.split(None, 1)
    word = re.match(r"\w+", text)
    keyword_ = word[0] if word else ""
    if keyword_ in CONDITIONS:
        end = _colon(text)
        if end is None or text[end + 1 :].strip().lstrip("#"):
            code = text[end + 1 :].strip() if end is not None else "x"
            if not code.startswith("#"):
                return None  # a suite on the same line
        condition = text[len(keyword_) : end].strip()
        if ":=" in condition:
            return None
        made = [f"not ({condition})", *changed(condition)]
        return Site(first, last, indent, "condition", keyword_, condition, tuple(made))
    if keyword_ == "cdef":
        value = _CDEF_VALUE.match(_without_comment(text))
        if value is None or "," in _outside(value[2]):
            return None
        return Site(
            first,
            last,
            indent,
            "value",
            value[1],
            value[2].strip(),
            tuple(changed(value[2].strip())),
        )
    if not words or keyword_ in LEFT_ALONE or text[0] in "@\"'" or text.endswith(":"):
        return None
    code = _without_comment(text)
    if ";" in code or "yield" in code or ":=" in code:
        return None
    made = list(changed(code))
    if keyword_ not in ("return", "break", "continue") and not _declares(code):
        made.append("pass")
    return Site(first, last, indent, "statement", "", code, tuple(made))


def _declares(code: str) -> bool:
    """Say whether a statement is the annotation of a name."""
    return re.match(r"[\w.]+\s*:", code) is not None


def changed(code: str) -> Iterator[str]:
    """Yield a piece of code with one thing in it changed, each thing once."""
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(f"({code})").readline)
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
    ]
    casts = _casts(tokens)
    offsets = [0]
    for line in f"({code})".splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))

    def put(token: tokenize.TokenInfo, text: str) -> str:
        start = offsets[token.start[0] - 1] + token.start[1] - 1
        end = offsets[token.end[0] - 1] + token.end[1] - 1
        return code[:start] + text + code[end:]

    for number, token in enumerate(tokens):
        before = tokens[number - 1] if number else None
        if number in casts:
            continue
        if token.type == tokenize.NUMBER and re.fullmatch(r"\d+", token.string):
            yield put(token, str(int(token.string) + 1))
        elif token.string == "not" and _next(tokens, number) != "in" and not _is(before, "is"):
            yield put(token, "")
        elif token.string in SWAPS and (token.string in ALONE or _is_operand(before)):
            yield put(token, SWAPS[token.string])


def _next(tokens: list[tokenize.TokenInfo], number: int) -> str:
    return tokens[number + 1].string if number + 1 < len(tokens) else ""


def _is(token: tokenize.TokenInfo | None, text: str) -> bool:
    return token is not None and token.string == text


def _is_operand(token: tokenize.TokenInfo | None) -> bool:
    """Say whether an operator behind a token has something to its left."""
    if token is None:
        return False
    if token.type == tokenize.NAME:
        return not keyword.iskeyword(token.string) or token.string in ("None", "True", "False")
    return token.type in (tokenize.NUMBER, tokenize.STRING) or token.string in (")", "]", "}")


def _casts(tokens: list[tokenize.TokenInfo]) -> set[int]:
    """Return the positions of all that belongs to casts of Cython, `<type *>`."""
    found: set[int] = set()
    for number, token in enumerate(tokens):
        if token.string != "<" or number in found or _is_operand(tokens[number - 1]):
            continue
        for end in range(number, len(tokens)):
            found.add(end)
            if tokens[end].string == ">":
                break
    return found


def _colon(text: str) -> int | None:
    """Return where the colon that ends a condition is."""
    depth = 0
    offsets = [0]
    for line in text.splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.string in "([{" and token.type == tokenize.OP:
                depth += 1
            elif token.string in ")]}" and token.type == tokenize.OP:
                depth -= 1
            elif token.string == ":" and not depth:
                return offsets[token.start[0] - 1] + token.start[1]
    except (tokenize.TokenError, IndentationError):
        pass
    return None


def _without_comment(text: str) -> str:
    """Return a statement without a comment at its end."""
    lines = text.splitlines(keepends=True)
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, IndentationError):
        return text
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    for token in reversed(comments):
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column].rstrip() + ("\n" if line.endswith("\n") else "")
    return "".join(lines).strip()


def _outside(code: str) -> str:
    """Return what of a piece of code is outside all brackets."""
    kept, depth = [], 0
    for char in code:
        depth += char in "([{"
        if not depth:
            kept.append(char)
        depth -= char in ")]}"
    return "".join(kept)
