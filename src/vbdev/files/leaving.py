"""The end of a process that has files open whose mounts do not answer.

The kernel closes what a process leaves open, in the order of the descriptors, and may wait for a
server at each: what comes behind it, a socket say, stays open, and so does the process. Hence all
else is closed here first, and those files are left to another process (`core.leaving`).

What nobody can help: a thread that waits for the mount inside the kernel, for an I/O of a client.
Then the process stays, with nothing open but those files, until the mount answers or is taken away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from vbdev.core.base.leaving import share_descriptors
from vbdev.files.access import left_open, threads_in_calls
from vbdev.files.aside import give_up_all

__all__ = ["leave", "say_what_stays"]

log = logging.getLogger(__name__)


def say_what_stays() -> None:
    """Log which files are not closed at the end, and whether the kernel will keep the process."""
    if not (files := left_open()):
        return
    names = ", ".join(sorted(set(files.values())))
    log.warning("not closed, because what they are on does not answer: %s", names)
    if number := len(threads_in_calls):
        log.error(
            "the kernel does not end process %d as long as %d of its threads wait for: %s; it goes"
            " when that answers, or its mount is aborted (umount -f; of FUSE: write 1 to"
            " /sys/fs/fuse/connections/*/abort)",
            os.getpid(),
            number,
            names,
        )


def leave(status: int) -> None:
    """End the process at once where files stay open whose closing may hang; else return.

    After the orderly stop, or instead of it: whatever else is open is closed, buffers of Python's
    standard streams are written.
    """
    files = left_open()
    if not files:
        return
    give_up_all()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    first = 3
    for fd in [*sorted(files), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(first, fd)
        first = fd + 1
    share_descriptors()
    os._exit(status)
