"""`vbdev_get_holders` and `vbdev_unregister`: who holds a bdev, and its end with a deadline."""

from __future__ import annotations

import errno
from typing import Annotated, Final

import msgspec

from vbdev.api.methods import Method, failures
from vbdev.api.params import BdevName, Params
from vbdev.api.results import Holders
from vbdev.rpc.bdev_info import who_holds
from vbdev.rpc.methods.plane import Plane
from vbdev.rpc.serving.turns import long_answer

__all__ = ["METHODS"]


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


async def get_holders(plane: Plane, params: GetHoldersParams) -> list[Holders]:
    bdevs = list(plane.registry) if params.name is None else [plane.registry.get(params.name)]
    held = []
    async with long_answer(plane.registry.reactor):
        for bdev in bdevs:
            if plane.registry.find(bdev.name) is bdev:  # still: others have run in between
                held.append(who_holds(plane.registry, bdev))
            await plane.registry.reactor.breathe()
    return held


async def unregister(plane: Plane, params: UnregisterParams) -> bool:
    await plane.registry.delete_bdev(plane.registry.get(params.name), params.timeout_ms)
    return True


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "vbdev_get_holders",
        GetHoldersParams,
        get_holders,
        result=list[Holders],
        errors=failures(errno.ENODEV),
    ),
    Method(
        "vbdev_unregister",
        UnregisterParams,
        unregister,
        errors=failures(errno.ENODEV, errno.ETIMEDOUT),
    ),
)
