"""JSON texts out of a stream that has no framing, and their strict decoding.

JSON-RPC over a stream socket is JSON values one after the other, with or without white space
between them; only the values' own brackets say where one ends. `TextSplitter` follows brackets
and strings as bytes arrive, keeps its place between calls, and never goes back. It works token by
token: strings and the runs between them are each one step of a compiled pattern. A plain request
that is there as a whole is one step altogether.

A byte that no JSON text has in that place is refused at once, so that a client which speaks
something else is told so and does not wait for ever. What only grammar can refuse (`{,,}`) is
found when the text is whole, by `decode`.

Once refused, a stream has no place where one could start again (a bracket inside a string looks
like any other), so a splitter that has raised gives nothing more.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Final, NoReturn

__all__ = ["MAX_DEPTH", "DuplicateKey", "HugeNumber", "JsonError", "TextSplitter", "decode"]

MAX_DEPTH: Final = 64
"""Arrays and objects inside one another (SPDK: SPDK_JSON_MAX_NESTING_DEPTH)."""
MAX_NUMBER_CHARS: Final = 128
"""Longest number that is read. A longer one costs time quadratic in its length."""
MAX_EXPONENT: Final = 64
"""Beyond it a number with an exponent is not expanded to an integer."""

# No pattern needs possessive quantifiers or atomic groups, which Python has wrong before 3.11.5:
# whatever follows a repetition begins with what that does not take, so that going back is in vain
# at once, and never takes more than one look for each byte.
_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*', re.DOTALL)
"""The inside of a string, up to its closing quote or to what it may not contain."""
_PLAIN = re.compile(rb"[ \t\n\r,:0-9+\-.Eaeflnrstu]*")
"""What stands between brackets and strings: white space, separators, numbers, literals."""
_SCALAR = re.compile(rb"[0-9+\-.Eaeflnrstu]*")
_SCALAR_START = re.compile(rb"(?<![0-9+\-.Eaeflnrstu])[0-9+\-.Eaeflnrstu]")


def _items(*nested: bytes) -> bytes:
    """Return what stands inside brackets: plain text, strings, and what is bracketed itself."""
    text = rb'"' + _STRING.pattern + rb'"'
    special = rb"|".join([text, *nested])
    return _PLAIN.pattern + rb"(?:(?:" + special + rb")" + _PLAIN.pattern + rb")*"


_FLAT = _items()
_NEST = _items(rb"\{" + _FLAT + rb"\}", rb"\[" + _FLAT + rb"\]")
_DEEP = _items(rb"\{" + _NEST + rb"\}", rb"\[" + _NEST + rb"\]")
_SHALLOW = re.compile(rb"\{" + _DEEP + rb"\}", re.DOTALL)
"""A whole object with no more than two levels inside, as nearly all requests are."""
_WHOLE = re.compile(_DEEP, re.DOTALL)
"""What is whole inside an array or object, as deep as `_WHOLE_DEPTH` in it."""
_WHOLE_DEPTH: Final = 2
_STEP_BYTES: Final = 16 << 10
"""Looked at in one step: the places that it might go back to are kept until its end."""
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")

_QUOTE, _BACKSLASH = b'"\\'
_CLOSERS: Final = {ord("{"): ord("}"), ord("["): ord("]")}


class JsonError(Exception):
    """The peer sent what is no JSON, or more of it than the limits allow."""


class DuplicateKey:
    """Stands where an object named one key twice, so that no schema accepts it."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"duplicate key {self.key!r}"


class HugeNumber:
    """Stands where a number is longer than any parameter, or no float is near it; no schema has it.

    To the grammar it is a number as any other; it is the method that can not use it. An id it can
    be, which is given back as it was written.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text
        """As the peer wrote it."""

    def __repr__(self) -> str:
        return f"number {self.text[:16]}..."


class TextSplitter:
    """Bytes in, whole JSON texts out.

    Parameters
    ----------
    max_bytes: longest text, white space around it not counted.
    max_values: most values in a text, counted as SPDK counts them: each scalar and key is one,
        each array and object two. As many as `max_bytes`: not counted, which takes less time.

    """

    def __init__(self, max_bytes: int, max_values: int) -> None:
        self._max_bytes = max_bytes
        self._max_values = max_values
        self._counts = max_values < max_bytes  # else no text has too many
        self._buffer = bytearray()
        self._at = 0  # bytes of the buffer that have been looked at
        self._values = 0
        self._closers = bytearray()  # what must close, innermost last
        self._in_string = False
        self._failed = False

    @property
    def buffered_bytes(self) -> int:
        """How much has arrived and has not been given out, in bytes."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived. After a JsonError it is thrown away."""
        if not self._failed:
            self._buffer += data

    def next_text(self) -> bytes | None:
        """Return the next whole text, or None until more is fed. JsonError is final."""
        buffer = self._buffer
        if not self._at:  # between texts; the space there is dropped as it comes
            space = _SPACE.match(buffer)
            if space is not None and space.end():
                del buffer[: space.end()]
            # One step for what is whole already, and has no more bytes than it may have values.
            shallow = _SHALLOW.match(buffer, 0, self._max_values)
            if shallow is not None:
                self._at = shallow.end()
                return self._take(buffer)
        while self._at < len(buffer):
            if self._in_string:
                whole = self._scan_string(buffer)
            elif self._closers:
                whole = self._scan_inside(buffer)
            else:
                whole = self._scan_start(buffer)
            if self._values > self._max_values:
                self._fail(f"more than {self._max_values} values in one text")
            if whole:
                return self._take(buffer)
            if self._in_string and self._at == len(buffer) - 1 and buffer[-1] == _BACKSLASH:
                break  # what the backslash escapes is still to come
        if len(buffer) > self._max_bytes:
            self._fail(f"text longer than {self._max_bytes} bytes")
        return None

    def _take(self, buffer: bytearray) -> bytes:
        if self._at > self._max_bytes:
            self._fail(f"text longer than {self._max_bytes} bytes")
        text = bytes(buffer[: self._at])
        del buffer[: self._at]  # moves a pointer, not the bytes
        self._at = self._values = 0
        return text

    # Each step moves `_at` forward and returns whether the text is whole there.

    def _scan_start(self, buffer: bytearray) -> bool:
        """Begin a text, or go on with one that is a bare number or literal."""
        if self._at:
            return self._scan_bare(buffer)
        byte = buffer[0]
        if byte in _CLOSERS or byte == _QUOTE:
            self._open(byte)
            return False
        return self._scan_bare(buffer)

    def _scan_bare(self, buffer: bytearray) -> bool:
        # Only what follows ends a bare scalar, and only a delimiter may follow.
        start, self._at = self._at, _end(_SCALAR, buffer, self._at)
        if not self._at:
            self._fail(f"byte 0x{buffer[0]:02x} begins no JSON value")
        self._values = 1
        return self._at < min(len(buffer), start + _STEP_BYTES)

    def _scan_string(self, buffer: bytearray) -> bool:
        start, self._at = self._at, _end(_STRING, buffer, self._at)
        end = self._at
        if end == min(len(buffer), start + _STEP_BYTES):
            return False
        byte = buffer[end]
        if byte == _QUOTE:
            self._at += 1
            self._in_string = False
            return not self._closers
        if byte != _BACKSLASH:
            self._fail(f"control character 0x{byte:02x} inside a string")
        return False

    def _scan_inside(self, buffer: bytearray) -> bool:
        start = self._at
        if not self._counts and len(self._closers) + _WHOLE_DEPTH <= MAX_DEPTH:
            self._at = end = _end(_WHOLE, buffer, start)
        else:
            self._at = end = _end(_PLAIN, buffer, start)
        if self._counts and end > start:
            self._values += len(_SCALAR_START.findall(buffer, start, end))
        if end == min(len(buffer), start + _STEP_BYTES):
            return False
        byte = buffer[end]
        if byte in _CLOSERS or byte == _QUOTE:
            self._open(byte)
            return False
        if byte != self._closers[-1]:
            self._fail(f"byte 0x{byte:02x} where {chr(self._closers[-1])!r} must close")
        self._at += 1
        self._values += 1
        self._closers.pop()
        return not self._closers

    def _open(self, byte: int) -> None:
        self._at += 1
        self._values += 1
        if byte == _QUOTE:
            self._in_string = True
            return
        if len(self._closers) == MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        self._closers.append(_CLOSERS[byte])

    def _fail(self, reason: str) -> NoReturn:
        self._failed = True
        self._buffer.clear()
        self._at = 0
        raise JsonError(reason)


def decode(text: bytes) -> Any:
    """Return a JSON text's value. A number that is integral is an int, however it is written.

    An object with a key twice becomes a `DuplicateKey`, a number beyond all limits a `HugeNumber`:
    neither is anything that a parameter could be. JsonError: not JSON (RFC 8259), not UTF-8, or
    half a surrogate pair.
    """
    try:
        value = _DECODER.decode(text.decode())
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False, default=repr).encode()
    except (ValueError, RecursionError) as error:
        raise JsonError(str(error)) from error
    return value


def _end(pattern: re.Pattern[bytes], buffer: bytearray, start: int) -> int:
    match = pattern.match(buffer, start, start + _STEP_BYTES)
    assert match is not None
    return match.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | DuplicateKey:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return DuplicateKey(key)
        seen.add(key)
    raise AssertionError("fewer keys than pairs, and none is there twice")


def _integer(text: str) -> int | HugeNumber:
    return int(text) if len(text) <= MAX_NUMBER_CHARS else HugeNumber(text)


def _real(text: str) -> int | float | HugeNumber:
    if len(text) > MAX_NUMBER_CHARS:
        return HugeNumber(text)
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent or "0") - len(fraction)
    digits = whole + fraction
    if 0 <= shift <= MAX_EXPONENT:
        scale: int = 10**shift
        return int(digits) * scale  # exact, where a float would round above 2**53
    if -MAX_NUMBER_CHARS <= shift < 0 and not digits[shift:].strip("0"):
        kept = digits[:shift]
        return int(kept) if kept.strip("-") else 0
    value = float(text)
    fits = isfinite(value) and (value or not digits.strip("-0"))
    return value if fits else HugeNumber(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_real, parse_constant=_constant
)
