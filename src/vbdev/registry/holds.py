"""Holds: a base that is open and claimed for several vbdevs at once, and for who builds them.

It lasts as long as anybody who `take`s it, or a vbdev that stands on it, has not given
it back. The last one to do so closes the descriptor and ends the claim (SPDK: the base of
`spdk_bdev_part_base_construct_ext`). Belongs to the first reactor.

A vbdev has a list of them, one for each base: each with its claim, its events and its state.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import TracebackType
from typing import Self

from vbdev.bdev import Bdev, BdevError, BdevEvent, VirtualBdev
from vbdev.bdev.contract import Hold
from vbdev.reactor.reactor import Reactor
from vbdev.registry.claims import claim_bdev, claim_descriptor, release_bdev
from vbdev.registry.opening import Opening
from vbdev.registry.table import Table
from vbdev.vocab import ClaimType

__all__ = ["BaseHold", "Holds"]


class BaseHold:
    """One open and one claim of a base, shared. Made by `Registry.hold`, with one user: the caller.

    An asynchronous context manager, which gives the caller's share back:

        async with registry.hold(base, "gpt", holder=f"gpt of {base.name}") as hold:
            for part in parts:
                await registry.build(part, hold)

    claim: what is claimed. `exclusive_write` opens the base for writing, `not_claimed` and
    `read_many_write_none` for reading alone; the two other claims grant writing. on_event: called
    as (vbdev, event) for each that stands on it with what the base tells.
    """

    def __init__(
        self,
        opening: Opening,
        reactor: Reactor,
        base: Bdev,
        module: str,
        *,
        on_event: Callable[[VirtualBdev, BdevEvent], object],
        holder: str,
        claim: ClaimType = ClaimType.EXCLUSIVE_WRITE,
        key: int = 0,
    ) -> None:
        self.base = base
        self.module = module
        self.vbdevs: dict[VirtualBdev, None] = {}
        self._reactor = reactor
        self._on_event = on_event
        self._users = 1
        self._claim = claim
        self.descriptor = opening.open(
            base.name,
            write=claim is ClaimType.EXCLUSIVE_WRITE,
            on_event=self._base_event,
            holder=holder,
        )
        try:
            if claim is ClaimType.EXCLUSIVE_WRITE:
                claim_bdev(base, self.descriptor, module, holder)
            elif claim is not ClaimType.NOT_CLAIMED:
                claim_descriptor(self.descriptor, claim, module, name=holder, key=key)
        except BaseException:
            self.descriptor.close()
            raise

    def _base_event(self, event: BdevEvent) -> None:
        for layer in list(self.vbdevs):
            self._on_event(layer, event)

    def take(self) -> Self:
        """Count one more user."""
        assert self._users > 0, "a hold that has ended can not be taken"
        self._users += 1
        return self

    async def give(self) -> None:
        """Count one user less. The last one waits until the base is closed and unclaimed.

        I/O that the module still has under way on the base, although it has stopped, is waited
        for: who holds the base can be seen all the while.
        """
        assert self._users > 0, "given back more often than taken"
        self._users -= 1
        if self._users:
            return
        try:
            while not await self._closed():
                await self.descriptor.drained()
        finally:
            if self._claim is ClaimType.EXCLUSIVE_WRITE:
                release_bdev(self.base, self.module)

    async def _closed(self) -> bool:
        try:
            await self.descriptor.close()
        except BdevError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.give()


class Holds:
    """Which bases each vbdev stands on.

    on_event: called as (vbdev, event) with what a base tells its opener.
    """

    def __init__(
        self,
        table: Table,
        opening: Opening,
        on_event: Callable[[VirtualBdev, BdevEvent], object],
    ) -> None:
        self._table = table
        self._opening = opening
        self._on_event = on_event
        self._of: dict[VirtualBdev, list[Hold]] = {}

    def hold(
        self,
        base: Bdev,
        module: str,
        *,
        holder: str,
        claim: ClaimType = ClaimType.EXCLUSIVE_WRITE,
        key: int = 0,
    ) -> BaseHold:
        """See `Registry.hold`."""
        if self._table.find(base.name) is not base:  # another one of its name, by now
            raise BdevError(errno.ENODEV, f"bdev {base.name!r} was removed before {holder} had it")
        return BaseHold(
            self._opening,
            self._table.reactor,
            base,
            module,
            on_event=self._on_event,
            holder=holder,
            claim=claim,
            key=key,
        )

    def of(self, layer: VirtualBdev) -> list[Hold]:
        """Return what a vbdev stands on, in the order of its bases."""
        return self._of.get(layer, [])

    def stand(self, layer: VirtualBdev, holds: list[Hold]) -> None:
        """Put a vbdev on bases that are held. It takes a share of each."""
        self._of[layer] = [hold.take() for hold in holds]
        layer.bases = tuple(hold.base for hold in holds)
        layer.base_descriptors = tuple(hold.descriptor for hold in holds)
        layer.base, layer.base_descriptor = layer.bases[0], layer.base_descriptors[0]
        for hold in holds:
            hold.vbdevs[layer] = None

    async def let_go(self, layer: VirtualBdev) -> None:
        """Give its bases back, the last first."""
        for hold in reversed(self._of.pop(layer)):
            del hold.vbdevs[layer]
            await hold.give()
