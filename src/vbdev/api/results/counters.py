"""What bdevs have counted. Ticks are nanoseconds: a `tick_rate` of 1,000,000,000."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from vbdev.api.results.base import Result

__all__ = [
    "BdevIostat",
    "ChannelIostat",
    "Histogram",
    "HistogramBorders",
    "Iostat",
]


class BdevIostat(Result, kw_only=True):
    """What a bdev has counted. Latencies are sums, in ticks."""

    name: str
    """Name of the bdev."""
    bytes_read: int
    """Bytes read."""
    num_read_ops: int
    """READs."""
    bytes_written: int
    """Bytes written."""
    num_write_ops: int
    """WRITEs."""
    bytes_unmapped: int
    """Bytes unmapped."""
    num_unmap_ops: int
    """UNMAPs."""
    bytes_copied: int
    """Bytes copied."""
    num_copy_ops: int
    """COPYs."""
    read_latency_ticks: int
    """Latency of all READs."""
    max_read_latency_ticks: int
    """Of the slowest one."""
    min_read_latency_ticks: int
    """Of the fastest one; 0 where there was none."""
    write_latency_ticks: int
    """Latency of all WRITEs."""
    max_write_latency_ticks: int
    """Of the slowest one."""
    min_write_latency_ticks: int
    """Of the fastest one."""
    unmap_latency_ticks: int
    """Latency of all UNMAPs."""
    max_unmap_latency_ticks: int
    """Of the slowest one."""
    min_unmap_latency_ticks: int
    """Of the fastest one."""
    copy_latency_ticks: int
    """Latency of all COPYs."""
    max_copy_latency_ticks: int
    """Of the slowest one."""
    min_copy_latency_ticks: int
    """Of the fastest one."""
    io_error: dict[str, int]
    """How many I/Os ended with which status; empty where none failed."""
    queue_depth_polling_period: int | UnsetType = UNSET
    """Interval in us at which outstanding I/Os are counted; absent, with the next three, where they
    are not (bdev_set_qd_sampling_period)."""
    queue_depth: int | UnsetType = UNSET
    """I/Os outstanding when it was last looked."""
    io_time: int | UnsetType = UNSET
    """us in which any was outstanding."""
    weighted_io_time: int | UnsetType = UNSET
    """us in which they were outstanding, times how many they were."""
    driver_specific: dict[str, Any] | UnsetType = UNSET
    """What the module counts itself; absent where that is nothing."""


class ChannelIostat(Result, kw_only=True):
    """What a bdev's channels on one thread have counted. Latencies are sums, in ticks."""

    thread_id: int
    """Number of the thread."""
    bytes_read: int
    """Bytes read."""
    num_read_ops: int
    """READs."""
    bytes_written: int
    """Bytes written."""
    num_write_ops: int
    """WRITEs."""
    bytes_unmapped: int
    """Bytes unmapped."""
    num_unmap_ops: int
    """UNMAPs."""
    bytes_copied: int
    """Bytes copied."""
    num_copy_ops: int
    """COPYs."""
    read_latency_ticks: int
    """Latency of all READs."""
    max_read_latency_ticks: int
    """Of the slowest one."""
    min_read_latency_ticks: int
    """Of the fastest one; 0 where there was none."""
    write_latency_ticks: int
    """Latency of all WRITEs."""
    max_write_latency_ticks: int
    """Of the slowest one."""
    min_write_latency_ticks: int
    """Of the fastest one."""
    unmap_latency_ticks: int
    """Latency of all UNMAPs."""
    max_unmap_latency_ticks: int
    """Of the slowest one."""
    min_unmap_latency_ticks: int
    """Of the fastest one."""
    copy_latency_ticks: int
    """Latency of all COPYs."""
    max_copy_latency_ticks: int
    """Of the slowest one."""
    min_copy_latency_ticks: int
    """Of the fastest one."""
    io_error: dict[str, int]
    """How many I/Os ended with which status; empty where none failed."""


class Iostat(Result, kw_only=True):
    """Counters of bdevs, or of one bdev's channels."""

    tick_rate: int
    """Ticks a second."""
    ticks: int
    """The time of the counting, in ticks since the machine's start."""
    bdevs: list[BdevIostat] | UnsetType = UNSET
    """Each bdev; absent with `per_channel`."""
    name: str | UnsetType = UNSET
    """Name of the bdev, with `per_channel` alone."""
    channels: list[ChannelIostat] | UnsetType = UNSET
    """Each thread that has the bdev open, with `per_channel` alone."""


class Histogram(Result, kw_only=True):
    """Latencies, counted in buckets (SPDK: histogram_data.h)."""

    histogram: str
    """The buckets, unsigned 64-bit little-endian numbers, in base64."""
    granularity: int
    """log2 of the buckets into which a power of two is cut."""
    min_range: int
    """First range that is told apart."""
    max_range: int
    """The one behind the last."""
    tsc_rate: int
    """Ticks a second."""


class HistogramBorders(Result, kw_only=True):
    """How many latencies lie up to each border."""

    borders_count: list[int]
    """How many lie up to each border that was given; last, how many there are."""
