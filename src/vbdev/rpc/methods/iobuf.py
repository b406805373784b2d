"""`iobuf_set_options` and `iobuf_get_stats`: memory for data that no client brings along."""

from __future__ import annotations

import errno
from typing import Final

import msgspec

from vbdev.api.methods import DECODE_OBJECT_INVALID, Method, State, failures
from vbdev.api.params import Params, Uint32, Uint64
from vbdev.api.results import IobufModule, IobufPool
from vbdev.core.engine.engine import Engine
from vbdev.reactor.reactor import Reactor
from vbdev.rpc.methods.plane import Plane

__all__ = ["METHODS"]

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


async def set_options(plane: Plane, params: SetIobufOptionsParams) -> bool:
    given = {k: v for k, v in msgspec.structs.asdict(params).items() if v is not None}
    options = msgspec.structs.replace(plane.iobuf.options, **given)
    options.check()
    plane.iobuf.options, plane.iobuf.is_set = options, True
    plane.renew_engines()
    return True


async def get_stats(plane: Plane, _params: None) -> list[IobufModule]:
    """Say how often a data buffer was asked for, and where it came from."""
    small_bytes = 1 << (plane.iobuf.options.small_bufsize - 1).bit_length()  # sizes are such

    def counts(reactor: Reactor) -> list[tuple[int, int, int]]:
        assert isinstance(reactor.engine, Engine)
        pool = reactor.engine.buffers
        return [pool.counts(0, small_bytes), pool.counts(small_bytes, NO_BOUND)]

    small, large = zip(*await plane.reactors.for_each(counts), strict=True)
    told = plane.registry.options
    return [
        IobufModule(
            module="bdev",
            small_pool=added(small, told.iobuf_small_cache_size),
            large_pool=added(large, told.iobuf_large_cache_size),
        )
    ]


def added(pools: tuple[tuple[int, int, int], ...], cache_size: int) -> IobufPool:
    """Return the counts of all reactors together. cache_size: of one."""
    cache, main, retry = (sum(counts) for counts in zip(*pools, strict=True))
    return IobufPool(cache=cache, main=main, retry=retry, cache_size=cache_size * len(pools))


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "iobuf_set_options",
        SetIobufOptionsParams,
        set_options,
        DECODE_OBJECT_INVALID,
        states=State.STARTUP,
        errors=failures(errno.EINVAL),
        params_optional=False,
    ),
    Method("iobuf_get_stats", None, get_stats, result=list[IobufModule], unwanted=None),
)
