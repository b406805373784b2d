"""`iobuf_set_options` and `iobuf_get_stats`: memory for data that no client brings along."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

import msgspec

from vbdev.api.errors import INVALID_PARAMS
from vbdev.api.methods import failures
from vbdev.api.params import Params, Uint32, Uint64
from vbdev.api.results import IobufModule, IobufPool
from vbdev.core.engine.engine import Engine
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.registry.options import BdevOptions, IobufOptions
from vbdev.rpc.serving.dispatch import DECODE_OBJECT_FAILED, Dispatcher, Method, State

__all__ = ["Iobuf", "register_iobuf_methods"]

NO_BOUND: Final = 1 << 63


class SetIobufOptionsParams(Params, kw_only=True, frozen=True):
    """Bound the memory for data buffers, before the bdev layer starts. What is absent stays.

    The buffers of each reactor may add up to as much as SPDK's two pools have together: 256 MiB
    without this call, 196 MiB with SPDK's defaults. Sizes are powers of two, cut as needed.
    """

    small_pool_count: Uint64 | None = None
    """Small buffers, 64 at least; 8192 by default."""
    large_pool_count: Uint64 | None = None
    """Large buffers, 8 at least; 1024 by default."""
    small_bufsize: Uint32 | None = None
    """Bytes of a small one, 4096 at least; 8192 by default. What is up to this counts as small in
    `iobuf_get_stats`."""
    large_bufsize: Uint32 | None = None
    """Bytes of a large one, 8192 at least; 135168 by default."""
    enable_numa: bool | None = None
    """Memory near to who uses it: each reactor has its own anyway, on the node it runs on."""


class Iobuf:
    """The options as they are, and whether anybody has set them."""

    def __init__(self) -> None:
        self.options = IobufOptions()
        self.is_set = False

    def config(self) -> list[dict[str, Any]]:
        """Return the RPC call that sets them again; none where nobody has set them."""
        if not self.is_set:
            return []
        params = msgspec.structs.asdict(self.options)
        return [{"method": "iobuf_set_options", "params": params}]


def register_iobuf_methods(
    dispatcher: Dispatcher,
    reactors: Reactors,
    iobuf: Iobuf,
    apply: Callable[[], object],
    caches: Callable[[], BdevOptions],
) -> None:
    """Add them to a dispatcher. `apply` is called when options were set.

    caches: options of the bdev layer, whose caches `iobuf_get_stats` tells.
    """

    async def set_options(params: SetIobufOptionsParams) -> bool:
        given = {k: v for k, v in msgspec.structs.asdict(params).items() if v is not None}
        options = msgspec.structs.replace(iobuf.options, **given)
        options.check()
        iobuf.options, iobuf.is_set = options, True
        apply()
        return True

    async def get_stats(_params: None) -> list[IobufModule]:
        """Say how often a data buffer was asked for, and where it came from."""
        small_bytes = 1 << (iobuf.options.small_bufsize - 1).bit_length()  # sizes are such

        def counts(reactor: Reactor) -> list[tuple[int, int, int]]:
            assert isinstance(reactor.engine, Engine)
            pool = reactor.engine.buffers
            return [pool.counts(0, small_bytes), pool.counts(small_bytes, NO_BOUND)]

        small, large = zip(*await reactors.for_each(counts), strict=True)
        told = caches()
        return [
            IobufModule(
                module="bdev",
                small_pool=added(small, told.iobuf_small_cache_size),
                large_pool=added(large, told.iobuf_large_cache_size),
            )
        ]

    dispatcher.register(
        Method(
            "iobuf_set_options",
            set_options,
            SetIobufOptionsParams,
            INVALID_PARAMS,
            DECODE_OBJECT_FAILED,
            State.STARTUP,
            errors=failures(errno.EINVAL),
            params_optional=False,
        )
    )
    dispatcher.register(
        Method("iobuf_get_stats", get_stats, result=list[IobufModule], unwanted=None)
    )


def added(pools: tuple[tuple[int, int, int], ...], cache_size: int) -> IobufPool:
    """Return the counts of all reactors together. cache_size: of one."""
    cache, main, retry = (sum(counts) for counts in zip(*pools, strict=True))
    return IobufPool(cache=cache, main=main, retry=retry, cache_size=cache_size * len(pools))
