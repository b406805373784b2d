"""`vbdev_get_holders` and `vbdev_unregister`: who holds a bdev, and its end with a deadline."""

from __future__ import annotations

import errno
from typing import Annotated

import msgspec

from vbdev.api.methods import failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import Holders
from vbdev.registry import Registry
from vbdev.rpc.methods.bdev_info import who_holds
from vbdev.rpc.serving.dispatch import Dispatcher, Method
from vbdev.rpc.serving.turns import long_answer

__all__ = ["register_holder_methods"]


class GetHoldersParams(Params, kw_only=True, frozen=True):
    """Say who has bdevs open or claimed, and whom a removal waits for."""

    name: BdevName | None = None
    """Name, alias or UUID of one bdev; all when absent."""


class UnregisterParams(Params, kw_only=True, frozen=True):
    """Delete a bdev of any kind."""

    name: BdevName
    """Name, alias or UUID of the bdev."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)] | None = None
    """After this long the answer is ETIMEDOUT, which names the holders; the removal goes on."""


def register_holder_methods(dispatcher: Dispatcher, registry: Registry) -> None:
    """Add them to a dispatcher."""

    async def get_holders(params: GetHoldersParams) -> list[Holders]:
        bdevs = list(registry) if params.name is None else [registry.get(params.name)]
        held = []
        async with long_answer(registry.reactor):
            for bdev in bdevs:
                if registry.find(bdev.name) is bdev:  # still: others have run in between
                    held.append(who_holds(registry, bdev))
                await registry.reactor.breathe()
        return held

    async def unregister(params: UnregisterParams) -> bool:
        await registry.delete_bdev(registry.get(params.name), params.timeout_ms)
        return True

    dispatcher.register(
        Method(
            "vbdev_get_holders",
            get_holders,
            GetHoldersParams,
            result=list[Holders],
            errors=failures(errno.ENODEV),
        )
    )
    dispatcher.register(
        Method(
            "vbdev_unregister",
            unregister,
            UnregisterParams,
            errors=failures(errno.ENODEV, errno.ETIMEDOUT),
        )
    )
