"""File descriptors, of which a process has only so many, and who may have the last of them.

The kernel gives out the lowest number that is free (open(2)). So whoever closes at once what has
one of the topmost numbers leaves these to others, whatever else is open: no count is kept, and none
can be wrong. Clients of the data plane are held to it. The control plane, and what it opens, is
not: there is always a descriptor to ask what is going on and to put it right.
"""

from __future__ import annotations

import contextlib
import resource
from typing import Final

__all__ = ["CONTROL_RESERVE", "first_reserved", "raise_fd_limit"]

CONTROL_RESERVE: Final = 128
"""Descriptors that clients of the data plane do not get: for the control plane's own clients, and
as many for the files and sockets that these ask for. Where there are few it is a quarter of all."""


def raise_fd_limit() -> None:
    """Let this process have as many descriptors as it may (RLIMIT_NOFILE, soft to hard).

    The soft limit is for programs that use select(2), which is none of ours.
    """
    with contextlib.suppress(OSError, ValueError):  # infinite, which no kernel grants; a sandbox
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def first_reserved(reserve: int) -> int:
    """Return the first of the numbers that are kept back; the limit may change at any time."""
    try:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a sandbox does not tell
        soft = resource.RLIM_INFINITY
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 30
    return soft - min(reserve, soft // 4)
