"""What grows as it must not: put in the place of what does not, to see that it is found."""

from __future__ import annotations

from typing import Any

from vbdev.reactor.reactor import Reactor
from vbdev.registry.names import Numbers
from vbdev.targets.nbd import NbdServer


def names_one_by_one() -> None:
    """Look for a free name from the first number on."""

    def unused(self: Numbers, prefix: str) -> str:
        number = 0
        while self._taken(name := f"{prefix}{number}"):
            number += 1
        return name

    Numbers.unused = unused  # type: ignore[method-assign]


def a_look_at_all_clients() -> None:
    """Look at each client of an NBD server in each turn."""
    servers: list[NbdServer] = []
    init, poll = NbdServer.__init__, Reactor.poll

    def remembered(self: NbdServer, *words: Any) -> None:
        init(self, *words)
        servers.append(self)

    def looking(self: Reactor) -> int:
        for server in servers:
            for client in server._connections:
                id(client)
        return poll(self)

    NbdServer.__init__ = remembered  # type: ignore[method-assign]
    Reactor.poll = looking  # type: ignore[method-assign]
