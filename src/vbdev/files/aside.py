"""A call about a file in a process of its own: what the kernel does not let go is not ours.

A thread that waits in the kernel for a dead server often can not be ended, not even by SIGKILL, and
a process ends only when all its threads do. So calls that may hang on such a mount are made by a
process that is forked for each (`helper`), off one that is started for the first of them.
Descriptors go there and come back as messages. Those processes have none of this one's descriptors,
are in a session of their own, and write nowhere. One that hangs when this process ends belongs to
init.

Progress: `run` returns when the call does, or when its process has ended. `give_up` kills that, and
waits for nothing.
"""

from __future__ import annotations

import array
import contextlib
import errno
import marshal
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from vbdev.files.helper import MAX_FDS, MESSAGE_BYTES
from vbdev.files.opening import FileError, FileKey, FileLockedError

__all__ = ["Aside", "give_up_all"]

PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from vbdev.files.helper import main; main()"
)
ROOT: Final = str(Path(__file__).absolute().parents[2])
"""Where `vbdev` is imported from."""

_running: set[Aside] = set()


class Aside:
    """One call. `run` on a thread, once; `give_up` on any, at any time.

    name, arguments, keywords: what is called, see `helper.FUNCTIONS`. fds: what it is about. They
    are on their way when this returns: the caller may forget them. goes_on: once it has begun it
    is not killed.
    """

    def __init__(
        self,
        name: str,
        *arguments: Any,
        fds: Sequence[int] = (),
        goes_on: bool = False,
        **keywords: Any,
    ) -> None:
        self._name = name
        self._goes_on = goes_on
        self._lock = threading.Lock()  # over the next three; nothing blocks under it
        self._process = -1
        self._begun = self._given_up = False
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            request = marshal.dumps((name, arguments, keywords))
            socket.send_fds(self._ours, [request], list(fds))
        except BaseException:
            self._close()
            raise

    def _close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def give_up(self) -> None:
        """Kill the process, as nobody waits for its answer any more. Idempotent."""
        with self._lock:
            self._given_up = True
            self._kill()
            if not self._begun:
                self._close()

    def _kill(self) -> None:
        if self._process >= 0 and not self._goes_on:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def run(
        self,
        claim: Callable[[FileKey], object] = lambda _key: None,
        warn: Callable[[str], object] = lambda _text: None,
    ) -> tuple[Any, list[int]]:
        """Return the value, and descriptors, which are the caller's. Blocks.

        claim, warn: see `opening.open_file`; what claim raises is raised. FileError and OSError:
        what the call raised there. ECHILD: the process ended without an answer.
        """
        with self._lock:
            if self._given_up:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            self._begun = True
        _running.add(self)
        try:
            with self._theirs:
                _ask(self._theirs.fileno())
            answer, fds = self._hear(claim, warn)
        except BaseException:
            self.give_up()
            self._wait()
            raise
        finally:
            _running.discard(self)
            with self._lock:
                self._ours.close()
                if self._process >= 0:
                    os.close(self._process)
                    self._process = -1
        kind, *rest = answer
        if kind == "value":
            return rest[0], fds
        if kind == "refused":
            is_locked, number, text = rest
            raise (FileLockedError if is_locked else FileError)(number, text)
        number, text = rest
        raise OSError(number, text)

    def _hear(
        self, claim: Callable[[FileKey], object], warn: Callable[[str], object]
    ) -> tuple[tuple[Any, ...], list[int]]:
        while True:
            content, fds = self._receive()
            if not content:
                raise OSError(errno.ECHILD, f"the process that was to {self._name} it has ended")
            message = marshal.loads(content)  # noqa: S302 - this program's own
            if message[0] == "began":
                with self._lock:
                    (self._process,) = fds or [-1]
                    if self._given_up:
                        self._kill()
            elif message[0] == "claim":
                claim(message[1])
                self._ours.send(marshal.dumps(()))
            elif message[0] == "warn":
                warn(message[1])
            else:
                return message, fds

    def _receive(self) -> tuple[bytes, list[int]]:
        # socket.recv_fds loses the flag on its way (Python 3.11).
        fds = array.array("i")
        content, passed, _, _ = self._ours.recvmsg(
            MESSAGE_BYTES, socket.CMSG_LEN(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for _level, _type, data in passed:
            fds.frombytes(data)
        return content, list(fds)

    def _wait(self) -> None:
        """Wait until the process has ended: as long as it hangs, so does this call."""
        if self._process >= 0:
            poll = select.poll()
            poll.register(self._process, select.POLLIN)
            poll.poll()


def give_up_all() -> None:
    """Kill all that run, at the end of this process."""
    for aside in list(_running):
        aside.give_up()


_start_lock = threading.Lock()  # over the next two; starting a process is all that is done under it
_starter = -1
_starter_pid = 0


def _ask(fd: int) -> None:
    """Have a process forked that serves a socket."""
    global _starter, _starter_pid  # noqa: PLW0603 - one for this process
    with _start_lock:
        for is_last_try in (False, True):
            if _starter < 0:
                _starter, _starter_pid = _start()
            with socket.socket(fileno=os.dup(_starter)) as link:
                try:
                    socket.send_fds(link, [b"\0"], [fd])
                except ConnectionError:  # somebody has killed it
                    os.close(_starter)
                    _starter = -1
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(_starter_pid, 0)
                    if is_last_try:
                        raise
                else:
                    return


def _start() -> tuple[int, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", "-c", PROGRAM, ROOT],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setsid=True,
            setsigmask=(),
        )
        return ours.detach(), pid
