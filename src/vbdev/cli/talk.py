"""What commands say on stderr: one line each, whatever others have put into it."""

from __future__ import annotations

import sys

from vbdev.vocab.text import printable

__all__ = ["complain"]


def complain(who: str, what: object) -> None:
    """Print `who: what` on stderr; what is not for a terminal is escaped."""
    print(f"{who}: {printable(str(what))}", file=sys.stderr, flush=True)
