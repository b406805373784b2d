"""`bdev_set_options`, `bdev_examine`, `bdev_wait_for_examine`."""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec

from vbdev.api.errors import INVALID_PARAMS, RpcError
from vbdev.api.methods import failures
from vbdev.api.params import Params, Uint32
from vbdev.bdev import BdevError
from vbdev.registry import Registry
from vbdev.registry.options import BdevOptions
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method, State

__all__ = ["register_examine_methods"]

POOL_TOO_SMALL = (INVALID_PARAMS, "Pool size {size} too small for cache size {cache}")


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


def register_examine_methods(
    dispatcher: Dispatcher,
    registry: Registry,
    *,
    num_reactors: Callable[[], int] = lambda: 1,
    apply: Callable[[BdevOptions], object] | None = None,
) -> None:
    """Add them to a dispatcher. `apply` is told of options that were taken."""

    async def set_options(params: SetOptionsParams) -> bool:
        changes = {k: v for k, v in msgspec.structs.asdict(params).items() if v is not None}
        options = msgspec.structs.replace(registry.options, **changes)
        try:
            options.check(num_reactors())
        except BdevError as error:
            code, text = POOL_TOO_SMALL
            size, cache = options.bdev_io_pool_size, options.bdev_io_cache_size
            raise RpcError(code, text.format(size=size, cache=cache)) from error
        registry.set_options(options)
        if apply is not None:
            apply(options)
        return True

    async def examine(params: ExamineParams) -> bool:
        await registry.examiner.request(params.name)
        return True

    async def wait_for_examine(_params: None) -> bool:
        """Wait until no module looks at the data of a bdev any more."""
        await registry.examiner.wait()
        return True

    dispatcher.register(
        Method(
            "bdev_set_options",
            set_options,
            SetOptionsParams,
            states=State.STARTUP,
            errors=(POOL_TOO_SMALL,),
        )
    )
    dispatcher.register(
        Method(
            "bdev_examine",
            examine,
            ExamineParams,
            decode_error_text=DECODE_OBJECT_FAILED,
            errors=failures(errno.EINVAL, errno.EEXIST),
        )
    )
    dispatcher.register(Method("bdev_wait_for_examine", wait_for_examine))
