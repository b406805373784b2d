"""Sizes as people write and read them."""

from __future__ import annotations

import re

__all__ = ["parse_size", "show_size"]

_SIZE = re.compile(r"(\d+)\s*(?:([KMGTPE])(i?)B?|B)?", re.IGNORECASE)
_UNITS = "KMGTPE"


def parse_size(text: str) -> int:
    """Return bytes: `64MiB`, `64M` (both 1024-based), `1TB` (1000-based), `4096`. ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size; write 4096, 64KiB, 64M or 1TiB")
    number, unit, binary = found.groups()
    if not unit:
        return int(number)
    decimal = not binary and text.strip()[-1] in "bB"
    base = 1000 if decimal else 1024
    return int(number) * int(base ** (_UNITS.index(unit.upper()) + 1))


def show_size(size_bytes: int) -> str:
    """Return a size for a person: `64 MiB`, `1.5 GiB`, `1000 B`."""
    size, unit = float(size_bytes), "B"
    for prefix in _UNITS:
        if size < 1024:
            break
        size, unit = size / 1024, f"{prefix}iB"
    return f"{size:.4g} {unit}"
