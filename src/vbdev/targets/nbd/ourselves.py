"""Whether a client is this very process: an `nbd` bdev on one of our own exports.

At the stop such a client may still have to flush through us, so it is not asked to leave with the
others. A client in another process that stands on us in turn is not known, and is drained as any
other: what it writes later it is told of.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["own_ends"]

CREDENTIALS = struct.Struct("3i")
Ends = tuple[object, object]


def own_ends(connections: Iterable[socket.socket]) -> list[bool]:
    """Say of each connection whether its other end is a socket of this process."""
    local: set[Ends] | None = None
    found = []
    for connection in connections:
        try:
            if connection.family == socket.AF_UNIX:
                found.append(_peer_pid(connection) == os.getpid())
                continue
            ends = connection.getsockname(), connection.getpeername()
        except OSError:
            found.append(False)
            continue
        if local is None:
            local = _local_ends()
        found.append(ends[::-1] in local)
    return found


def _peer_pid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid: int = CREDENTIALS.unpack(raw)[0]
    return pid


def _local_ends() -> set[Ends]:
    """Return the (own name, peer's name) of all TCP connections of this process."""
    found: set[Ends] = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(entry.name))) as one:
                if one.family != socket.AF_UNIX:
                    found.add((one.getsockname(), one.getpeername()))
        except OSError:  # closed meanwhile, no socket, or not connected
            continue
    return found
