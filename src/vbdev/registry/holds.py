"""Holds: a base bdev, opened and claimed once for all the vbdevs that a module has on it.

Counted: a hold lasts while somebody who `take`s it, or a vbdev that stands on it, has not given
it back. The last one to do so closes the descriptor and ends the claim (SPDK: the base of
`spdk_bdev_part_base_construct_ext`). Belongs to the first reactor.
"""

from __future__ import annotations

import errno
from types import TracebackType
from typing import TYPE_CHECKING, Self

from vbdev.bdev import Bdev, BdevError, BdevEvent, VirtualBdev
from vbdev.registry.claims import claim_bdev, claim_descriptor, release_bdev
from vbdev.vocab import ClaimType

if TYPE_CHECKING:
    from vbdev.registry.registry import Registry

__all__ = ["BaseHold"]

LOOK_AGAIN_US = 1000
"""How often a hold that ends looks whether the module's own I/O has ended."""


class BaseHold:
    """One open and one claim of a base, shared. Made by `Registry.hold`, with one user: the caller.

    An asynchronous context manager, which gives the caller's share back:

        async with registry.hold(base, "gpt", holder=f"gpt of {base.name}") as hold:
            for part in parts:
                await registry.build(part, hold)

    claim: what is claimed. `exclusive_write` opens the base for writing, `not_claimed` and
    `read_many_write_none` for reading alone; the two other claims grant writing.
    """

    def __init__(
        self,
        registry: Registry,
        base: Bdev,
        module: str,
        *,
        holder: str,
        claim: ClaimType = ClaimType.EXCLUSIVE_WRITE,
        key: int = 0,
    ) -> None:
        if registry.find(base.name) is not base:  # another one of its name, by now
            raise BdevError(errno.ENODEV, f"bdev {base.name!r} was removed before {holder} had it")
        self.base = base
        self.module = module
        self.vbdevs: dict[VirtualBdev, None] = {}
        self._registry = registry
        self._users = 1
        self._claim = claim
        self.descriptor = registry.open(
            base.name,
            write=claim is ClaimType.EXCLUSIVE_WRITE,
            on_event=self._on_event,
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

    def _on_event(self, event: BdevEvent) -> None:
        for layer in list(self.vbdevs):
            self._registry.base_event(layer, event)

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
                await self._registry.reactor.sleep(LOOK_AGAIN_US)
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
