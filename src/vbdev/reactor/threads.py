"""Threads whose names the kernel knows, so that `top -H`, `ps -L` and profilers show who is who.

Python keeps a thread's name to itself (before 3.14), and a new thread has the name of the one that
started it.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

__all__ = ["NamedThread", "name_of_this_thread", "name_this_thread"]

COMM: Final = Path("/proc/thread-self/comm")
MAX_BYTES: Final = 15
"""Of a thread's name (prctl(2), PR_SET_NAME); the rest is cut off."""


def name_of_this_thread() -> str:
    """Return what the kernel calls the calling thread; an empty string where it does not tell."""
    with contextlib.suppress(OSError):
        return COMM.read_bytes().rstrip(b"\n").decode(errors="replace")
    return ""


def name_this_thread(name: str) -> None:
    """Tell the kernel what to call the calling thread; where it can not be told, that is all."""
    with contextlib.suppress(OSError):
        COMM.write_bytes(name.encode(errors="replace")[:MAX_BYTES])


class NamedThread(threading.Thread):
    """A thread that the kernel knows by the name that it has in Python."""

    def run(self) -> None:
        """Run the target."""
        name_this_thread(self.name)
        super().run()
