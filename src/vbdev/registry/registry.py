"""The registry itself: its rooms put together. It decides nothing.

One owner: everything here runs on the first reactor.
"""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from vbdev.bdev import Bdev, BdevError, BdevEvent, BdevParams, VirtualBdev
from vbdev.bdev.contract import Hold
from vbdev.bdev.descriptor import Descriptor
from vbdev.bdev.geometry import check_geometry
from vbdev.reactor.reactor import Reactor
from vbdev.registry.building import Building
from vbdev.registry.creations import Creation
from vbdev.registry.ending import end_all
from vbdev.registry.examine import Examiner
from vbdev.registry.holds import BaseHold, Holds
from vbdev.registry.opening import Opening
from vbdev.registry.options import BdevOptions
from vbdev.registry.removal import Removals
from vbdev.registry.saved import comes_back, saved_calls, subsystem_calls
from vbdev.registry.table import Table
from vbdev.vocab import ClaimType

__all__ = ["Registry"]

log = logging.getLogger(__name__)


class Registry:
    """The bdevs of one application, in the order in which they were registered."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self._table = table = Table(reactor)
        self.bdevs = table.bdevs
        self.creations = table.creations
        self.module_options = table.module_options
        self.notifications = table.notifications
        self._opening = Opening(table)
        self._holds = Holds(table, self._opening, self.base_event)
        self.removals = Removals(table, self._holds, self._gone)
        self._building = Building(table, self._holds, self.removals, self.register)
        self.examiner = Examiner(self, self._building.build_waiting)

    def __iter__(self) -> Iterator[Bdev]:
        return iter(self._table)

    @property
    def closing(self) -> bool:
        """Whether the end of all goes on."""
        return self._table.closing

    @property
    def options(self) -> BdevOptions:
        """The options of the bdev layer."""
        return self._table.options

    def add_module(self, module: type[Bdev]) -> None:
        """Let a module examine new bdevs, after those that were added before."""
        self.examiner.modules.append(module)

    def set_options(self, options: BdevOptions) -> None:
        """Settle the options of the bdev layer. BdevError EPERM as soon as there are bdevs."""
        if self.bdevs:
            raise BdevError(errno.EPERM, f"options come before bdevs; there are {len(self.bdevs)}")
        self._table.options = options
        self.examiner.auto = options.bdev_auto_examine

    # Names

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""
        return self._table.find(name)

    def get(self, name: str, kind: str | None = None) -> Bdev:
        """Return the bdev of this name (and kind), or raise BdevError ENODEV."""
        return self._table.get(name, kind)

    def unused_name(self, prefix: str) -> str:
        """Return `prefix` with the lowest number that makes it a name nobody has."""
        return self._table.numbers.unused(prefix)

    def add_alias(self, bdev: Bdev, alias: str | None) -> None:
        """Give a bdev one more name (spdk_bdev_alias_add). EINVAL for none, EEXIST if taken."""
        self._table.add_alias(bdev, alias)

    def drop_alias(self, bdev: Bdev, alias: str) -> None:
        """Take an alias away (spdk_bdev_alias_del); ENOENT for one that it has not."""
        self._table.names.drop_alias(bdev, alias)

    def drop_aliases(self, bdev: Bdev) -> None:
        """Take all aliases away, the UUID among them (spdk_bdev_alias_del_all)."""
        self._table.names.drop_aliases(bdev)

    # Creation

    async def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """Make a bdev and return its name. A vbdev whose base is absent is made when it comes."""
        return await self._building.create(cls, params)

    async def create_virtual(self, cls: type[VirtualBdev], params: BdevParams) -> Creation:
        """Ask for the vbdevs of a module's `plan`; `Creation.vbdevs` says which are there."""
        return await self._building.create_virtual(cls, params)

    def hold(
        self,
        base: Bdev,
        module: str,
        *,
        holder: str,
        claim: ClaimType = ClaimType.EXCLUSIVE_WRITE,
        key: int = 0,
    ) -> BaseHold:
        """Open and claim a base for one or several vbdevs; the caller gives its share back.

        Raises BdevError as `open` and the claim do, and leaves nothing then.
        """
        return self._holds.hold(base, module, holder=holder, claim=claim, key=key)

    def holds_of(self, layer: VirtualBdev) -> list[Hold]:
        """Return what a vbdev stands on, in the order of its bases."""
        return self._holds.of(layer)

    async def build(self, layer: VirtualBdev, *holds: Hold) -> None:
        """Start and register a vbdev on bases that are held, without a creation.

        It goes with its bases, and is not saved: what made it (a table on the disk, say) makes it
        again.
        """
        self._table.check_spoken_for(layer.name)
        await self._building.build(layer, list(holds))

    def base_event(self, layer: VirtualBdev, event: BdevEvent) -> None:
        """Pass what a base tells its opener on to a vbdev that stands on it."""
        if self.bdevs.get(layer.name) is not layer:
            return  # it still starts; whoever builds it looks when it has
        if event is BdevEvent.REMOVE:
            self.hot_remove(layer)
        elif event is BdevEvent.RESIZE:
            layer.base_resized()

    async def register(self, bdev: Bdev, creation: Creation | None = None) -> None:
        """Enter a started bdev, then examine it (spdk_bdev_register).

        Raises BdevError: EINVAL without a name, a block size or blocks, EEXIST where one of its
        names is taken, ESHUTDOWN at the end of the application. Whoever made the bdev stops it
        then. Later than that it is the registry's. EINVAL on any reactor but the registry's.
        """
        table = self._table
        table.check_here(errno.EINVAL, f"bdev {bdev.name!r} was registered")
        check_geometry(bdev)
        if table.closing:
            raise BdevError(errno.ESHUTDOWN, f"bdev {bdev.name!r}: the application ends")
        if bdev.uuid is None:
            bdev.uuid = uuid.uuid4()
        bdev.write_unit_size = bdev.write_unit_size or 1
        bdev.acwu = bdev.acwu or bdev.write_unit_size
        bdev.phys_block_size = bdev.phys_block_size or bdev.data_block_size
        table.enter(bdev, creation)
        log.info(
            "bdev registered name=%s kind=%s blocks=%d block_size=%d",
            bdev.name,
            bdev.kind,
            bdev.num_blocks,
            bdev.block_size,
        )
        await self.examiner.examine(bdev)
        table.announce(bdev)

    # Opening

    def open(
        self,
        name: str,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
        reactor: Reactor | None = None,
        hide_metadata: bool = False,
    ) -> Descriptor:
        """Open a bdev by name, alias or UUID (spdk_bdev_open_ext_v2).

        reactor: where events shall come and where it will be closed; the registry's by default.
        Another reactor asks for its descriptor: `await registry.reactor.ask(open_mine)`.
        hide_metadata: see blocks without their interleaved metadata, which is made on write and
        checked on read; without effect where there is none.

        Raises BdevError: EINVAL without something to call for events, and for hiding metadata that
        is separate, ENOTSUP on another thread than the registry's, ENODEV for an unknown bdev or
        one that is going away, EPERM for writing to one that a module has claimed.
        """
        return self._opening.open(
            name,
            write=write,
            on_event=on_event,
            holder=holder,
            reactor=reactor,
            hide_metadata=hide_metadata,
        )

    async def open_async(
        self,
        name: str,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
        timeout_ms: int = 0,
        reactor: Reactor | None = None,
    ) -> Descriptor:
        """Open a bdev that may come later (spdk_bdev_open_async).

        timeout_ms: how long to wait for it; 0: not at all. Raises BdevError as `open` does,
        ETIMEDOUT when it has not come, ESHUTDOWN when the application ends meanwhile.
        """
        return await self._opening.open_async(
            name,
            write=write,
            on_event=on_event,
            holder=holder,
            timeout_ms=timeout_ms,
            reactor=reactor,
        )

    async def arrival(self, timeout_us: float) -> None:
        """Wait until some bdev has come, or got a name, or the time is over, 100 s say.

        Look then, and wait again. BdevError ESHUTDOWN when the application ends meanwhile.
        """
        await self._table.arrival(timeout_us)

    # Deletion

    async def delete(self, name: str, kind: str) -> None:
        """Delete a bdev that `bdev_<kind>_create` made, or a creation that still waits."""
        await self.removals.delete(name, kind)

    async def delete_creation(self, creation: Creation) -> None:
        """Forget a creation, and remove what there is of it, the latest first.

        What is being built of it gives up when it has started, and is waited for: afterwards the
        base is free.
        """
        await self.removals.delete_creation(creation)

    async def delete_bdev(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """Unregister a bdev for good: the creation that is for it alone goes first."""
        await self.removals.delete_bdev(bdev, timeout_ms)

    async def unregister(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """Remove a bdev: tell its openers, wait until they have let go, destroy it.

        timeout_ms: when to stop waiting, if ever. Raises BdevError: ETIMEDOUT, naming the holders,
        when it is not gone by then, and the removal goes on; EBUSY, naming them, when it is being
        removed already; ENOTSUP off the registry's reactor. What the bdev's `stop` raises comes
        here too, and the bdev is gone.
        """
        await self.removals.unregister(bdev, timeout_ms)

    async def take_away(self, bdev: Bdev) -> None:
        """Unregister a bdev, or wait for the end of its removal where one goes on already."""
        await self.removals.take_away(bdev)

    def hot_remove(self, bdev: Bdev) -> None:
        """Begin to remove a bdev that has nothing to stand on any more, unless somebody does."""
        self.removals.hot_remove(bdev)

    def _gone(self, bdev: Bdev) -> None:
        self.examiner.forget(bdev)

    async def close(self) -> None:
        """Unregister every bdev, stacks from the top, newest first.

        Opens that wait are ended first, and examinations waited for, 5 s at most. One that fails
        to stop (its last sync failed, say) does not keep the others from theirs, nor for longer
        than END_TURN_US one that takes long; the first failure is raised at the end. What is being
        removed already is waited for. What is being made is not, and is refused when it has
        started, however late: nobody would stop it.
        """
        await end_all(self._table, self.removals, self.examiner)

    # Configuration

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC calls that make the same bdevs and waiting creations again.

        They stand behind `bdev_set_options`, whose options are `options`.
        """
        return list(saved_calls(self._table, self.examiner))

    def subsystem_calls(self) -> Iterator[dict[str, Any]]:
        """Yield all calls of the subsystem `bdev`: options first, what waits for disks last."""
        return subsystem_calls(self._table, self.examiner)

    def comes_back(self, bdev: Bdev) -> bool:
        """Say whether a bdev is there when the configuration is loaded."""
        return comes_back(self.creations, bdev)
