"""Names: one name space of the names, aliases and UUIDs of all bdevs, compared byte by byte."""

from __future__ import annotations

import errno

from vbdev.bdev import Bdev, BdevError

__all__ = ["Names"]


class Names:
    """What each name stands for. A bdev's UUID, in lower case, is one of its aliases."""

    def __init__(self) -> None:
        self._bdevs: dict[str, Bdev] = {}

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
        self._bdevs.pop(bdev.name, None)

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
        del self._bdevs[alias]

    def drop_aliases(self, bdev: Bdev) -> None:
        """Take all aliases away, the UUID among them (spdk_bdev_alias_del_all)."""
        for alias in bdev.aliases:
            self._bdevs.pop(alias, None)
        bdev.aliases.clear()
