"""The registry itself: create, register, open, unregister, and the end.

One owner: everything here runs on the first reactor.
"""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vbdev.bdev import (
    Bdev,
    BdevError,
    BdevEvent,
    BdevParams,
    BdevState,
    Unnamed,
    VirtualBdev,
)
from vbdev.bdev.control import Control
from vbdev.bdev.descriptor import Descriptor
from vbdev.bdev.geometry import check_geometry
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, Task, wake
from vbdev.registry.creations import Creation, Creations, build, build_creation
from vbdev.registry.examine import Examiner
from vbdev.registry.holds import BaseHold
from vbdev.registry.names import Names, Numbers
from vbdev.registry.notifications import Notifications
from vbdev.registry.options import BdevOptions
from vbdev.registry.removal import Removal, remove
from vbdev.registry.saved import saved_calls
from vbdev.reports.logs import NOTICE
from vbdev.vocab import (
    ClaimType,
)

__all__ = ["Registry"]

log = logging.getLogger(__name__)

LOOK_AGAIN_US = 1000
"""How often `close` looks whether the bdevs that somebody else removes are gone."""
OPEN_RETRY_MS = 100
"""How often `open_async` looks for its bdev."""
ENDS = "the application ends before the bdev has come"
END_TURN_US = 1_000_000
"""How long the end of one bdev holds up that of others, at the end of all."""
EXAMINE_AT_END_US = 5_000_000
"""How long `close` waits for examinations that go on."""


class Registry:
    """The bdevs of one application, in the order in which they were registered."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.bdevs: dict[str, Bdev] = {}
        self._numbers = Numbers(self._is_taken)
        self.creations = Creations(self._numbers.freed)
        self.removals: dict[Bdev, Removal] = {}
        self.module_options: dict[str, msgspec.Struct] = {}
        """What `bdev_<kind>_set_options` was given last, by kind."""
        self.notifications = Notifications()
        self.examiner = Examiner(self)
        self.options = BdevOptions()
        self.closing = False
        self._closes = 0
        """How often `close` was called."""
        self._names = Names(self._numbers.freed)
        self._starting: set[str] = set()
        """Names of bdevs that are being made, and not entered yet."""
        self._opening: set[Future[None]] = set()
        self._announced: set[Bdev] = set()

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self.bdevs.values()))

    def add_module(self, module: type[Bdev]) -> None:
        """Let a module examine new bdevs, after those that were added before."""
        self.examiner.modules.append(module)

    def set_options(self, options: BdevOptions) -> None:
        """Settle the options of the bdev layer. BdevError EPERM as soon as there are bdevs."""
        if self.bdevs:
            raise BdevError(errno.EPERM, f"options come before bdevs; there are {len(self.bdevs)}")
        self.options = options
        self.examiner.auto = options.bdev_auto_examine

    def _check_here(self, number: int, what: str) -> None:
        if not self.reactor.is_here:
            raise BdevError(
                number, f"{what} off {self.reactor.name}, which owns the bdevs: ask it to"
            )

    # Names

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""
        return self._names.find(name)

    def get(self, name: str, kind: str | None = None) -> Bdev:
        """Return the bdev of this name (and kind), or raise BdevError ENODEV."""
        bdev = self.find(name)
        if bdev is None:
            raise BdevError(errno.ENODEV, f"there is no bdev {name!r}")
        if kind is not None and bdev.kind != kind:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is a {bdev.kind} bdev and no {kind} bdev")
        return bdev

    def unused_name(self, prefix: str) -> str:
        """Return `prefix` with the lowest number that makes it a name nobody has."""
        return self._numbers.unused(prefix)

    def _is_taken(self, name: str) -> bool:
        return name in self._names or name in self.creations or name in self._starting

    def add_alias(self, bdev: Bdev, alias: str | None) -> None:
        """Give a bdev one more name (spdk_bdev_alias_add). EINVAL for none, EEXIST if taken."""
        if alias:
            self._check_spoken_for(alias)
        self._names.add_alias(bdev, alias)

    def drop_alias(self, bdev: Bdev, alias: str) -> None:
        """Take an alias away (spdk_bdev_alias_del); ENOENT for one that it has not."""
        self._names.drop_alias(bdev, alias)

    def drop_aliases(self, bdev: Bdev) -> None:
        """Take all aliases away, the UUID among them (spdk_bdev_alias_del_all)."""
        self._names.drop_aliases(bdev)

    # Creation

    async def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """Make a bdev and return its name. A vbdev whose base is absent is made when it comes."""
        if isinstance(params.name, Unnamed) and cls.auto_name:
            params = msgspec.structs.replace(params, name=self.unused_name(cls.auto_name))
        if issubclass(cls, VirtualBdev):
            return (await self.create_virtual(cls, params)).key
        bdev = cls(params)
        self._check_spoken_for(bdev.name)
        self._names.check(bdev)
        bdev.reactor = self.reactor
        name, closes = bdev.name, self._closes
        self._starting.add(name)  # others ask for names while it takes its time
        try:
            await bdev.start()
        finally:
            self._starting.discard(name)
            self._numbers.freed(name)
        if closes != self._closes:
            await bdev.stop()
            raise BdevError(errno.ESHUTDOWN, f"bdev {name!r}: the application has ended")
        try:
            await self.register(bdev)
        except BaseException:
            await bdev.stop()
            raise
        return bdev.name

    async def create_virtual(self, cls: type[VirtualBdev], params: BdevParams) -> Creation:
        """Ask for the vbdevs of a module's `plan`; `Creation.vbdevs` says which are there."""
        creation = Creation(cls, params)
        key = creation.key
        # Otherwise the plan says how the vbdevs are called. What can never be comes before names.
        alone = cls(params) if key == params.name else None
        if (before := self.creations.get(key)) is not None and before.cls is cls:
            same = before.renew(params)
            if same:
                return before
            if same is False:
                del self.creations[key]
        self._check_spoken_for(key)
        if alone is not None:
            self._names.check(alone)
            if key == creation.base_name:
                raise BdevError(errno.EINVAL, f"vbdev {key!r} can not be its own base")
        self.creations[key] = creation
        base = self.find(creation.base_name)
        if base is None or base.state is not BdevState.READY:
            log.log(
                NOTICE,
                "vbdev creation deferred pending base bdev arrival name=%s base=%s",
                key,
                creation.base_name,
            )
            return creation
        try:
            await build_creation(self, creation, base)
        except BaseException:
            if self.creations.get(key) is creation:  # nobody has deleted it meanwhile
                del self.creations[key]
            raise
        return creation

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
        return BaseHold(self, base, module, holder=holder, claim=claim, key=key)

    async def build(self, layer: VirtualBdev, hold: BaseHold) -> None:
        """Start and register a vbdev on a held base, without a creation.

        It goes with its base, and is not saved: what made it (a table on the disk, say) makes it
        again.
        """
        self._check_spoken_for(layer.name)
        await build(self, layer, hold)

    def base_event(self, layer: VirtualBdev, event: BdevEvent) -> None:
        """Pass what a base tells its opener on to a vbdev that stands on it."""
        if self.bdevs.get(layer.name) is not layer:
            return  # it still starts; `build` looks for itself when it has
        if event is BdevEvent.REMOVE:
            self.hot_remove(layer)
        elif event is BdevEvent.RESIZE:
            layer.base_resized()

    def hot_remove(self, bdev: Bdev) -> None:
        """Begin to remove a bdev that has nothing to stand on any more, unless somebody does."""

        async def go() -> None:
            if bdev.state is BdevState.READY:
                await self.unregister(bdev)

        self.reactor.spawn(go(), f"hot removal of {bdev.name}")

    def _check_spoken_for(self, name: str) -> None:
        if name in self.creations:
            raise BdevError(errno.EEXIST, f"a vbdev {name!r} is configured already")
        if name in self._starting:
            raise BdevError(errno.EEXIST, f"a bdev {name!r} is being made already")

    async def register(self, bdev: Bdev, creation: Creation | None = None) -> None:
        """Enter a started bdev, then examine it (spdk_bdev_register).

        Raises BdevError: EINVAL without a name, a block size or blocks, EEXIST where one of its
        names is taken, ESHUTDOWN at the end of the application. Whoever made the bdev stops it
        then. Later than that it is the registry's. EINVAL on any reactor but the registry's.
        """
        self._check_here(errno.EINVAL, f"bdev {bdev.name!r} was registered")
        check_geometry(bdev)
        if self.closing:
            raise BdevError(errno.ESHUTDOWN, f"bdev {bdev.name!r}: the application ends")
        if bdev.uuid is None:
            bdev.uuid = uuid.uuid4()
        bdev.write_unit_size = bdev.write_unit_size or 1
        bdev.acwu = bdev.acwu or bdev.write_unit_size
        bdev.phys_block_size = bdev.phys_block_size or bdev.data_block_size
        self._names.add(bdev)
        self.bdevs[bdev.name] = bdev
        if isinstance(bdev, VirtualBdev):
            bdev.creation = creation
            if creation is not None:
                creation.vbdevs[bdev] = None
        bdev.on_resize = self._resized
        bdev.control = Control(bdev)
        log.info(
            "bdev registered name=%s kind=%s blocks=%d block_size=%d",
            bdev.name,
            bdev.kind,
            bdev.num_blocks,
            bdev.block_size,
        )
        await self.examiner.examine(bdev)
        self._announce(bdev)

    def _announce(self, bdev: Bdev) -> None:
        # What stands on it is there by now. One that goes before that came all the same.
        if bdev not in self._announced and self.bdevs.get(bdev.name) is bdev:
            self._announced.add(bdev)
            self.notifications.send("bdev_register", bdev.name)

    def _resized(self, bdev: Bdev) -> None:
        if bdev in self._announced:
            self.notifications.send("bdev_resize", bdev.name)

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
        if not self.reactor.is_here:
            raise BdevError(
                errno.ENOTSUP,
                f"{holder}: bdevs are opened on {self.reactor.name}, which another reactor asks to",
            )
        if not callable(on_event):
            raise BdevError(errno.EINVAL, f"{holder}: an open of bdev {name!r} needs an on_event")
        bdev = self.get(name)
        if bdev.state is not BdevState.READY:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is being removed")
        if write and bdev.claim is not None:
            raise BdevError(
                errno.EPERM,
                f"bdev {bdev.name} can not be opened for writing by {holder}:"
                f" claimed ({bdev.claim.kind}) by {bdev.claim.holder}",
            )
        if hide_metadata and bdev.md_len and not bdev.md_interleave:
            raise BdevError(
                errno.EINVAL,
                f"{holder}: the metadata of bdev {bdev.name} can not be hidden: it is separate",
            )
        descriptor = Descriptor(
            bdev,
            reactor or self.reactor,
            write=write,
            on_event=on_event,
            holder=holder,
            hide_metadata=hide_metadata,
        )
        bdev.descriptors.append(descriptor)
        return descriptor

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

        timeout_ms: how long to look for it, each 100 ms; 0: once. Raises BdevError as `open`
        does, ETIMEDOUT when it has not come, ESHUTDOWN when the application ends meanwhile.
        """
        waited_ms = 0
        while True:
            try:
                return self.open(
                    name, write=write, on_event=on_event, holder=holder, reactor=reactor
                )
            except BdevError as error:
                if error.errno != errno.ENODEV or not timeout_ms:
                    raise
                if waited_ms >= timeout_ms:
                    raise BdevError(
                        errno.ETIMEDOUT,
                        f"{holder}: no bdev {name!r} came within {timeout_ms} ms",
                    ) from error
            pause_ms = min(OPEN_RETRY_MS, timeout_ms - waited_ms)
            await self._pause(pause_ms * 1000)
            waited_ms += pause_ms

    async def _pause(self, delay_us: int) -> None:
        """Sleep; BdevError ESHUTDOWN when `close` begins meanwhile, or has begun."""
        if self.closing:
            raise BdevError(errno.ESHUTDOWN, ENDS)
        future: Future[None] = Future()
        self._opening.add(future)
        timer = self.reactor.call_later(delay_us, lambda: wake(future))
        try:
            await future
        finally:
            timer.cancel()
            self._opening.discard(future)

    # Deletion

    async def delete(self, name: str, kind: str) -> None:
        """Delete a bdev that `bdev_<kind>_create` made, or a creation that still waits."""
        creation = self.creations.get(name)
        if self.find(name) is None and creation is not None and creation.cls.kind == kind:
            await self.delete_creation(creation)
            return
        if self.find(name) is None:
            raise BdevError(errno.ENODEV, f"there is no {kind} bdev {name!r}")
        await self.delete_bdev(self.get(name, kind))

    async def delete_creation(self, creation: Creation) -> None:
        """Forget a creation, and remove what there is of it, the latest first.

        What is being built of it gives up when it has started, and is waited for: afterwards the
        base is free.
        """
        if self.creations.get(creation.key) is creation:
            del self.creations[creation.key]
        while creation.building:
            await self.reactor.sleep(LOOK_AGAIN_US)
        for layer in reversed(list(creation.vbdevs)):
            await self.take_away(layer)

    async def delete_bdev(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """Unregister a bdev for good: the creation that is for it alone goes first."""
        creation = bdev.creation if isinstance(bdev, VirtualBdev) else None
        if creation is not None and creation.key == bdev.name:
            self.creations.forget(bdev.name)
        await self.unregister(bdev, timeout_ms)

    async def unregister(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """Remove a bdev: tell its openers, wait until they have let go, destroy it.

        timeout_ms: when to stop waiting, if ever. Raises BdevError: ETIMEDOUT, naming the holders,
        when it is not gone by then, and the removal goes on; EBUSY, naming them, when it is being
        removed already; ENOTSUP off the registry's reactor. What the bdev's `stop` raises comes
        here too, and the bdev is gone.
        """
        self._check_here(errno.ENOTSUP, f"bdev {bdev.name} was unregistered")
        await remove(self, bdev, timeout_ms)

    async def take_away(self, bdev: Bdev) -> None:
        """Unregister a bdev, or wait for the end of its removal where one goes on already."""
        removal = self.removals.get(bdev)
        if removal is not None:
            await removal.task
        elif bdev.state is BdevState.READY:
            await self.unregister(bdev)

    def forget(self, bdev: Bdev) -> None:
        """Take a bdev's names away. For its removal alone."""
        self.examiner.forget(bdev)
        self._announce(bdev)
        self._announced.discard(bdev)
        self.notifications.send("bdev_unregister", bdev.name)
        self._names.remove(bdev)
        self.bdevs.pop(bdev.name, None)
        self.removals.pop(bdev, None)
        if not isinstance(bdev, VirtualBdev) or bdev.creation is None:
            return
        creation = bdev.creation
        del creation.vbdevs[bdev]
        hot_removed = bdev.base.state is not BdevState.READY
        gone = not creation.vbdevs and hot_removed and not creation.cls.survives_base
        if gone and self.creations.get(creation.key) is creation:
            del self.creations[creation.key]

    async def close(self) -> None:
        """Unregister every bdev, stacks from the top, newest first.

        Opens that wait are ended first, and examinations waited for, 5 s at most. One that fails
        to stop (its last sync failed, say) does not keep the others from theirs, nor for longer
        than END_TURN_US one that takes long; the first failure is raised at the end. What is being
        removed already is waited for. What is being made is not, and is refused when it has
        started, however late: nobody would stop it.
        """
        self.closing = True
        self._closes += 1
        try:
            await self._close()
        finally:
            self.closing = False

    async def _close(self) -> None:
        self.creations.clear()
        for future in list(self._opening):
            if not future.done:
                future.set_exception(BdevError(errno.ESHUTDOWN, ENDS))
        for examination in await self.examiner.wait(EXAMINE_AT_END_US):
            log.warning("the end does not wait any longer for the examination: %s", examination)
        failures: list[Exception] = []
        ends: list[Task[None]] = []
        while self.bdevs:
            # What stands on a bdev came later: from the end, each is free when its turn comes.
            for bdev in reversed(list(self.bdevs.values())):
                if bdev.state is BdevState.READY and bdev.claim is None:
                    await self._end(bdev, failures, ends)
            idle = [b for b in self.bdevs.values() if b.state is BdevState.READY]
            if any(b.claim is None for b in idle):
                continue
            if not idle or not all(task.done for task in ends):
                await self.reactor.sleep(LOOK_AGAIN_US)
                continue
            bdev, claim = idle[-1], idle[-1].claim
            assert claim is not None
            log.warning(
                "unregistering claimed bdev name=%s claim=%s by=%s",
                bdev.name,
                claim.kind,
                claim.holder,
            )
            await self._end(bdev, failures, ends)
        for task in ends:
            await task
        if failures:
            raise failures[0]

    async def _end(self, bdev: Bdev, failures: list[Exception], ends: list[Task[None]]) -> None:
        """Unregister a bdev. One that takes long is added to `ends`: the next one's turn is due."""

        async def unregister() -> None:
            try:
                await self.unregister(bdev)
            except (BdevError, OSError) as error:
                failures.append(error)

        done: Future[None] = Future()
        task = self.reactor.spawn(unregister(), f"end of {bdev.name}")
        task.add_done_callback(lambda _task: wake(done))
        timer = self.reactor.call_later(END_TURN_US, lambda: wake(done))
        await done
        timer.cancel()
        if not task.done:
            log.info("the end of a bdev takes long, others go on bdev=%s", bdev.name)
        ends.append(task)

    # Configuration

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC calls that make the same bdevs and waiting creations again.

        They stand behind `bdev_set_options`, whose options are `options`.
        """
        return list(saved_calls(self))
