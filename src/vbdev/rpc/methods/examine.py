"""`bdev_set_options`, `bdev_examine`, `bdev_wait_for_examine`."""

from __future__ import annotations

import errno
from typing import Final

import msgspec

from vbdev.api.errors import INVALID_PARAMS
from vbdev.api.methods import DECODE_OBJECT_INVALID, Method, Refusal, State, failures
from vbdev.api.params import Params, Uint32
from vbdev.bdev import BdevError
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]

POOL_TOO_SMALL: Final = Refusal(INVALID_PARAMS, "Pool size {size} too small for cache size {cache}")


class SetOptionsParams(Params, kw_only=True, frozen=True):
    """Set options of the bdev layer, before it starts. What is absent stays as it is."""

    bdev_io_pool_size: Uint32 | None = None
    """BdevIOs of one reactor."""
    bdev_io_cache_size: Uint32 | None = None
    """BdevIOs that SPDK caches for each thread; the pool must hold one more such cache."""
    bdev_auto_examine: bool | None = None
    """Examine every new bdev; else those that `bdev_examine` names."""
    iobuf_small_cache_size: Uint32 | None = None
    """Small buffers that SPDK caches for each thread; of no effect here."""
    iobuf_large_cache_size: Uint32 | None = None
    """Large ones; of no effect here."""


class ExamineParams(Params, kw_only=True, frozen=True):
    """Examine a bdev, now or when it comes, where not every bdev is examined."""

    name: str
    """Name or alias of the bdev."""


async def set_options(plane: Plane, params: SetOptionsParams) -> bool:
    changes = {k: v for k, v in msgspec.structs.asdict(params).items() if v is not None}
    options = msgspec.structs.replace(plane.registry.options, **changes)
    try:
        options.check(len(plane.reactors))
    except BdevError as error:
        size, cache = options.bdev_io_pool_size, options.bdev_io_cache_size
        raise POOL_TOO_SMALL.error(size=size, cache=cache) from error
    plane.registry.set_options(options)
    plane.renew_engines()
    return True


async def examine(plane: Plane, params: ExamineParams) -> bool:
    await plane.registry.examiner.request(params.name)
    return True


async def wait_for_examine(plane: Plane, _params: None) -> bool:
    """Wait until no module looks at the data of a bdev any more."""
    await plane.registry.examiner.wait()
    return True


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "bdev_set_options",
        SetOptionsParams,
        set_options,
        states=State.STARTUP,
        errors=(POOL_TOO_SMALL,),
    ),
    Method(
        "bdev_examine",
        ExamineParams,
        examine,
        DECODE_OBJECT_INVALID,
        errors=failures(errno.EINVAL, errno.EEXIST),
    ),
    Method("bdev_wait_for_examine", None, wait_for_examine),
)
