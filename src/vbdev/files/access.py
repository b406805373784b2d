"""Which file is whose here, and the calls about files that may hang.

Each function returns a `Call`, to be run on a thread (`vbdev.reactor.blocking`). About a file on a
mount or a disk that may hang (`mounts`) the call is made in a process of its own (`aside`); about
any other one, which is the rule, on that thread.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from vbdev.files.aside import Aside
from vbdev.files.mounts import may_hang
from vbdev.files.opening import (
    FileError,
    FileGeometry,
    FileKey,
    FileSurvey,
    close_descriptors,
    open_again,
    open_file,
    read_file,
    size_of,
    survey_file,
    unlock,
)

__all__ = [
    "Call",
    "asking_size",
    "closing",
    "closing_copy",
    "left_open",
    "opening",
    "opening_again",
    "reading",
    "surveying",
    "syncing",
    "threads_in_calls",
]

T = TypeVar("T")

log = logging.getLogger(__name__)

_lock = threading.Lock()  # over the next two; nothing blocks under it
_open_files: dict[FileKey, str] = {}
"""Which bdev has which file: the lock on it says that it is taken, this says by whom."""
_left: dict[int, str] = {}
"""Descriptors whose closing may hang, and what they are for."""

threads_in_calls: Final[set[object]] = set()
"""Threads that do I/O on files that may hang, each while it waits for the kernel."""


class Call(NamedTuple, Generic[T]):
    """run: blocks, and returns. give_up: from another thread, when nobody waits for it any more."""

    run: Callable[[], T]
    give_up: Callable[[], object] = lambda: None


def opening(who: str, filename: str, **params: Any) -> Call[FileGeometry]:
    """See `opening.open_file`; EBUSY names the bdev that has the file already."""
    cell: list[Aside] = []
    given_up = threading.Event()
    claimed: list[FileKey] = []

    def claim(key: FileKey) -> None:
        with _lock:
            if key in _open_files:
                raise FileError(
                    errno.EBUSY, f"{who}: {filename}: in use already, by {_open_files[key]}"
                )
            _open_files[key] = who
        claimed.append(key)

    def work() -> FileGeometry:
        if not _is_for_aside(filename):
            return open_file(who, filename, **params, claim=claim, warn=log.warning)
        aside = Aside("open", who, _directory(filename), filename, **params)
        cell.append(aside)
        if given_up.is_set():
            aside.give_up()
        try:
            value, (fd, sync_fd) = aside.run(claim, log.warning)
        except OSError as error:
            number = error.errno or errno.EIO
            raise FileError(number, f"{who}: {filename}: {error.strerror or error}") from error
        geometry = FileGeometry(*value)._replace(fd=fd, sync_fd=sync_fd, may_hang=True)
        with _lock:
            _left[fd] = _left[sync_fd] = f"{who}: {filename}"
        return geometry

    def run() -> FileGeometry:
        try:
            return work()
        except BaseException:
            for key in claimed:
                _forget(key)
            raise

    def give_up() -> None:
        given_up.set()
        for aside in cell:
            aside.give_up()

    return Call(run, give_up)


def surveying(who: str, filename: str, **params: Any) -> Call[FileSurvey]:
    """See `opening.survey_file`."""

    def run() -> FileSurvey:
        if not _is_for_aside(filename):
            return survey_file(who, filename, **params)
        return FileSurvey(*Aside("survey", who, _directory(filename), filename, **params).run()[0])

    return Call(run)


def reading(filename: str, *, regular: bool) -> Call[bytes]:
    """Return what is in a file; with `regular` FileNotFoundError for one that is none."""
    cell: list[Aside] = []

    def run() -> bytes:
        if not _is_for_aside(filename):
            return read_file(filename, regular=regular)
        cell.append(Aside("read", _directory(filename), filename, regular))
        _, (content,) = cell[0].run()
        with os.fdopen(content, "rb") as file:
            file.seek(0)
            return file.read()

    def give_up() -> None:
        for aside in cell:
            aside.give_up()

    return Call(run, give_up)


def closing(geometry: FileGeometry) -> Call[None]:
    """Unlock and close a file. What it holds is not synced by that.

    Until the call returns nobody else here can open the file. One that may hang is closed once its
    server has answered another process that did so; what has no answer stays open.
    """

    def end() -> None:
        close_descriptors(geometry)
        with _lock:
            for fd in (geometry.fd, geometry.sync_fd):
                _left.pop(fd, None)
        _forget(geometry.key)

    if geometry.may_hang:
        return _release(geometry.fd, end, locked=True)

    def run() -> None:
        unlock(geometry.fd)
        end()

    return Call(run)


def closing_copy(fd: int, geometry: FileGeometry) -> Call[None]:
    """Close what `opening_again` returned."""

    def end() -> None:
        os.close(fd)
        with _lock:
            _left.pop(fd, None)

    return _release(fd, end, locked=False) if geometry.may_hang else Call(end)


def left_open() -> dict[int, str]:
    """Return descriptors that are open and whose closing may hang, and what each is for."""
    with _lock:
        return dict(_left)


def _release(fd: int, end: Callable[[], None], *, locked: bool) -> Call[None]:
    # Never broken off: a process that was killed before it had the file says nothing of the server.
    aside = Aside("release", locked, fds=[fd], goes_on=True)

    def run() -> None:
        try:
            aside.run()
        except OSError as error:
            if error.errno in (errno.ECANCELED, errno.ECHILD):  # no answer: it stays open
                raise
            log.debug("closing a file: %s", error)
        end()

    return Call(run, aside.give_up)


def asking_size(geometry: FileGeometry) -> Call[int]:
    """Return how many bytes the file has now. It may be closed meanwhile."""
    if geometry.may_hang:
        aside = Aside("size", geometry.is_device, fds=[geometry.fd])
        return Call(lambda: int(aside.run()[0]), aside.give_up)
    return _with_copy(geometry.fd, lambda fd: size_of(fd, is_device=geometry.is_device))


def syncing(geometry: FileGeometry) -> Call[None]:
    """Make stable what has been written (fdatasync).

    Where that happens in another process it is never broken off, not by this one's end either.
    """
    if geometry.may_hang:
        aside = Aside("sync", fds=[geometry.sync_fd], goes_on=True)
        return Call(lambda: _nothing(aside.run()), aside.give_up)
    return Call(lambda: os.fdatasync(geometry.sync_fd))


def opening_again(geometry: FileGeometry) -> Call[int]:
    """Open the same file once more, see `opening.open_again`. It may be closed meanwhile."""
    if geometry.may_hang:
        aside = Aside("again", fds=[geometry.fd])

        def ask() -> int:
            ((fd,)) = aside.run()[1]
            with _lock:
                _left[fd] = _left.get(geometry.fd, "a file")
            return fd

        return Call(ask, aside.give_up)
    return _with_copy(geometry.fd, open_again)


def _with_copy(fd: int, function: Callable[[int], T]) -> Call[T]:
    held = [os.dup(fd)]  # whoever pops it has it

    def run() -> T:
        copy = held.pop()
        try:
            return function(copy)
        finally:
            os.close(copy)

    def give_up() -> None:
        while held:  # no thread has begun with it
            os.close(held.pop())

    return Call(run, give_up)


def _nothing(_value: object) -> None:
    """Return nothing."""


def _forget(key: FileKey) -> None:
    with _lock:
        _open_files.pop(key, None)


def _directory(filename: str) -> str:
    """Return what a path is relative to."""
    return "/" if filename.startswith("/") else os.getcwd()  # noqa: PTH109


def _is_for_aside(filename: str) -> bool:
    # In a program that is not Python's own, what would be started is that program.
    is_python = os.path.basename(sys.executable or "").startswith("python")  # noqa: PTH119
    return is_python and may_hang(filename)
