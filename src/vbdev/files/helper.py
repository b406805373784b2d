"""The processes in which calls about files are made, for `aside`.

The first one (`main`) is started once and has nothing open but the socket that is its standard
input. A message with another socket makes it fork, and the child makes the one call that is asked
for there. (Were a process started for each call instead, it would begin with all that its parent
has open, and hang as it closes that.) When its socket is closed, it ends.

All are SOCK_SEQPACKET; messages are tuples in `marshal`'s form, which no other Python has to
understand. To a child: (function, arguments, keywords), with descriptors. From it: ("began",), with
a descriptor of its process; any number of ("claim", key), each answered with (), and of
("warn", text); then one of ("value", value) with descriptors, ("refused", locked, errno, text),
("failed", errno, text). What it opens is closed by its end, which may hang like the call.
"""

from __future__ import annotations

import errno
import marshal
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, Final, NoReturn

from vbdev.files.opening import (
    FileError,
    FileLockedError,
    open_again,
    open_file,
    read_file,
    size_of,
    survey_file,
    unlock,
)

__all__ = ["MAX_FDS", "MESSAGE_BYTES", "main", "serve"]

MESSAGE_BYTES: Final = 1 << 17
MAX_FDS: Final = 2

Answer = tuple[Any, list[int]]


def main() -> None:
    """Fork for each socket that standard input brings, until that is closed."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whose end nobody waits for
    asked = socket.socket(fileno=0)
    while True:
        content, fds, _, _ = socket.recv_fds(asked, MESSAGE_BYTES, MAX_FDS)
        if not content:
            os._exit(0)
        for fd in fds:
            try:
                is_child = os.fork() == 0
            except OSError:  # whoever asked sees his socket closed
                is_child = False
            if is_child:
                os.dup2(1, asked.detach())
                serve(socket.socket(fileno=fd))
            os.close(fd)


def serve(link: socket.socket) -> NoReturn:
    """Make one call, and end the process."""
    try:
        process = [os.pidfd_open(os.getpid())]
    except OSError:  # before Linux 5.3: then it is not killed
        process = []
    socket.send_fds(link, [marshal.dumps(("began",))], process)
    content, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES, MAX_FDS)
    name, arguments, keywords = marshal.loads(content)  # noqa: S302 - this program's own
    answer: tuple[Any, ...]
    passed: list[int] = []
    try:
        value, passed = FUNCTIONS[name](link, *fds, *arguments, **keywords)
        answer = ("value", value)
    except FileError as error:
        answer = ("refused", isinstance(error, FileLockedError), error.errno, str(error))
    except OSError as error:
        answer = ("failed", error.errno or errno.EIO, error.strerror or str(error))
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        answer = ("failed", errno.EIO, repr(error))
    socket.send_fds(link, [marshal.dumps(answer)], passed)
    os._exit(0)


def _open(link: socket.socket, who: str, directory: str, filename: str, **params: Any) -> Answer:
    os.chdir(directory)

    def claim(key: tuple[str, int, int]) -> None:
        _tell(link, "claim", key)
        if not link.recv(MESSAGE_BYTES):  # it is somebody's, or was given up
            os._exit(1)

    def warn(text: str) -> None:
        _tell(link, "warn", text)

    geometry = open_file(who, filename, **params, claim=claim, warn=warn)
    return tuple(geometry), [geometry.fd, geometry.sync_fd]


def _survey(_link: socket.socket, who: str, directory: str, filename: str, **params: Any) -> Answer:
    os.chdir(directory)
    return tuple(survey_file(who, filename, **params)), []


def _read(_link: socket.socket, directory: str, filename: str, regular: bool) -> Answer:
    os.chdir(directory)
    found = read_file(filename, regular=regular)
    content = os.memfd_create("content", os.MFD_CLOEXEC)
    with os.fdopen(content, "wb", closefd=False) as file:
        file.write(found)
    return None, [content]


def _size(_link: socket.socket, fd: int, is_device: bool) -> Answer:
    return size_of(fd, is_device=is_device), []


def _sync(_link: socket.socket, fd: int) -> Answer:
    os.fdatasync(fd)
    return None, []


def _again(_link: socket.socket, fd: int) -> Answer:
    return None, [open_again(fd)]


def _release(_link: socket.socket, fd: int, locked: bool) -> Answer:
    """Give the lock back, and find out whether whoever closes the file is let go."""
    if locked:
        unlock(fd)
    os.close(fd)
    return None, []


def _tell(link: socket.socket, *message: Any) -> None:
    link.send(marshal.dumps(message))


FUNCTIONS: Final[dict[str, Callable[..., Answer]]] = {
    "open": _open,
    "survey": _survey,
    "read": _read,
    "size": _size,
    "sync": _sync,
    "again": _again,
    "release": _release,
}
