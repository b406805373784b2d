"""Addresses as users write them: `unix:/path`, `tcp:host:port`, `tcp:[::1]:port`.

The control plane's may be written as SPDK's applications and clients take them besides: a path
alone, `127.0.0.1:5260`, `[::1]:5260`, `127.0.0.1`.

Apart from the sockets that listen on them, because a client needs no more than this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from dataclasses import dataclass
from typing import Final

__all__ = [
    "DEFAULT_RPC_PORT",
    "MAX_UNIX_PATH_BYTES",
    "Address",
    "ListenError",
    "default_rpc_path",
    "parse_address",
    "private_directory",
]

MAX_UNIX_PATH_BYTES: Final = 107
"""sizeof(sockaddr_un.sun_path) without the terminating NUL (unix(7))."""

DEFAULT_RPC_PORT: Final = 5260
"""The control plane's, where an IP address stands alone (SPDK: RPC_DEFAULT_PORT)."""

_HOST_PORT = re.compile(r"[^/]+:[0-9]+|\[[0-9a-fA-F:.]+\]")


class ListenError(Exception):
    """An address that cannot be understood or listened on; `errno` says what kind of failure."""

    def __init__(self, message: str, number: int = errno.EINVAL) -> None:
        super().__init__(message)
        self.errno = number


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: `path` of a unix socket, else `host` and `port` of TCP.

    >>> str(parse_address("tcp:[::1]:10809"))
    'tcp:[::1]:10809'
    """

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def is_unix(self) -> bool:
        """Whether this is a path and not a host and port."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


def private_directory() -> str:
    """Return the directory of this user's own for sockets and locks; it may not be there yet.

    That of the session, if it is this user's (root's environment may have another's), else
    /run/vbdev for root and one in /run/user or /var/tmp for others.
    """
    user = os.geteuid()
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and _is_own_directory(session, user):
        return session
    if user == 0 and os.path.isdir("/run"):  # noqa: PTH112 - pathlib takes long to import
        return "/run/vbdev"
    if _is_own_directory(f"/run/user/{user}", user):
        return f"/run/user/{user}"
    return f"/var/tmp/vbdev-{user}"  # noqa: S108 - made with mode 0700, and its owner is looked at


def _is_own_directory(path: str, user: int) -> bool:
    try:
        status = os.stat(path)  # noqa: PTH116 - see above
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user


def default_rpc_path() -> str:
    """Return where a daemon of this user listens when nothing else is said."""
    return f"{private_directory()}/vbdev.sock"


def parse_address(text: str, *, bare_path: bool = False) -> Address:
    """Read `unix:/path`, `tcp:host:port` or `tcp:[::1]:port`; port 0 lets the kernel choose.

    With `bare_path`, what has neither prefix is the path of a unix socket, unless it is an IP
    address or ends with a port and has no slash. ListenError otherwise.
    """
    if text.startswith("tcp:"):
        return _parse_tcp(text, text.removeprefix("tcp:"))
    if bare_path and not text.startswith("unix:"):
        if _is_ip(text):
            return Address(host=text, port=DEFAULT_RPC_PORT)
        if _HOST_PORT.fullmatch(text):
            return _parse_tcp(text, f"{text}:{DEFAULT_RPC_PORT}" if text[-1] == "]" else text)
    path = text.removeprefix("unix:")
    if path == text and not bare_path:
        raise ListenError(f"{text!r}: not an address; write unix:/path or tcp:host:port")
    if not path or "\0" in path:
        raise ListenError(f"{text!r}: the path of a unix socket is empty or has a NUL")
    length = len(os.fsencode(path))
    if length > MAX_UNIX_PATH_BYTES:
        raise ListenError(
            f"{text}: path of {length} bytes; a unix socket takes at most {MAX_UNIX_PATH_BYTES}",
            errno.ENAMETOOLONG,
        )
    return Address(path=path)


def _is_ip(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, text)
            return True
    return False


def _parse_tcp(text: str, host_port: str) -> Address:
    host, separator, port = host_port.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not separator or not host or "\0" in host or (":" in host) != bracketed:
        raise ListenError(f"{text!r}: write tcp:host:port, or tcp:[::1]:port for IPv6")
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ListenError(f"{text!r}: port {port!r} is no number from 0 to 65535")
    return Address(host=host, port=int(port))
