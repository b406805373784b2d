"""The registry: which bdevs exist, who has them open, and how they come and go.

One owner: everything here runs on the first reactor. Names, aliases and UUIDs share one name
space, compared byte by byte. A vbdev's creation is remembered apart from the vbdev: it outlives
the base's hot removal, waits for a base that is not there yet, is saved with the configuration,
and ends when somebody deletes the vbdev.

Deletion is top-down. `unregister` tells every opener (REMOVE); a vbdev answers by unregistering
itself, which tells its own openers; so a stack unwinds from the top, and each bdev is destroyed
when its last descriptor is closed. Nothing waits without saying for whom.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vbdev.bdev import Bdev, BdevError, BdevEvent, BdevParams, BdevState, Claim, VirtualBdev
from vbdev.descriptor import Descriptor
from vbdev.reactor import Reactor
from vbdev.task import Future
from vbdev.vocab import (
    BLOCK_SIZE_MULTIPLE,
    MAX_BLOCK_SIZE,
    MAX_SIZE_BYTES,
    MAX_STACK_DEPTH,
)

__all__ = ["Creation", "Registry"]

log = logging.getLogger(__name__)

LOOK_AGAIN_US = 1000
"""How often `close` looks whether the bdevs that somebody else removes are gone."""


class Creation:
    """A vbdev that somebody asked for, whether its base is there or not."""

    __slots__ = ("cls", "params")

    def __init__(self, cls: type[VirtualBdev], params: BdevParams) -> None:
        self.cls = cls
        self.params = params

    @property
    def base_name(self) -> str:
        """What the base was called by whoever asked."""
        return self.cls.base_name_of(self.params)


class Registry:
    """The bdevs of one application, in the order in which they were registered."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.bdevs: dict[str, Bdev] = {}
        self.creations: dict[str, Creation] = {}
        self._names: dict[str, Bdev] = {}

    def __iter__(self) -> Iterator[Bdev]:
        return iter(list(self.bdevs.values()))

    # Names

    def find(self, name: str) -> Bdev | None:
        """Return the bdev with this name, alias or UUID."""
        return self._names.get(name)

    def get(self, name: str, kind: str | None = None) -> Bdev:
        """Return the bdev of this name (and kind), or raise BdevError ENODEV."""
        bdev = self._names.get(name)
        if bdev is None:
            raise BdevError(errno.ENODEV, f"there is no bdev {name!r}")
        if kind is not None and bdev.kind != kind:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is a {bdev.kind} bdev and no {kind} bdev")
        return bdev

    def unused_name(self, prefix: str) -> str:
        """Return `prefix` with the lowest number that makes it a name nobody has."""
        number = 0
        while f"{prefix}{number}" in self._names or f"{prefix}{number}" in self.creations:
            number += 1
        return f"{prefix}{number}"

    # Creation

    async def create(self, cls: type[Bdev], params: BdevParams) -> str:
        """Make a bdev and return its name. A vbdev whose base is absent is made when it comes."""
        if not params.name and cls.auto_name:
            params = msgspec.structs.replace(params, name=self.unused_name(cls.auto_name))
        if issubclass(cls, VirtualBdev):
            return await self._create_virtual(Creation(cls, params))
        bdev = cls(params)
        self._check_configured(bdev.name)
        self._check_name(bdev)
        bdev.reactor = self.reactor
        await bdev.start()
        try:
            await self.register(bdev)
        except BaseException:
            await bdev.stop()
            raise
        return bdev.name

    async def _create_virtual(self, creation: Creation) -> str:
        name = creation.params.name
        self._check_configured(name)
        self._check_name(creation.cls(creation.params))
        if name == creation.base_name:
            raise BdevError(errno.EINVAL, f"vbdev {name!r} can not be its own base")
        self.creations[name] = creation
        base = self.find(creation.base_name)
        if base is None or base.state is not BdevState.READY:
            log.info(
                "vbdev creation deferred pending base bdev arrival name=%s base=%s",
                name,
                creation.base_name,
            )
            return name
        try:
            await self._build(creation, base)
        except BaseException:
            if self.creations.get(name) is creation:  # nobody has deleted it meanwhile
                del self.creations[name]
            raise
        return name

    async def _build(self, creation: Creation, base: Bdev) -> None:
        bdev = creation.cls(creation.params)
        depth = 2 + sum(1 for _ in self._bases(base))
        if depth > MAX_STACK_DEPTH:
            raise BdevError(
                errno.ELOOP,
                f"vbdev {bdev.name!r} would be layer {depth}; {MAX_STACK_DEPTH} are the most",
            )
        with contextlib.ExitStack() as undo:
            bdev.reactor = self.reactor
            bdev.base = base
            bdev.base_descriptor = self.open(
                base.name,
                write=True,
                on_event=lambda event: self._base_event(bdev, event),
                holder=f"{bdev.kind} vbdev {bdev.name}",
            )
            undo.callback(bdev.base_descriptor.close)
            self.claim(base, f"{bdev.kind} vbdev {bdev.name}")
            undo.callback(self.release, base)
            bdev.inherit()
            size = base.num_blocks
            await bdev.start()
            try:
                self._check_still_wanted(creation, base)
                if base.num_blocks != size:  # nobody was told, as long as it was not there
                    bdev.base_resized()
                await self.register(bdev)
            except BaseException:
                await bdev.stop()
                raise
            undo.pop_all()

    def _check_still_wanted(self, creation: Creation, base: Bdev) -> None:
        # `start` may have taken its time.
        name = creation.params.name
        if base.state is not BdevState.READY:
            raise BdevError(errno.ENODEV, f"base bdev {base.name} of {name!r} is being removed")
        if self.creations.get(name) is not creation:
            raise BdevError(errno.ENODEV, f"vbdev {name!r} was deleted while it started")

    def _bases(self, bdev: Bdev) -> Iterator[Bdev]:
        while isinstance(bdev, VirtualBdev):
            bdev = bdev.base
            yield bdev

    def _base_event(self, bdev: VirtualBdev, event: BdevEvent) -> None:
        if self.bdevs.get(bdev.name) is not bdev:
            return  # it still starts; `_build` looks for itself when it has
        if event is BdevEvent.REMOVE:
            if bdev.state is BdevState.READY:
                self.reactor.spawn(self.unregister(bdev), f"hot removal of {bdev.name}")
        elif event is BdevEvent.RESIZE:
            bdev.base_resized()

    def _check_configured(self, name: str) -> None:
        if name in self.creations:
            raise BdevError(errno.EEXIST, f"a vbdev {name!r} is configured already")

    def _check_name(self, bdev: Bdev) -> None:
        names = [bdev.name, *bdev.aliases] + ([str(bdev.uuid)] if bdev.uuid else [])
        if not bdev.name:
            raise BdevError(errno.EINVAL, "a bdev needs a name")
        for name in names:
            if name in self._names:
                raise BdevError(
                    errno.EEXIST,
                    f"bdev name {name!r} already exists: it belongs to {self._names[name]!r}",
                )

    async def register(self, bdev: Bdev) -> None:
        """Enter a started bdev, then build the vbdevs that waited for it (spdk_bdev_register)."""
        if not 0 < bdev.block_size <= MAX_BLOCK_SIZE or bdev.block_size % BLOCK_SIZE_MULTIPLE:
            raise BdevError(
                errno.EINVAL,
                f"bdev {bdev.name}: block size {bdev.block_size} is no multiple"
                f" of {BLOCK_SIZE_MULTIPLE} up to {MAX_BLOCK_SIZE}",
            )
        if bdev.num_blocks <= 0:
            raise BdevError(errno.EINVAL, f"bdev {bdev.name} has no blocks")
        if bdev.size_bytes > MAX_SIZE_BYTES:
            raise BdevError(errno.EINVAL, f"bdev {bdev.name} has more than {MAX_SIZE_BYTES} bytes")
        if bdev.uuid is None:
            bdev.uuid = uuid.uuid4()
        self._check_name(bdev)
        bdev.phys_block_size = bdev.phys_block_size or bdev.block_size
        alias = str(bdev.uuid)
        if alias != bdev.name:
            bdev.aliases.insert(0, alias)
        for name in (bdev.name, *bdev.aliases):
            self._names[name] = bdev
        self.bdevs[bdev.name] = bdev
        log.info(
            "bdev registered name=%s kind=%s blocks=%d block_size=%d",
            bdev.name,
            bdev.kind,
            bdev.num_blocks,
            bdev.block_size,
        )
        await self._examine(bdev)

    async def _examine(self, bdev: Bdev) -> None:
        for creation in list(self.creations.values()):
            waiting = creation.params.name not in self.bdevs
            if waiting and self.find(creation.base_name) is bdev:
                try:
                    await self._build(creation, bdev)
                except (BdevError, OSError) as error:
                    # Nobody waits for this: the one who asked has long had an answer.
                    name = creation.params.name
                    log.warning("no vbdev name=%s base=%s error=%s", name, bdev.name, error)
                except Exception:  # a bug in that module, and no fault of the base
                    log.exception(
                        "vbdev creation failed name=%s base=%s", creation.params.name, bdev.name
                    )

    # Opening and claiming

    def open(
        self,
        name: str,
        *,
        write: bool,
        on_event: Callable[[BdevEvent], object],
        holder: str,
    ) -> Descriptor:
        """Open a bdev by name, alias or UUID (spdk_bdev_open_ext).

        Raises BdevError: ENODEV for an unknown bdev or one that is going away, EPERM for writing
        to one that a module has claimed.
        """
        bdev = self.get(name)
        if bdev.state is not BdevState.READY:
            raise BdevError(errno.ENODEV, f"bdev {name!r} is being removed")
        if write and bdev.claim is not None:
            raise BdevError(
                errno.EPERM,
                f"bdev {bdev.name} can not be opened for writing by {holder}:"
                f" claimed ({bdev.claim.kind}) by {bdev.claim.holder}",
            )
        descriptor = Descriptor(bdev, self.reactor, write=write, on_event=on_event, holder=holder)
        bdev.descriptors.append(descriptor)
        return descriptor

    def claim(self, bdev: Bdev, holder: str) -> None:
        """Claim for exclusive writing; EPERM if anybody has."""
        if bdev.claim is not None:
            raise BdevError(
                errno.EPERM,
                f"bdev {bdev.name} already claimed: type {bdev.claim.kind} by {bdev.claim.holder}",
            )
        bdev.claim = Claim(holder)

    def release(self, bdev: Bdev) -> None:
        """Give a claim back."""
        bdev.claim = None

    # Deletion

    async def delete(self, name: str, kind: str) -> None:
        """Delete a bdev that `bdev_<kind>_create` made, or a creation that still waits."""
        creation = self.creations.get(name)
        bdev = self.find(name)
        if bdev is None:
            if creation is not None and creation.cls.kind == kind:
                del self.creations[name]
                return
            raise BdevError(errno.ENODEV, f"there is no {kind} bdev {name!r}")
        self.get(name, kind)
        self.creations.pop(bdev.name, None)
        await self.unregister(bdev)

    async def unregister(self, bdev: Bdev) -> None:
        """Remove a bdev: tell its openers, wait until they have let go, destroy it.

        EBUSY, naming who still holds it, when it is being removed already.
        """
        if bdev.state is not BdevState.READY:
            holders = ", ".join(bdev.holders()) or "nobody"
            raise BdevError(
                errno.EBUSY, f"bdev {bdev.name} is being removed already; held by {holders}"
            )
        bdev.state = BdevState.REMOVING
        closed: Future[None] = Future()

        def check() -> None:
            if not bdev.descriptors and not closed.done:
                closed.set_result(None)

        for descriptor in list(bdev.descriptors):
            for channel in descriptor.channels.values():
                channel.abort_waiting()
            descriptor.on_close(check)
            descriptor.post_event(BdevEvent.REMOVE)
        check()
        await closed
        bdev.state = BdevState.REMOVED
        try:
            await bdev.stop()
        finally:
            # Its names are free only now that its files are: a last sync may have taken long.
            for name in (bdev.name, *bdev.aliases):
                self._names.pop(name, None)
            self.bdevs.pop(bdev.name, None)
            bdev.aliases.clear()
            if isinstance(bdev, VirtualBdev):
                self.release(bdev.base)
                bdev.base_descriptor.close()
        log.info("bdev unregistered name=%s", bdev.name)

    async def close(self) -> None:
        """Unregister every bdev, stacks from the top, newest first.

        One that fails to stop (its last sync failed, say) does not keep the others from theirs;
        the first failure is raised at the end. What is being removed already is waited for.
        """
        self.creations.clear()
        failures: list[Exception] = []
        while self.bdevs:
            idle = [b for b in self.bdevs.values() if b.state is BdevState.READY]
            if not idle:
                await self.reactor.sleep(LOOK_AGAIN_US)
                continue
            unclaimed = [b for b in idle if b.claim is None]
            try:
                await self.unregister((unclaimed or idle)[-1])
            except (BdevError, OSError) as error:
                failures.append(error)
        if failures:
            raise failures[0]

    # Configuration

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC calls that make the same bdevs and waiting creations again."""
        calls = []
        for bdev in self.bdevs.values():
            if bdev.name not in self.creations:
                calls.append({"method": f"bdev_{bdev.kind}_create", "params": bdev.config_params()})
        for creation in self.creations.values():
            live = self.bdevs.get(creation.params.name)
            source = live if live is not None else creation.cls(creation.params)
            calls.append(
                {"method": f"bdev_{creation.cls.kind}_create", "params": source.config_params()}
            )
        return calls
