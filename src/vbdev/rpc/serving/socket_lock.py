"""One control plane for each unix socket: the lock beside it, which SPDK's applications take too.

The lock is on a file, `<socket>.lock`, and the kernel gives it up with the process, however that
ends. So whoever has it may take the socket's file away, because nobody serves there. (SPDK:
spdk_rpc_listen.)

A file of another user's is not believed: whoever may write the directory can put one there and keep
it locked. Nor has every file system locks (NFS without a lock daemon, some FUSE, a sandbox). Then
there is no lock, a WARNING says so, and connecting tells whether somebody serves
(`reactor/listen.py`); what is missing is that two which start within the same moment know of each
other.

The file goes when the server ends in order. Between opening it and locking it another process may
have removed it, and a third made a new one; a lock on a file that has no name any more excludes
nobody. Hence the second look.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from pathlib import Path

from vbdev.vocab.address import Address, ListenError

__all__ = ["SocketLock"]

log = logging.getLogger(__name__)

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What flock(2) answers where a file system, its server or a sandbox has no locks."""


class SocketLock:
    """Held from its creation to `release`. ListenError: another process has it, or no file."""

    def __init__(self, address: Address) -> None:
        self._path = str(Path(f"{address.path}.lock").absolute())
        while True:
            self._fd = self._open(address)
            if self._fd < 0 or _inode(os.fstat(self._fd)) == self._there():
                return
            os.close(self._fd)

    def release(self) -> None:
        """Remove the file and give up the lock, in this order. Idempotent."""
        if self._fd < 0:
            return
        if _inode(os.fstat(self._fd)) == self._there():
            with contextlib.suppress(OSError):  # the next server takes the lock on what is left
                Path(self._path).unlink()
        os.close(self._fd)
        self._fd = -1

    def _open(self, address: Address) -> int:
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        was_there = self._there() is not None
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            if self._is_anothers():
                return -1
            raise ListenError(
                f"{address}: can not open {self._path}: {error.strerror}", error.errno or errno.EIO
            ) from error
        if self._is_anothers(fd):
            os.close(fd)
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(os.fstat(fd))
            os.close(fd)
            if error.errno in NO_LOCKS:
                log.warning(
                    "no lock: there are none here; another server is found by connecting alone"
                    " path=%s error=%s",
                    self._path,
                    error.strerror,
                )
                if not was_there:
                    with contextlib.suppress(OSError):
                        Path(self._path).unlink()
                return -1
            if not isinstance(error, BlockingIOError):
                raise ListenError(
                    f"{address}: can not lock {self._path}: {error.strerror}",
                    error.errno or errno.EIO,
                ) from error
            raise ListenError(
                f"{address}: address in use by a living server{holder}, which has locked"
                f" {self._path}",
                errno.EADDRINUSE,
            ) from None
        return fd

    def _is_anothers(self, fd: int | None = None) -> bool:
        """Tell whether the file is another user's, and say so in the log."""
        try:
            owner = (os.lstat(self._path) if fd is None else os.fstat(fd)).st_uid
        except OSError:
            return False
        if owner == os.geteuid():
            return False
        log.warning("no lock: its file is another user's path=%s uid=%d", self._path, owner)
        return True

    def _there(self) -> tuple[int, int] | None:
        try:
            return _inode(os.lstat(self._path))
        except OSError:
            return None


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _holder(status: os.stat_result) -> str:
    """Return who has a file locked, in words; nothing where the kernel does not tell."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # number, FLOCK, ADVISORY, WRITE, process, place, start, end
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == place:
                return f" (process {fields[4]})"
    return ""
