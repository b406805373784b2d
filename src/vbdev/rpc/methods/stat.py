"""What a bdev counts and lets through: iostat, histograms, queue depth, rate limits."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import UNSET

from vbdev.api import results
from vbdev.api.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError, error_from_errno
from vbdev.api.methods import DECODE_OBJECT_FAILED, Method, Refusal, failures
from vbdev.api.params import BdevName, Params, Uint8, Uint64
from vbdev.api.results import BdevIostat, ChannelIostat, HistogramBorders, Iostat
from vbdev.bdev import Bdev, BdevError, BdevState
from vbdev.bdev.channels import for_each_channel, gather_iostat
from vbdev.bdev.entry import entry_of
from vbdev.bdev.figures.histograms import (
    DEFAULT_GRANULARITY,
    DEFAULT_MAX_NSEC,
    DEFAULT_MIN_NSEC,
    disable_histogram,
    enable_histogram,
    get_histogram,
)
from vbdev.bdev.figures.queue_depth import set_sampling_period
from vbdev.bdev.figures.rates import LIMIT_NAMES, set_rate_limits
from vbdev.bdev.iostat import IoTotals
from vbdev.core.counts.histogram import Histogram
from vbdev.core.engine.channel import Channel
from vbdev.reactor.reactor import Reactor
from vbdev.registry import Registry
from vbdev.rpc.bdev_info import iostat
from vbdev.rpc.methods.plane import Plane
from vbdev.rpc.serving.turns import long_answer
from vbdev.vocab import OP_NAMES

__all__ = ["METHODS"]

NO_DEVICE: Final = failures(errno.ENODEV)
INVALID: Final = failures(errno.EINVAL)
INVALID_IO_TYPE: Final = Refusal(INTERNAL_ERROR, "Invalid Io type")
NOT_ENABLED: Final = Refusal(INTERNAL_ERROR, os.strerror(errno.EFAULT))
"""SPDK's answer, with the code of another failure, where there is no histogram."""
NO_LIMITS: Final = Refusal(-errno.EINVAL, "No rate limits specified")
LIMIT_REFUSED: Final = Refusal(INVALID_PARAMS, "Failed to configure rate limit: {reason}")

TICK_RATE = 1_000_000_000
"""Ticks are nanoseconds."""

UINT64_MAX = (1 << 64) - 1
T = TypeVar("T")
ResetMode = Literal["all", "maxmin", "error", "none"]


class GetIostatParams(Params, kw_only=True, frozen=True):
    """Counters of I/O since the bdev was made, or reset."""

    names: Annotated[list[BdevName], msgspec.Meta(max_length=1024)] | None = None
    """Names of bdevs; all when absent."""
    name: BdevName | None = None
    """One bdev, instead of `names`: what SPDK took until 26.05, and control planes send."""
    per_channel: bool = False
    """One bdev's counters channel by channel."""
    reset_mode: ResetMode = "none"
    """What to set back after it was read."""


class ResetIostatParams(Params, kw_only=True, frozen=True):
    """Set counters of I/O back."""

    name: BdevName | None = None
    """Name of a bdev; all when absent."""
    mode: ResetMode = "all"
    """What to set back."""


class EnableHistogramParams(Params, kw_only=True, frozen=True):
    """Begin or end a latency histogram."""

    name: BdevName
    """Name of the bdev."""
    enable: bool
    """Whether to count."""
    opc: str | None = None
    """I/O type that is counted, as bdev_get_bdevs calls it; all when absent."""
    granularity: Uint8 = DEFAULT_GRANULARITY
    """Log2 of the buckets into which a power of two is cut."""
    min_nsec: Uint64 = DEFAULT_MIN_NSEC
    """Least latency that is told apart, in ns."""
    max_nsec: Uint64 = DEFAULT_MAX_NSEC
    """Greatest latency that is told apart, in ns."""


class NameParams(Params, kw_only=True, frozen=True):
    """About one bdev."""

    name: BdevName
    """Name of the bdev."""


class HistogramBordersParams(Params, kw_only=True, frozen=True):
    """How many latencies lie up to each border."""

    name: BdevName
    """Name of the bdev."""
    borders: Annotated[list[Uint64], msgspec.Meta(max_length=256)]
    """Borders in us, in ascending order."""


class QosLimitParams(Params, kw_only=True, frozen=True):
    """Limit the rate of a bdev's I/O. What is not given stays; 0 is unlimited."""

    name: BdevName
    """Name of the bdev."""
    rw_ios_per_sec: Uint64 | None = None
    """Reads and writes a second, rounded up to whole thousands."""
    rw_mbytes_per_sec: Uint64 | None = None
    """MiB a second, reads and writes together."""
    r_mbytes_per_sec: Uint64 | None = None
    """MiB a second that are read."""
    w_mbytes_per_sec: Uint64 | None = None
    """MiB a second that are written."""


class SamplingPeriodParams(Params, kw_only=True, frozen=True):
    """Sample how many I/Os are outstanding."""

    name: BdevName
    """Name of the bdev."""
    period: Uint64
    """Interval in us; 0 ends it."""


def ready(registry: Registry, name: str) -> Bdev:
    bdev = registry.get(name)
    if bdev.state is not BdevState.READY:
        raise BdevError(errno.ENODEV, f"bdev {name!r} is being removed")
    return bdev


async def get_iostat(plane: Plane, params: GetIostatParams) -> Iostat:
    ticks = plane.registry.reactor.clock.now_ns()
    names = params.names
    if params.name is not None:
        if names is not None:
            raise BdevError(errno.EINVAL, "name and names exclude each other")
        names = [params.name]
    if params.per_channel and len(names or []) != 1:
        raise BdevError(errno.EINVAL, f"per_channel needs one name in names, not {names or []}")
    if names is None:
        bdevs = [bdev for bdev in plane.registry if bdev.state is BdevState.READY]
    else:
        bdevs = [ready(plane.registry, name) for name in names]
    if params.per_channel:
        channels = await _per_channel(bdevs[0], params.reset_mode)
        return Iostat(tick_rate=TICK_RATE, ticks=ticks, name=bdevs[0].name, channels=channels)
    counted = []
    async with long_answer(plane.registry.reactor):
        for bdev in bdevs:
            telling = partial(_device_stat, bdev, params.reset_mode)
            stat = await (telling() if names is not None else _unless_gone(bdev, telling))
            if stat is not None:
                counted.append(stat)
            await plane.registry.reactor.breathe()
    return Iostat(tick_rate=TICK_RATE, ticks=ticks, bdevs=counted)


async def _unless_gone(bdev: Bdev, tell: Callable[[], Awaitable[T]]) -> T | None:
    """Return what is told of a bdev; None where that goes, or has gone, while others were told of.

    Who asks about all bdevs has not asked about this one.
    """
    try:
        return await tell() if bdev.state is BdevState.READY else None
    except BdevError as error:
        if error.errno != errno.ENODEV or bdev.state is BdevState.READY:
            raise
        return None


async def reset_iostat(plane: Plane, params: ResetIostatParams) -> bool:
    if params.mode == "none":
        return True
    if params.name is None:
        bdevs = [bdev for bdev in plane.registry if bdev.state is BdevState.READY]
    else:
        bdevs = [ready(plane.registry, params.name)]
    for bdev in bdevs:
        reading = partial(_read_totals, bdev, params.mode)
        if await (reading() if params.name is not None else _unless_gone(bdev, reading)):
            bdev.reset_stat()
        await plane.registry.reactor.breathe()
    return True


async def set_histogram(plane: Plane, params: EnableHistogramParams) -> bool:
    bdev = ready(plane.registry, params.name)
    op = None
    if params.opc is not None:
        op = next((op for op, name in OP_NAMES.items() if name == params.opc), None)
        if op is None:
            raise INVALID_IO_TYPE.error(f"opc: {params.opc!r} is no I/O type")
    if not params.enable:
        await disable_histogram(bdev)
        return True
    await enable_histogram(
        bdev,
        op=op,
        granularity=params.granularity,
        min_nsec=params.min_nsec,
        max_nsec=params.max_nsec,
    )
    return True


async def histogram_of(plane: Plane, name: str) -> Histogram:
    bdev = ready(plane.registry, name)
    try:
        return await get_histogram(bdev)
    except BdevError as error:
        raise RpcError(INTERNAL_ERROR, os.strerror(error.errno), str(error)) from error


async def histogram(plane: Plane, params: NameParams) -> results.Histogram:
    """Return a bdev's latency histogram."""
    counted = await histogram_of(plane, params.name)
    return results.Histogram(
        histogram=base64.b64encode(counted.tobytes()).decode(),
        granularity=counted.granularity,
        min_range=counted.min_range,
        max_range=counted.max_range,
        tsc_rate=TICK_RATE,
    )


async def histogram_borders(plane: Plane, params: HistogramBordersParams) -> HistogramBorders:
    counted = await histogram_of(plane, params.name)
    borders_ns = [border * 1000 for border in params.borders]
    return HistogramBorders(borders_count=counted.up_to(borders_ns))


async def set_qos_limit(plane: Plane, params: QosLimitParams) -> bool:
    bdev = ready(plane.registry, params.name)
    # SPDK's mark for a limit that was not given is the greatest number.
    given = {name: getattr(params, name) for name in LIMIT_NAMES}
    limits = {n: v for n, v in given.items() if v is not None and v != UINT64_MAX}
    if not limits:
        raise NO_LIMITS.error()
    try:
        await set_rate_limits(bdev, limits)
    except BdevError as error:
        reason = error_from_errno(error.errno).message
        raise LIMIT_REFUSED.error(str(error), reason=reason) from error
    return True


async def set_period(plane: Plane, params: SamplingPeriodParams) -> bool:
    set_sampling_period(ready(plane.registry, params.name), params.period)
    return True


async def _device_stat(bdev: Bdev, reset_mode: str) -> BdevIostat:
    stat = iostat(
        BdevIostat,
        await _read_totals(bdev, reset_mode),
        bdev.block_size,
        name=bdev.name,
        driver_specific=bdev.dump_stat() or UNSET,
    )
    sampled = entry_of(bdev).queue_depth
    if sampled is not None and sampled.period_us:
        stat.queue_depth_polling_period = sampled.period_us
        stat.queue_depth = sampled.queue_depth
        stat.io_time = sampled.io_time_us
        stat.weighted_io_time = sampled.weighted_io_time_us
    return stat


async def _read_totals(bdev: Bdev, reset_mode: str) -> IoTotals:
    """Return what all channels, open and closed, have counted; then set back what is asked."""
    if reset_mode == "none":
        return (await gather_iostat(bdev))[0]
    totals = IoTotals()
    for part in (await _read_channels(bdev, reset_mode)).values():
        totals.add(part)
    closed = entry_of(bdev).totals
    totals.add(closed)
    closed.reset(**_what(reset_mode))
    return totals


async def _per_channel(bdev: Bdev, reset_mode: str) -> list[ChannelIostat]:
    """Return the open channels' counters by reactor, as SPDK has one channel for each thread."""
    found = await _read_channels(bdev, reset_mode)
    return [
        iostat(ChannelIostat, totals, bdev.block_size, thread_id=reactor.id)
        for reactor, totals in sorted(found.items(), key=lambda item: item[0].id)
    ]


async def _read_channels(bdev: Bdev, reset_mode: str) -> dict[Reactor, IoTotals]:
    """Read each channel's counters, and set them back in the same visit, so that none is lost."""
    found: dict[Reactor, IoTotals] = {}
    what = _what(reset_mode)

    def read(channel: Channel) -> None:
        here = Reactor.current()
        assert here is not None
        found.setdefault(here, IoTotals()).add(channel)
        channel.reset_stats(**what)

    await for_each_channel(bdev, read)
    return found


def _what(reset_mode: str) -> dict[str, bool]:
    return {
        "counts": reset_mode == "all",
        "extremes": reset_mode in ("all", "maxmin"),
        "errors": reset_mode in ("all", "error"),
    }


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method(
        "bdev_get_iostat",
        GetIostatParams,
        get_iostat,
        DECODE_OBJECT_FAILED,
        Iostat,
        errors=(*NO_DEVICE, *INVALID),
    ),
    Method(
        "bdev_reset_iostat",
        ResetIostatParams,
        reset_iostat,
        DECODE_OBJECT_FAILED,
        errors=NO_DEVICE,
    ),
    Method(
        "bdev_enable_histogram",
        EnableHistogramParams,
        set_histogram,
        DECODE_OBJECT_FAILED,
        errors=(*NO_DEVICE, *INVALID, INVALID_IO_TYPE, *failures(errno.EAGAIN)),
    ),
    Method(
        "bdev_get_histogram",
        NameParams,
        histogram,
        DECODE_OBJECT_FAILED,
        results.Histogram,
        errors=(*NO_DEVICE, NOT_ENABLED),
    ),
    Method(
        "bdev_get_histogram_borders",
        HistogramBordersParams,
        histogram_borders,
        DECODE_OBJECT_FAILED,
        HistogramBorders,
        errors=(*NO_DEVICE, NOT_ENABLED),
    ),
    Method(
        "bdev_set_qos_limit",
        QosLimitParams,
        set_qos_limit,
        DECODE_OBJECT_FAILED,
        errors=(*NO_DEVICE, NO_LIMITS, LIMIT_REFUSED),
    ),
    Method(
        "bdev_set_qd_sampling_period",
        SamplingPeriodParams,
        set_period,
        DECODE_OBJECT_FAILED,
        errors=(*NO_DEVICE, *INVALID),
    ),
)
