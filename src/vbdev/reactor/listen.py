"""Sockets that listen; the control plane and the targets share this.

A unix socket is the door to every disk behind it, so its file is never wider than 0600, not even
for the moment between bind and chmod: on Linux a socket file is born with the mode of the socket
that is bound to it. A file that a dead process left is taken over; one that a living process
listens on is not.

Locks are taken on files of one's own alone (mode 0600, owner looked at). Whoever may read a file or
a directory may lock it, and keep it locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import resource
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vbdev.reactor.fd_limit import first_reserved
from vbdev.vocab.address import (
    Address,
    ListenError,
    default_rpc_path,
    parse_address,
    private_directory,
)

if TYPE_CHECKING:
    from vbdev.reactor.reactor import Reactor
    from vbdev.reactor.timers import Timer

__all__ = [
    "ACCEPTS_PER_WAKE",
    "ACCEPT_PAUSE_US",
    "Address",
    "ListenError",
    "Listener",
    "bound_address",
    "open_listener",
    "parse_address",
]

log = logging.getLogger(__name__)

BACKLOG: Final = 512
"""Connections that wait in the kernel until they are accepted (SPDK: jsonrpc_server_tcp.c)."""
ACCEPTS_PER_WAKE: Final = 16
"""Connections accepted in one turn, so that a crowd of clients does not hold up the others."""
ACCEPT_PAUSE_US: Final = 100_000
"""How long to accept nothing after the process ran out of descriptors, in us."""
KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 60),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 6),
)
"""A TCP peer whose machine or network went without a word is given up after 2 minutes (tcp(7))."""
LOCK_TIMEOUT_S: Final = 1.0
"""How long to wait for another process of this user that is opening a socket."""

_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def open_listener(address: Address) -> socket.socket:
    """Return a non-blocking socket that listens on `address`. ListenError says why it can not.

    Blocks: for name resolution (TCP), for LOCK_TIMEOUT_S at most (unix), for the directory's mount.
    """
    try:
        return _open_unix(address) if address.is_unix else _open_tcp(address)
    except OSError as error:
        number = error.errno or errno.EIO
        if isinstance(error, socket.gaierror):  # its numbers are no errnos
            number = errno.EADDRNOTAVAIL
        raise ListenError(f"{address}: {error.strerror or error}", number) from error


def bound_address(listener: socket.socket) -> Address:
    """Return where a socket listens: the port that the kernel chose, the path as it was given."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return Address(path=name)
    return Address(host=name[0], port=name[1])


def _open_tcp(address: Address) -> socket.socket:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    for family, kind, protocol, _, name in found[:-1]:
        # A name can have an IPv6 address on a machine that has no IPv6; the last one's error
        # is the one that is told.
        with contextlib.suppress(OSError):
            return _bind_tcp(family, kind, protocol, name)
    family, kind, protocol, _, name = found[-1]
    return _bind_tcp(family, kind, protocol, name)


def _bind_tcp(family: int, kind: int, protocol: int, name: Any) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(name)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _open_unix(address: Address) -> socket.socket:
    path = address.path
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)  # the file will have it from its first moment
        if path == default_rpc_path():
            make_private(str(Path(path).parent))
        with _alone():
            if _is_stale(address):
                log.info("taking over the socket of a dead process address=%s", address)
                Path(path).unlink()
            listener.bind(path)
            try:
                listener.listen(BACKLOG)
            except OSError:
                Path(path).unlink()
                raise
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep this user's processes that open sockets apart. BlockingIOError: not in LOCK_TIMEOUT_S.

    Without it, two that start at the same time both find a stale file, and the second unlinks
    what the first has just bound. The lock is on a private file, which nobody else can hold, and
    is held for a moment. Where there can be no such file it is done without: being kept from
    starting is worse than a race that takes two starts of one socket in the same millisecond.
    """
    fd = _open_private_lock()
    if fd < 0:
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BlockingIOError(
                        errno.EBUSY,
                        "another process of this user has been opening sockets for"
                        f" {LOCK_TIMEOUT_S:g} s",
                    ) from None
                time.sleep(0.005)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(fd)


def _open_private_lock() -> int:
    """Return a descriptor of this user's lock file, -1 where there can be none."""
    directory = private_directory()
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        make_private(directory)
        fd = os.open(f"{directory}/vbdev-listen.lock", flags, 0o600)
    except OSError:
        return -1
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(fd, 0o600)
        return fd
    os.close(fd)
    return -1


def make_private(directory: str) -> None:
    """Have a directory that only this user can enter. PermissionError: it is another's."""
    with contextlib.suppress(FileExistsError):
        Path(directory).mkdir(0o700)
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(
            errno.EACCES,
            f"{directory} is not this user's own directory; its owner is {status.st_uid}",
        )


def _is_stale(address: Address) -> bool:
    """Tell whether a dead process left its socket there. ListenError when it is anything else."""
    try:
        mode = os.lstat(address.path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"{address}: there is a file, and it is no socket", errno.EEXIST)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # its backlog is full, so it listens
            owner = ""
        else:
            credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            owner = f" (process {struct.unpack('3i', credentials)[0]})"
    raise ListenError(f"{address}: address in use by a living server{owner}", errno.EADDRINUSE)


class Listener:
    """Accepts on a reactor and hands each connection on, non-blocking.

    It owns the socket from here on, also where it can not be watched (ListenError). When the
    process runs out of descriptors it accepts nothing for a while: the connection would wait in the
    kernel and wake the reactor for ever.

    reserve: descriptors that are left for others (`fd_limit`). A connection that would take one
    of these is closed at once, and the first of a crowd is told of in the log.
    """

    def __init__(
        self,
        reactor: Reactor,
        listener: socket.socket,
        on_connection: Callable[[socket.socket], object],
        *,
        reserve: int = 0,
    ) -> None:
        self.address = bound_address(listener)
        self._reactor = reactor
        self._socket = listener
        self._on_connection = on_connection
        self._held = False
        self._pause: Timer | None = None
        self._reserve = reserve
        self._is_short = False  # ran out of descriptors, and has accepted nothing since
        self._path = ""
        if self.address.is_unix:
            self._path = str(Path(self.address.path).absolute())
            self._inode = _inode(self._path)
        try:
            self._watch = reactor.watch(listener.fileno(), readable=self._accept)
        except OSError as error:
            self._remove()
            raise ListenError(f"{self.address}: {error.strerror}", error.errno or 0) from error

    def hold(self) -> None:
        """Accept nothing until `release`; who connects meanwhile waits in the kernel."""
        self._held = True
        self._watch.update(read=False, write=False)

    def release(self) -> None:
        """Go on with who has come meanwhile."""
        self._held = False
        self._watch.update(read=self._pause is None, write=False)

    def close(self) -> None:
        """Accept no more, and remove the socket's file if it is still this one. Idempotent."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._watch.close()
        self._remove()

    def _remove(self) -> None:
        if self._path:
            # Nobody takes over a socket that listens, as this one does until its file is gone. A
            # file that can not be removed is a stale one, which the next server takes over.
            with contextlib.suppress(OSError):
                if self._inode == _inode(self._path):
                    Path(self._path).unlink()
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            if self._socket.fileno() < 0 or self._held:  # by what it accepted, perhaps
                return
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF:
                    # The client has gone already, or its network has: accept(2), "Errors".
                    log.debug("accept failed address=%s error=%s", self.address, error)
                    continue
                self._run_short(error)
                return
            if self._reserve and connection.fileno() >= (first := first_reserved(self._reserve)):
                self._turn_away(connection, first)
                continue
            self._is_short = False
            self._hand_on(connection)
            if self._reactor.late:  # who waits in the kernel has the next turn
                return

    def _turn_away(self, connection: socket.socket, first: int) -> None:
        connection.close()
        if not self._is_short:
            self._is_short = True
            log.warning(
                "turning clients away: the last descriptors are kept for the control plane"
                " address=%s first_kept=%d RLIMIT_NOFILE=%d",
                self.address,
                first,
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )

    def _hand_on(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            if not self.address.is_unix:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
            self._on_connection(connection)
        except Exception:
            log.exception("connection failed to start address=%s", self.address)
            connection.close()

    def _run_short(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            log.warning("accepting nothing for now address=%s error=%s", self.address, error)
        self._watch.update(read=False, write=False)
        self._pause = self._reactor.call_later(ACCEPT_PAUSE_US, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._watch.update(read=not self._held, write=False)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
