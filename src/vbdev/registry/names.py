"""Names: one name space of the names, aliases and UUIDs of all bdevs, compared byte by byte."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable

from vbdev.bdev import Bdev, BdevError

__all__ = ["Names", "Numbers"]

MAX_DIGITS = 18
"""Nobody counts further."""


class Numbers:
    """Finds names that nobody has: a prefix and the lowest number.

    taken: says whether somebody has a name. Whoever gives one back has to tell `freed`: so the
    next number is found without a look at all that are taken, however many they are.
    """

    def __init__(self, taken: Callable[[str], bool]) -> None:
        self._taken = taken
        self._used: dict[str, _Used] = {}

    def unused(self, prefix: str) -> str:
        """Return `prefix` with the lowest number that makes it a name nobody has."""
        used = self._used.setdefault(prefix, _Used())
        while used.gaps:
            name = f"{prefix}{used.gaps[0]}"
            if not self._taken(name):
                return name
            used.known.remove(heapq.heappop(used.gaps))
        while self._taken(name := f"{prefix}{used.end}"):
            used.end += 1
        return name

    def freed(self, name: str) -> None:
        """Take notice that a name was given back; any, whoever it was made by."""
        for prefix, used in self._used.items():
            digits = name[len(prefix) :] if name.startswith(prefix) else ""
            if not 0 < len(digits) <= MAX_DIGITS or not digits.isdecimal():
                continue
            number = int(digits)
            if number < used.end and number not in used.known and str(number) == digits:
                used.known.add(number)
                heapq.heappush(used.gaps, number)


class _Used:
    """Numbers of one prefix: those from `end` on are not known; below it, all but `gaps` taken."""

    __slots__ = ("end", "gaps", "known")

    def __init__(self) -> None:
        self.end = 0
        self.gaps: list[int] = []
        """A heap of those that were given back, and perhaps taken again."""
        self.known: set[int] = set()
        """The same."""


class Names:
    """What each name stands for. A bdev's UUID, in lower case, is one of its aliases.

    on_free: told each name that is given back.
    """

    def __init__(self, on_free: Callable[[str], object] = lambda _name: None) -> None:
        self._bdevs: dict[str, Bdev] = {}
        self._on_free = on_free

    def __contains__(self, name: str) -> bool:
        return name in self._bdevs

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""
        return self._bdevs.get(name)

    def check(self, bdev: Bdev) -> None:
        """Raise BdevError where `add` would: EINVAL without a name, EEXIST for a taken one."""
        if not bdev.name:
            raise BdevError(errno.EINVAL, "a bdev needs a name")
        uuid = [str(bdev.uuid)] if bdev.uuid else []
        for name in (*uuid, *bdev.aliases, bdev.name):
            self._check_free(name)

    def _check_free(self, name: str) -> None:
        if name in self._bdevs:
            raise BdevError(
                errno.EEXIST,
                f"bdev name {name!r} already exists: it belongs to {self._bdevs[name]!r}",
            )

    def add(self, bdev: Bdev) -> None:
        """Enter a bdev with all its names, or with none of them."""
        self.check(bdev)
        uuid = str(bdev.uuid)
        if uuid != bdev.name:
            bdev.aliases.insert(0, uuid)
        for name in (*bdev.aliases, bdev.name):
            self._bdevs[name] = bdev

    def remove(self, bdev: Bdev) -> None:
        """Forget a bdev and all its names."""
        self.drop_aliases(bdev)
        self._forget(bdev.name)

    def _forget(self, name: str) -> None:
        if self._bdevs.pop(name, None) is not None:
            self._on_free(name)

    def add_alias(self, bdev: Bdev, alias: str | None) -> None:
        """Give a bdev one more name (spdk_bdev_alias_add). EINVAL for none, EEXIST if taken."""
        if not alias:
            raise BdevError(errno.EINVAL, f"bdev {bdev.name}: an alias can not be empty")
        self._check_free(alias)
        bdev.aliases.append(alias)
        self._bdevs[alias] = bdev

    def drop_alias(self, bdev: Bdev, alias: str) -> None:
        """Take one alias away (spdk_bdev_alias_del).

        ENOENT for what is no alias of this bdev; its name is none.
        """
        if alias not in bdev.aliases:
            raise BdevError(errno.ENOENT, f"bdev {bdev.name} has no alias {alias!r}")
        bdev.aliases.remove(alias)
        self._forget(alias)

    def drop_aliases(self, bdev: Bdev) -> None:
        """Take all aliases away, the UUID among them (spdk_bdev_alias_del_all)."""
        for alias in bdev.aliases:
            self._forget(alias)
        bdev.aliases.clear()
