"""Creations: which vbdevs were asked for, apart from those that are there.

A creation outlives the hot removal of its base, waits for a base that is not there yet, is saved
with the configuration, and ends when somebody deletes what it made. It knows its bases by what
they were called by whoever asked: name, alias or UUID.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vbdev.bdev import Bdev, BdevParams, VirtualBdev
from vbdev.reactor.task import Future, wake

__all__ = ["Creation", "Creations"]

log = logging.getLogger(__name__)


class Creation:
    """One vbdev, or the several of one `plan`, that somebody asked for."""

    __slots__ = ("_built", "building", "cls", "params", "times_built", "vbdevs")

    def __init__(self, cls: type[VirtualBdev], params: BdevParams) -> None:
        self.cls = cls
        self.params = params
        self.vbdevs: dict[VirtualBdev, None] = {}
        """What there is of it now, in the order in which it was built."""
        self.building = False
        self.times_built = 0
        """On how many bases, one after the other: after the first each comes of a hot removal."""
        self._built: list[Future[None]] = []

    @property
    def key(self) -> str:
        """What it is kept and deleted by: the vbdev's name, for most."""
        return self.cls.creation_key(self.params)

    @property
    def base_name(self) -> str:
        """What the base was called by whoever asked."""
        return self.cls.base_name_of(self.params)

    @property
    def base_names(self) -> tuple[str, ...]:
        """What all its bases were called; the first is `base_name`."""
        return self.cls.base_names_of(self.params)

    def end_building(self) -> None:
        """Let those go on who wait for the end of what is built."""
        self.building = False
        built, self._built = self._built, []
        for future in built:
            wake(future)

    async def built(self) -> None:
        """Wait until nothing of it is being built."""
        while self.building:
            future: Future[None] = Future()
            self._built.append(future)
            await future

    @property
    def waiting(self) -> bool:
        """Whether nothing of it is there, nor about to be."""
        return not self.vbdevs and not self.building

    def renew(self, params: BdevParams) -> bool | None:
        """Be asked for again, with these parameters; return whether this is what was asked for.

        None where it has lost no base since it was asked for: then it is there already. Elsewhere
        the same wish is granted, and another one may take its place as long as nothing of this
        one is there.
        """
        lost_bases = self.times_built - bool(self.vbdevs)
        if not self.cls.ends_with_base_in_spdk or self.building or lost_bases <= 0:
            return None
        if params == self.params:
            self.times_built = int(bool(self.vbdevs))
            return True
        return False if self.waiting else None

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC calls that ask for the same again.

        Where the module fails to say, that it was asked for with these parameters.
        """
        try:
            return self.cls.creation_config(self.params, list(self.vbdevs))
        except Exception:
            log.exception("vbdev %s (%s): creation_config failed", self.key, self.cls.kind)
            first = next(iter(self.vbdevs), None)
            params = Bdev.config_params(first or self.cls(self.params))
            return [{"method": f"bdev_{self.cls.kind}_create", "params": params}]


class Creations(dict[str, Creation]):
    """All creations by their keys, in the order of asking; found by the name of their base too.

    on_free: told each key that is given back.
    """

    def __init__(self, on_free: Callable[[str], object] = lambda _key: None) -> None:
        super().__init__()
        self._on: dict[str, dict[str, int]] = {}
        """{name of a base: {key: how many were asked for before}}."""
        self._made: dict[VirtualBdev, Creation] = {}
        self._count = 0
        self._on_free = on_free

    def __setitem__(self, key: str, creation: Creation) -> None:
        super().__setitem__(key, creation)
        for name in creation.base_names:
            self._on.setdefault(name, {})[key] = self._count
        self._count += 1

    def __delitem__(self, key: str) -> None:
        creation = self.pop(key)
        for name in set(creation.base_names):
            some = self._on[name]
            del some[key]
            if not some:
                del self._on[name]
        self._on_free(key)

    def forget(self, key: str) -> None:
        """Delete a creation, if there is one of this key."""
        if key in self:
            del self[key]

    def clear(self) -> None:
        """Delete all."""
        keys = list(self)
        super().clear()
        self._on.clear()
        for key in keys:
            self._on_free(key)

    # What there is of them

    def of(self, bdev: Bdev) -> Creation | None:
        """Return the wish that a bdev comes from, if any; it may be deleted by now."""
        return self._made.get(bdev) if isinstance(bdev, VirtualBdev) else None

    def enter(self, layer: VirtualBdev, creation: Creation) -> None:
        """Note what was built of a creation."""
        self._made[layer] = creation
        creation.vbdevs[layer] = None

    def leave(self, layer: VirtualBdev) -> Creation | None:
        """Forget one that is gone; return what it came from, if anything."""
        creation = self._made.pop(layer, None)
        if creation is not None:
            del creation.vbdevs[layer]
        return creation

    def on(self, bdev: Bdev) -> list[Creation]:
        """Return those with a base that is called as a bdev is, oldest first."""
        found = [self._on[name] for name in (bdev.name, *bdev.aliases) if name in self._on]
        asked = {key: number for some in found for key, number in some.items()}
        return [self[key] for key in sorted(asked, key=asked.__getitem__)]
