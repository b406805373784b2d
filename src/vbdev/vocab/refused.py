"""System calls that are refused, in words: which one, and why.

A limit (EMFILE, ENOSPC of epoll's watches, RLIMIT_AS) or a sandbox (ENOSYS, EPERM) says no to what
a daemon can not do without. Whoever started it is to read which it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

__all__ = ["naming", "reason"]


@contextlib.contextmanager
def naming(call: str) -> Iterator[None]:
    """Have an OSError from within name the system call: OSError(errno, "eventfd: Too many...")."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise OSError(number, f"{call}: {os.strerror(number)}") from error


def reason(error: OSError | MemoryError) -> str:
    """Return in one line why something could not be had."""
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text
