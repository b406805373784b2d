"""Building: what was asked for is made on bases that are there.

What is built is registered, what is registered is examined, and what is examined may be what a
wish has waited for: `register` is handed in by the face, which closes this circle.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec

from vbdev.bdev import Bdev, BdevError, BdevParams, BdevState, Unnamed, VirtualBdev
from vbdev.bdev.contract import Hold
from vbdev.bdev.entry import entry_of
from vbdev.registry.creations import Creation
from vbdev.registry.holds import Holds
from vbdev.registry.removal import Removals
from vbdev.registry.table import Table
from vbdev.reports.logs import NOTICE
from vbdev.vocab import MAX_STACK_DEPTH

__all__ = ["Building"]

log = logging.getLogger(__name__)

Register = Callable[[Bdev, Creation | None], Awaitable[None]]


class Building:
    """Makes bdevs, and vbdevs on their bases."""

    def __init__(self, table: Table, holds: Holds, removals: Removals, register: Register) -> None:
        self._table = table
        self._holds = holds
        self._removals = removals
        self._register = register

    async def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """See `Registry.create`."""
        table = self._table
        if isinstance(params.name, Unnamed) and cls.auto_name:
            params = msgspec.structs.replace(params, name=table.numbers.unused(cls.auto_name))
        if issubclass(cls, VirtualBdev):
            return (await self.create_virtual(cls, params)).key
        bdev = cls(params)
        table.check_spoken_for(bdev.name)
        table.names.check(bdev)
        bdev.reactor = table.reactor
        name, closes = bdev.name, table.closes
        table.starting.add(name)  # others ask for names while it takes its time
        try:
            await bdev.start()
        finally:
            table.starting.discard(name)
            table.numbers.freed(name)
        if closes != table.closes:
            await bdev.stop()
            raise BdevError(errno.ESHUTDOWN, f"bdev {name!r}: the application has ended")
        try:
            await self._register(bdev, None)
        except BaseException:
            await bdev.stop()
            raise
        return bdev.name

    async def create_virtual(self, cls: type[VirtualBdev], params: BdevParams) -> Creation:
        """See `Registry.create_virtual`."""
        table = self._table
        creation = Creation(cls, params)
        key = creation.key
        # Otherwise the plan says how the vbdevs are called. What can never be comes before names.
        alone = cls(params) if key == params.name else None
        if (before := table.creations.get(key)) is not None and before.cls is cls:
            same = before.renew(params)
            if same:
                return before
            if same is False:
                del table.creations[key]
        table.check_spoken_for(key)
        if alone is not None:
            table.names.check(alone)
            if key in creation.base_names:
                raise BdevError(errno.EINVAL, f"vbdev {key!r} can not be its own base")
        table.creations[key] = creation
        bases = self._bases_of(creation)
        if bases is None:
            log.log(
                NOTICE,
                "vbdev creation deferred pending base bdev arrival name=%s base=%s",
                key,
                ",".join(creation.base_names),
            )
            return creation
        try:
            await self._build_all(creation, bases)
        except BaseException:
            if table.creations.get(key) is creation:  # nobody has deleted it meanwhile
                del table.creations[key]
            raise
        return creation

    def _bases_of(self, creation: Creation) -> list[Bdev] | None:
        """Return all its bases; None where one is not there."""
        found = [self._table.find(name) for name in creation.base_names]
        bases = [base for base in found if base is not None and base.state is BdevState.READY]
        return bases if len(bases) == len(found) else None

    async def build_waiting(self, bdev: Bdev) -> None:
        """Build what waited for a bdev, oldest first. What fails is logged, and waits on."""
        creations = self._table.creations
        for creation in creations.on(bdev):
            wanted = creations.get(creation.key) is creation  # still: others took their time
            bases = self._bases_of(creation) if wanted and creation.waiting else None
            if bases is not None and bdev in bases:
                try:
                    await self._build_all(creation, bases)
                except (BdevError, OSError) as error:
                    # Nobody waits for this: the one who asked has long had an answer.
                    log.warning("no vbdev name=%s base=%s error=%s", creation.key, bdev.name, error)
                except Exception:  # a bug in that module, and no fault of the base
                    log.exception("vbdev creation failed name=%s base=%s", creation.key, bdev.name)

    async def _build_all(self, creation: Creation, bases: list[Bdev]) -> None:
        """Build all vbdevs of a creation on its bases, or none of them."""
        creation.building = True
        try:
            plan = creation.cls.plan(creation.params, bases[0])
            if not plan:
                return
            what = plan[0].name if len(plan) == 1 else f"of {bases[0].name}"
            async with AsyncExitStack() as shares:
                holds: list[Hold] = [
                    await shares.enter_async_context(
                        self._holds.hold(
                            base,
                            creation.cls.kind,
                            holder=f"{creation.cls.kind} vbdev{'s' * (len(plan) > 1)} {what}",
                            claim=plan[0].base_claim,
                            key=plan[0].base_claim_key,
                        )
                    )
                    for base in bases
                ]
                try:
                    for layer in plan:
                        await self.build(layer, holds, creation)
                    creation.times_built += 1
                except BaseException:
                    for layer in reversed(list(creation.vbdevs)):
                        await self._removals.take_away(layer)
                    raise
        finally:
            creation.end_building()

    async def build(
        self, layer: VirtualBdev, holds: list[Hold], creation: Creation | None = None
    ) -> None:
        """Start and register one vbdev on bases that are held. It takes a share of each hold.

        One without a creation goes with its base and is not saved: a partition, say, which comes
        back because the table on the disk says so.
        """
        depth = 1 + max(entry_of(hold.base).depth for hold in holds)
        if depth > MAX_STACK_DEPTH:
            raise BdevError(
                errno.ELOOP,
                f"vbdev {layer.name!r} would be layer {depth}; {MAX_STACK_DEPTH} are the most",
            )
        layer.reactor = self._table.reactor
        self._holds.stand(layer, holds)
        try:
            layer.inherit()
            sizes = [base.num_blocks for base in layer.bases]
            await layer.start()
            try:
                self._check_still_wanted(layer, creation)
                if [base.num_blocks for base in layer.bases] != sizes:
                    layer.base_resized()  # nobody was told, as long as it was not there
                await self._register(layer, creation)
            except BaseException:
                await layer.stop()
                raise
        except BaseException:
            await self._holds.let_go(layer)
            raise
        try:
            layer.created()
        except Exception:  # it is there: nobody's creation fails for what is said of it
            log.exception("vbdev %s (%s): created failed", layer.name, layer.kind)

    def _check_still_wanted(self, layer: VirtualBdev, creation: Creation | None) -> None:
        # `start` may have taken its time.
        for base in layer.bases:
            if base.state is not BdevState.READY:
                raise BdevError(
                    errno.ENODEV, f"base bdev {base.name} of {layer.name!r} is being removed"
                )
        if creation is not None and self._table.creations.get(creation.key) is not creation:
            raise BdevError(errno.ENODEV, f"vbdev {layer.name!r} was deleted while it started")
