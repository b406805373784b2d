"""Latency histograms of a bdev: one for each channel, added up when somebody asks.

The bdev's own (`Entry.histogram`) says what is counted and how, and has the counts of channels
that are closed: a channel belongs to a descriptor here, and comes and goes with it.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from vbdev.bdev.channels import GATHER_ATTEMPTS, for_each_channel
from vbdev.bdev.contract import Bdev
from vbdev.bdev.entry import entry_of
from vbdev.core.counts.histogram import MAX_GRANULARITY, Histogram
from vbdev.core.engine.channel import Channel
from vbdev.vocab import OP_NAMES, Op
from vbdev.vocab.errors import BdevError

__all__ = [
    "DEFAULT_GRANULARITY",
    "DEFAULT_MAX_NSEC",
    "DEFAULT_MIN_NSEC",
    "disable_histogram",
    "enable_histogram",
    "get_histogram",
    "histogram_config",
]

DEFAULT_GRANULARITY: Final = 7
DEFAULT_MIN_NSEC: Final = 1_000
DEFAULT_MAX_NSEC: Final = 120_000_000_000
ALL_OPS: Final = (1 << 64) - 1


async def enable_histogram(
    bdev: Bdev,
    *,
    op: Op | None = None,
    granularity: int = DEFAULT_GRANULARITY,
    min_nsec: int = DEFAULT_MIN_NSEC,
    max_nsec: int = DEFAULT_MAX_NSEC,
) -> None:
    """Count the latencies of one I/O type, or of all, from nothing on.

    granularity: log2 of the buckets into which a power of two is cut. min_nsec, max_nsec: what is
    told apart; the first and the last bucket have what lies outside. BdevError: EINVAL for a
    layout that can not be, EAGAIN while another change is under way.
    (SPDK: spdk_bdev_histogram_enable_ext.)
    """
    if not 0 <= granularity <= MAX_GRANULARITY:
        raise BdevError(
            errno.EINVAL,
            f"histogram of bdev {bdev.name}: granularity {granularity} is not within 0"
            f" and {MAX_GRANULARITY}",
        )
    if min_nsec >= max_nsec:
        raise BdevError(
            errno.EINVAL,
            f"histogram of bdev {bdev.name}: min_nsec {min_nsec} is not below max_nsec {max_nsec}",
        )
    layout = Histogram(
        granularity=granularity,
        min_ns=min_nsec,
        max_ns=max_nsec,
        ops=ALL_OPS if op is None else 1 << op,
    )
    await _change(bdev, layout)


async def disable_histogram(bdev: Bdev) -> None:
    """Count no more, and forget the counts. BdevError EAGAIN during another change."""
    await _change(bdev, None)


async def _change(bdev: Bdev, layout: Histogram | None) -> None:
    entry = entry_of(bdev)
    with entry.changing_channels("histogram"):

        def apply(channel: Channel) -> None:
            channel.set_histogram(layout.like() if layout is not None else None)

        entry.histogram = layout  # channels made from now on have it
        await for_each_channel(bdev, apply)


async def get_histogram(bdev: Bdev) -> Histogram:
    """Return what all channels have counted, open and closed; EFAULT where nothing counts."""
    entry = entry_of(bdev)
    layout = entry.histogram
    if layout is None:
        raise BdevError(errno.EFAULT, f"bdev {bdev.name} has no histogram; enable it first")
    parts: list[Histogram] = []

    def collect(channel: Channel) -> None:
        counted = channel.histogram_copy()
        if counted is not None:
            parts.append(counted)

    for _ in range(GATHER_ATTEMPTS):
        parts.clear()
        closed = entry.folds
        await for_each_channel(bdev, collect)
        if closed == entry.folds:  # else one that was visited may count twice
            break
    total = layout.like()
    for part in (layout, *parts):
        if part.same_layout(layout):  # it may have been changed meanwhile
            total.add(part)
    return total


def histogram_config(bdev: Bdev) -> list[dict[str, Any]]:
    """Return the RPC call that enables the same histogram again; none where there is none."""
    layout = entry_of(bdev).histogram
    if layout is None:
        return []
    params: dict[str, Any] = {"name": bdev.name, "enable": True}
    if layout.ops != ALL_OPS:
        params["opc"] = OP_NAMES[Op(layout.ops.bit_length() - 1)]
    params |= {
        "granularity": layout.granularity,
        "min_nsec": layout.min_ns,
        "max_nsec": layout.max_ns,
    }
    return [{"method": "bdev_enable_histogram", "params": params}]
