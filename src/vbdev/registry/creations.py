"""Creations: which vbdevs were asked for, apart from those that are there.

A creation outlives the hot removal of its base, waits for a base that is not there yet, is saved
with the configuration, and ends when somebody deletes what it made. It knows its base by what
the base was called by whoever asked: name, alias or UUID.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vbdev.bdev import Bdev, BdevError, BdevParams, BdevState, VirtualBdev
from vbdev.registry.holds import BaseHold
from vbdev.vocab import MAX_STACK_DEPTH

if TYPE_CHECKING:
    from vbdev.registry.registry import Registry

__all__ = ["Creation", "Creations", "build", "build_creation", "examine_creations"]

log = logging.getLogger(__name__)


class Creation:
    """One vbdev, or the several of one `plan`, that somebody asked for."""

    __slots__ = ("building", "cls", "params", "times_built", "vbdevs")

    def __init__(self, cls: type[VirtualBdev], params: BdevParams) -> None:
        self.cls = cls
        self.params = params
        self.vbdevs: dict[VirtualBdev, None] = {}
        """What there is of it now, in the order in which it was built."""
        self.building = False
        self.times_built = 0
        """On how many bases, one after the other: after the first each comes of a hot removal."""

    @property
    def key(self) -> str:
        """What it is kept and deleted by: the vbdev's name, for most."""
        return self.cls.creation_key(self.params)

    @property
    def base_name(self) -> str:
        """What the base was called by whoever asked."""
        return self.cls.base_name_of(self.params)

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
        self._count = 0
        self._on_free = on_free

    def __setitem__(self, key: str, creation: Creation) -> None:
        super().__setitem__(key, creation)
        self._on.setdefault(creation.base_name, {})[key] = self._count
        self._count += 1

    def __delitem__(self, key: str) -> None:
        creation = self.pop(key)
        some = self._on[creation.base_name]
        del some[key]
        if not some:
            del self._on[creation.base_name]
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

    def on(self, bdev: Bdev) -> list[Creation]:
        """Return those whose base is called as a bdev is, oldest first."""
        found = [self._on[name] for name in (bdev.name, *bdev.aliases) if name in self._on]
        asked = {key: number for some in found for key, number in some.items()}
        return [self[key] for key in sorted(asked, key=asked.__getitem__)]


async def examine_creations(registry: Registry, bdev: Bdev) -> None:
    """Build what waited for a bdev, oldest first. What fails is logged, and waits on."""
    for creation in registry.creations.on(bdev):
        wanted = registry.creations.get(creation.key) is creation  # still: others took their time
        if wanted and creation.waiting and registry.find(creation.base_name) is bdev:
            try:
                await build_creation(registry, creation, bdev)
            except (BdevError, OSError) as error:
                # Nobody waits for this: the one who asked has long had an answer.
                log.warning("no vbdev name=%s base=%s error=%s", creation.key, bdev.name, error)
            except Exception:  # a bug in that module, and no fault of the base
                log.exception("vbdev creation failed name=%s base=%s", creation.key, bdev.name)


async def build_creation(registry: Registry, creation: Creation, base: Bdev) -> None:
    """Build all vbdevs of a creation on its base, or none of them."""
    creation.building = True
    try:
        plan = creation.cls.plan(creation.params, base)
        if not plan:
            return
        what = plan[0].name if len(plan) == 1 else f"of {base.name}"
        async with registry.hold(
            base,
            creation.cls.kind,
            holder=f"{creation.cls.kind} vbdev{'s' * (len(plan) > 1)} {what}",
            claim=plan[0].base_claim,
            key=plan[0].base_claim_key,
        ) as hold:
            try:
                for layer in plan:
                    await build(registry, layer, hold, creation)
                creation.times_built += 1
            except BaseException:
                for layer in reversed(list(creation.vbdevs)):
                    await registry.take_away(layer)
                raise
    finally:
        creation.building = False


async def build(
    registry: Registry, layer: VirtualBdev, hold: BaseHold, creation: Creation | None = None
) -> None:
    """Start and register one vbdev on a base that is held. It takes the hold with it.

    One without a creation goes with its base and is not saved: a partition, say, which comes
    back because the table on the disk says so.
    """
    base = hold.base
    depth = 2 + sum(1 for _ in bases(base))
    if depth > MAX_STACK_DEPTH:
        raise BdevError(
            errno.ELOOP,
            f"vbdev {layer.name!r} would be layer {depth}; {MAX_STACK_DEPTH} are the most",
        )
    layer.reactor = registry.reactor
    layer.base, layer.base_hold, layer.base_descriptor = base, hold.take(), hold.descriptor
    hold.vbdevs[layer] = None
    try:
        layer.inherit()
        size = base.num_blocks
        await layer.start()
        try:
            _check_still_wanted(registry, layer, creation)
            if base.num_blocks != size:  # nobody was told, as long as it was not there
                layer.base_resized()
            await registry.register(layer, creation)
        except BaseException:
            await layer.stop()
            raise
    except BaseException:
        await let_go(layer)
        raise
    try:
        layer.created()
    except Exception:  # it is there: nobody's creation fails for what is said of it
        log.exception("vbdev %s (%s): created failed", layer.name, layer.kind)


async def let_go(layer: VirtualBdev) -> None:
    """Give the base back."""
    del layer.base_hold.vbdevs[layer]
    await layer.base_hold.give()


def _check_still_wanted(registry: Registry, layer: VirtualBdev, creation: Creation | None) -> None:
    # `start` may have taken its time.
    name = layer.name
    if layer.base.state is not BdevState.READY:
        raise BdevError(errno.ENODEV, f"base bdev {layer.base.name} of {name!r} is being removed")
    if creation is not None and registry.creations.get(creation.key) is not creation:
        raise BdevError(errno.ENODEV, f"vbdev {name!r} was deleted while it started")


def bases(bdev: Bdev) -> Iterator[Bdev]:
    """Yield what a bdev stands on, from the top down."""
    while isinstance(bdev, VirtualBdev):
        bdev = bdev.base
        yield bdev
