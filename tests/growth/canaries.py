"""What grows as it must not: put in the place of what does not, to see that it is found."""

from __future__ import annotations

from vbdev.reactor import Reactor
from vbdev.registry import Registry


def names_one_by_one() -> None:
    """Look for a free name from the first number on."""

    def unused_name(self: Registry, prefix: str) -> str:
        number = 0
        while self.find(name := f"{prefix}{number}") is not None:
            number += 1
        return name

    Registry.unused_name = unused_name  # type: ignore[method-assign]


def a_look_at_all_watches() -> None:
    """Look at each descriptor that is watched in each turn."""
    turn = Reactor._turn

    def looking(self: Reactor) -> int:
        sum(watch.fd for watch in self._watches.values())
        return turn(self)

    Reactor._turn = looking  # type: ignore[method-assign]
