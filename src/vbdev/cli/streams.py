"""The standard streams of a process, whatever state it was started in.

Whoever starts a command may have closed its standard descriptors, or connected them with a full
disk, a pipe that nobody reads or will ever read, a terminal that has gone, an encoding that has no
place for a name. For each of them there is one rule:

- A descriptor below 3 is never another file's: what was closed is opened on /dev/null the wrong way
  round, so that using it goes on being an error (as glibc does for set-user-ID programs).
- What can not be encoded is escaped.
- stdout is what a command was called for: where it can not be written the command fails, in words.
- stderr is talk: what can not be written is lost, and nothing fails for it.
- A daemon waits for neither (`never_wait`), and nothing of it fails for either.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["OutputError", "hold_standard_descriptors", "never_wait", "open_standard_streams"]

log = logging.getLogger(__name__)

WAIT_MS: Final = 100
"""How long a daemon waits for whoever reads what it prints, in ms."""
PIECE_BYTES: Final = 4096
"""Written at a time: there is room for it in whatever can be written to (pipe(7), PIPE_BUF)."""


class OutputError(Exception):
    """What a command was to print can not be written; `errno` says why."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.errno = error.errno or errno.EIO


class _Stream(io.RawIOBase):
    """A descriptor that is written whole or not at all."""

    def __init__(self, descriptor: int, *, may_fail: bool) -> None:
        self._descriptor = descriptor
        self.may_fail = may_fail
        self.wait_ms: int | None = None
        self._is_lost = False

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        view = memoryview(data).cast("B")
        if self._is_lost:
            return len(view)
        try:
            written = 0
            while written < len(view):
                written += self._write_some(view[written : written + PIECE_BYTES])
        except OSError as error:
            self._lose(error)
        return len(view)

    def _write_some(self, piece: memoryview) -> int:
        if self.wait_ms is not None and not self._is_ready(self.wait_ms):
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
        while True:
            try:
                return os.write(self._descriptor, piece)
            except BlockingIOError:  # somebody else has made it so
                if not self._is_ready(self.wait_ms):
                    raise

    def _is_ready(self, wait_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(wait_ms))

    def _lose(self, error: OSError) -> None:
        if not self.may_fail:
            return
        if self.wait_ms is None:
            self._is_lost = True  # Python writes the rest at its end, and would complain again
            raise OutputError(error) from error
        log.warning("standard output can not be written: %s", error.strerror)


def hold_standard_descriptors() -> None:
    """Let no file or socket have a number below 3. Idempotent."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            os.set_inheritable(descriptor, True)


def open_standard_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` what the rules say, unless they are somebody's own."""
    hold_standard_descriptors()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _text(sys.stdout, _Stream(1, may_fail=True), line_buffering=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(sys.stderr, _Stream(2, may_fail=False), line_buffering=True)


def never_wait() -> None:
    """Let nobody who does not read what this process prints stop it: it is a daemon."""
    for stream in (sys.stdout, sys.stderr):
        raw = getattr(stream, "buffer", None)
        raw = getattr(raw, "raw", raw)
        if isinstance(raw, _Stream):
            raw.wait_ms = WAIT_MS


def _text(before: TextIO | None, raw: _Stream, *, line_buffering: bool) -> TextIO:
    encoding = "utf-8" if before is None else before.encoding
    if before is not None:
        before.flush()
    line_buffering = line_buffering or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
        write_through=os.environ.get("PYTHONUNBUFFERED", "") != "",
    )
