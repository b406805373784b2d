"""Text of others, made fit for a line: of a table, of the log, of an error message.

Names are anybody's: SPDK takes whatever JSON can carry, and a file's name is whatever bytes it
has. On a terminal an ESC or an order of writing from right to left changes what the lines around it
say, and a newline makes lines that nobody wrote. JSON needs none of this: it has escapes of its
own, and stays exact.
"""

from __future__ import annotations

from typing import Final

__all__ = ["is_utf8", "printable", "printable_lines"]

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    r"""Return text in which whatever does not show as itself is escaped, as in Python's literals.

    That is what `str.isprintable` says: control characters (C0, C1, DEL), separators of lines,
    formats (orders of writing, what has no width), halves of surrogate pairs, and with them the
    bytes of file names that are not UTF-8. Costs next to nothing where there is nothing of it.

    >>> printable("größe\x1b[2J\n\udcff")
    'größe\\x1b[2J\\n\\xff'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def printable_lines(text: str) -> str:
    """Return text of several lines, each of which is `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def is_utf8(text: str) -> bool:
    """Say whether text can be rendered at all: without bytes that Python keeps as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(one: str) -> str:
    code = ord(one)
    if one in _SHORT:
        return _SHORT[one]
    if 0xDC80 <= code <= 0xDCFF:  # a byte, as os.fsdecode has it
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
