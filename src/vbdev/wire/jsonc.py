"""JSON with comments, and where everything in it stands: for files that people write.

`json` does not tell where a value began, and a configuration is refused by line and column. So the
brackets are walked here; scalars are decoded as those of a request are (`vbdev.wire.jsontext`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, NoReturn

from vbdev.wire.jsontext import MAX_DEPTH, JsonError, decode

__all__ = ["JsonObject", "JsoncError", "Place", "parse"]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*')
_WORD: Final = re.compile(r"[^\s,:\[\]{}\"/]+")


class JsoncError(Exception):
    """A text that is no JSON; `at` is where that shows, in characters from its start."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class JsonObject(dict[str, Any]):
    """A JSON object that knows where it stands, and where the value of each of its keys does."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at
        """Characters from the start of the text."""
        self.places: dict[str, int] = {}
        """The same, of each value."""


class Place:
    """Turns characters from a text's start into a line and a column, both from 1."""

    def __init__(self, text: str) -> None:
        self._ends = [found.start() for found in re.finditer("\n", text)]

    def line(self, at: int) -> int:
        """Return the line."""
        return bisect_left(self._ends, at) + 1

    def column(self, at: int) -> int:
        """Return the column, in characters."""
        line = self.line(at)
        return at - (self._ends[line - 2] if line > 1 else -1)


def parse(text: str) -> Any:
    """Return the value of a text, its objects as `JsonObject`. JsoncError where it has none."""
    return _Parser(text).document()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def document(self) -> Any:
        self._blank()
        value = self._value()
        self._blank()
        if self._at < len(self._text):
            self._fail("nothing may follow the value")
        return value

    def _fail(self, message: str, at: int | None = None) -> NoReturn:
        raise JsoncError(message, self._at if at is None else at)

    def _blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        if self._text.startswith("/*", self._at):
            self._fail("a comment that does not end")

    def _next(self) -> str:
        """Return the character that is next, "" at the end."""
        return self._text[self._at : self._at + 1]

    def _value(self) -> Any:
        first = self._next()
        if first == "{":
            return self._nested(self._object)
        if first == "[":
            return self._nested(self._array)
        return self._string() if first == '"' else self._scalar()

    def _nested(self, read: Callable[[], Any]) -> Any:
        if self._depth == MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        self._depth += 1
        value = read()
        self._depth -= 1
        return value

    def _object(self) -> JsonObject:
        value = JsonObject(self._at)
        self._enter()
        while self._next() != "}":
            at = self._at
            if self._next() != '"':
                self._fail(f"a key in double quotes is expected, not {self._shown()}")
            key = self._string()
            if key in value:
                self._fail(f"key {key!r} stands twice in one object", at)
            self._blank()
            if self._next() != ":":
                self._fail(f"':' is expected behind the key {key!r}, not {self._shown()}")
            self._enter()
            value.places[key] = self._at
            value[key] = self._value()
            self._separator("}")
        self._at += 1
        return value

    def _array(self) -> list[Any]:
        value: list[Any] = []
        self._enter()
        while self._next() != "]":
            value.append(self._value())
            self._separator("]")
        self._at += 1
        return value

    def _enter(self) -> None:
        """Step over one character, and what is blank behind it."""
        self._at += 1
        self._blank()

    def _separator(self, closer: str) -> None:
        self._blank()
        found = self._next()
        if found == closer:
            return
        if found != ",":
            self._fail(f"',' or {closer!r} is expected, not {self._shown()}")
        at = self._at
        self._enter()
        if self._next() == closer:
            self._fail(f"a comma with nothing between it and {closer!r}", at)

    def _string(self) -> str:
        found = _STRING.match(self._text, self._at)
        assert found is not None
        if not self._text.startswith('"', found.end()):
            self._fail("a string that does not end in its line")
        text: str = self._decoded(found.group() + '"')
        self._at = found.end() + 1
        return text

    def _scalar(self) -> Any:
        found = _WORD.match(self._text, self._at)
        if found is None:
            self._fail(f"a value is expected, not {self._shown()}")
        if not re.fullmatch(r"-?[0-9].*|true|false|null", found.group()):
            self._fail(f"{found.group()[:40]!r} is no value; text stands in double quotes")
        value = self._decoded(found.group())
        self._at = found.end()
        return value

    def _decoded(self, text: str) -> Any:
        try:
            return decode(text.encode())
        except (JsonError, UnicodeEncodeError) as error:
            self._fail(f"{text[:40]} is no JSON: {error}")

    def _shown(self) -> str:
        return repr(self._next()) if self._next() else "the end of the text"
