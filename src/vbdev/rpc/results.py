"""What RPC methods answer with: each answer's fields, their types and their order, declared once.

Handlers return these; the schema, the reference page and the typed clients are made from them, so
nothing of the compiled core is imported here. A field that may be absent is UNSET then; one that
may be null says `| None`. Names, order and types are SPDK's where the method is.

Ticks are nanoseconds: a `tick_rate` of 1,000,000,000.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "BdevInfo",
    "BdevIostat",
    "ChannelIostat",
    "Claim",
    "ConfigCall",
    "ContextSwitches",
    "DifCheckTypes",
    "Export",
    "Governor",
    "Histogram",
    "HistogramBorders",
    "Holder",
    "Holders",
    "IoChannel",
    "IoChannels",
    "IobufModule",
    "IobufPool",
    "Iostat",
    "LwThread",
    "MemoryDomain",
    "NbdDisk",
    "Notification",
    "PollerInfo",
    "RateLimits",
    "ReactorInfo",
    "ReactorList",
    "Result",
    "Scheduler",
    "StackEntry",
    "Subsystem",
    "SupportedIoTypes",
    "ThreadIoChannels",
    "ThreadPollers",
    "ThreadStats",
    "ThreadsPollers",
    "ThreadsStats",
    "Version",
    "VersionFields",
]


class Result(msgspec.Struct, kw_only=True):
    """Base of what a method answers with. Each field has a docstring: unit, when it is absent."""


# spdk_*, framework_*


class VersionFields(Result, kw_only=True):
    """The parts of a version."""

    major: int
    """Of the SPDK release whose methods are served."""
    minor: int
    """The same."""
    patch: int
    """The same."""
    suffix: str
    """`-vbdev-` and the version of vbdev."""


class Version(Result, kw_only=True):
    """The version of what answers."""

    version: str
    """The fields, written together."""
    fields: VersionFields
    """For programs."""


class Subsystem(Result, kw_only=True):
    """A part of the application that has a configuration."""

    subsystem: str
    """Its name."""
    depends_on: list[str]
    """Subsystems that are initialised before it."""


class ConfigCall(Result, kw_only=True):
    """A call that makes part of the present configuration again."""

    method: str
    """Name of the method."""
    params: dict[str, Any] | UnsetType = UNSET
    """Its parameters; absent where it takes none."""


class ContextSwitches(Result, kw_only=True):
    """Whether context switches are reported to the log."""

    enabled: bool
    """Whether each reactor reports its own, once a second."""


class Scheduler(Result, kw_only=True):
    """What decides on which reactor a thread runs."""

    scheduler_name: str
    """`static`: a thread stays where it is."""
    scheduler_period: int
    """How often it decides, in us; 0: never again."""
    isolated_core_mask: str
    """Cores that it leaves alone, in hexadecimal."""
    scheduling_core: int
    """The reactor that it runs on."""


class Governor(Result, kw_only=True):
    """What sets the frequencies of CPUs: an empty object, because there is none."""


# thread_*, framework_get_reactors


class ThreadStats(Result, kw_only=True):
    """How busy a thread is."""

    name: str
    """Name of the thread: of the reactor, which is the same here."""
    id: int
    """Number of the thread, from 1."""
    cpumask: str
    """CPUs that it may run on, in hexadecimal."""
    busy: int
    """Ticks in which there was something to do."""
    idle: int
    """The other ticks."""
    in_interrupt: bool
    """Whether it waits in the kernel when it has nothing to do."""
    active_pollers_count: int
    """Pollers that run at every turn."""
    timed_pollers_count: int
    """Pollers that run from time to time."""
    paused_pollers_count: int
    """Pollers that do not run for now."""


class ThreadsStats(Result, kw_only=True):
    """How busy the threads are."""

    tick_rate: int
    """Ticks a second."""
    threads: list[ThreadStats]
    """Each thread."""


class PollerInfo(Result, kw_only=True):
    """A function that a thread calls again and again."""

    name: str
    """Name of the poller."""
    id: int
    """Number of the poller."""
    state: str
    """`waiting`, `running`, `unregistered`, `pausing` or `paused`."""
    run_count: int
    """How often it has run."""
    busy_count: int
    """How often there was something to do."""
    period_ticks: int | UnsetType = UNSET
    """Interval of a timed poller, in ticks."""


class ThreadPollers(Result, kw_only=True):
    """The pollers of a thread."""

    name: str
    """Name of the thread."""
    id: int
    """Number of the thread."""
    active_pollers: list[PollerInfo]
    """Those that run at every turn."""
    timed_pollers: list[PollerInfo]
    """Those that run from time to time."""
    paused_pollers: list[PollerInfo]
    """Those that do not run for now."""


class ThreadsPollers(Result, kw_only=True):
    """The pollers of all threads."""

    tick_rate: int
    """Ticks a second."""
    threads: list[ThreadPollers]
    """Each thread."""


class IoChannel(Result, kw_only=True):
    """A thread's path to a device."""

    name: str
    """`bdev_` and the bdev's name."""
    ref: int
    """How often it is open."""


class ThreadIoChannels(Result, kw_only=True):
    """The I/O channels of a thread."""

    name: str
    """Name of the thread."""
    io_channels: list[IoChannel]
    """One for each bdev that it has open."""


class IoChannels(Result, kw_only=True):
    """The I/O channels of all threads."""

    tick_rate: int
    """Ticks a second."""
    threads: list[ThreadIoChannels]
    """Each thread."""


class LwThread(Result, kw_only=True):
    """A thread that a reactor runs."""

    name: str
    """Name of the thread."""
    id: int
    """Number of the thread."""
    cpumask: str
    """CPUs that it may run on, in hexadecimal."""
    elapsed: int
    """Ticks since its start."""


class ReactorInfo(Result, kw_only=True):
    """A reactor and what runs on it."""

    lcore: int
    """Number of the reactor, from 0."""
    tid: int
    """The kernel's number of its thread."""
    busy: int
    """Ticks in which there was something to do."""
    idle: int
    """The other ticks."""
    in_interrupt: bool
    """Whether it waits in the kernel when it has nothing to do."""
    irq: int
    """Time in interrupts; 0, because the kernel counts none for a thread."""
    sys: int
    """CPU time of its thread inside the kernel, in USER_HZ (hundredths of a second)."""
    usr: int
    """CPU time of its thread outside the kernel, likewise."""
    lw_threads: list[LwThread]
    """Its thread; always one."""


class ReactorList(Result, kw_only=True):
    """All reactors."""

    tick_rate: int
    """Ticks a second."""
    pid: int
    """Process id of the daemon."""
    reactors: list[ReactorInfo]
    """Each reactor."""


# notify_*


class Notification(Result, kw_only=True):
    """Something that happened."""

    type: str
    """What: one of `notify_get_types`."""
    ctx: str
    """Name of the bdev that it happened to."""
    id: int
    """Number of the event; counts up from 0."""


# iobuf_*


class IobufPool(Result, kw_only=True):
    """How often a buffer of some size was asked for, on all reactors."""

    cache: int
    """One that was in use before was handed out."""
    main: int
    """One was made of new memory."""
    retry: int
    """There was none to be had. Whoever asked waits, and asks again when others were given back."""


class IobufModule(Result, kw_only=True):
    """Data buffers of one user."""

    module: str
    """`bdev`; there is no other."""
    small_pool: IobufPool
    """Buffers up to `small_bufsize`."""
    large_pool: IobufPool
    """Larger ones."""


# bdev_get_bdevs


class DifCheckTypes(Result, kw_only=True):
    """Which parts of protection information are checked."""

    reftag: bool
    """The reference tag."""
    apptag: bool
    """The application tag."""
    guard: bool
    """The guard, a checksum."""


class RateLimits(Result, kw_only=True):
    """Rate limits; 0 is unlimited."""

    rw_ios_per_sec: int
    """Reads and writes a second."""
    rw_mbytes_per_sec: int
    """MiB a second, reads and writes together."""
    r_mbytes_per_sec: int
    """MiB a second that are read."""
    w_mbytes_per_sec: int
    """MiB a second that are written."""


class SupportedIoTypes(Result, kw_only=True):
    """The I/O types that a bdev carries out."""

    read: bool
    """READ."""
    write: bool
    """WRITE."""
    unmap: bool
    """UNMAP: blocks are given back."""
    flush: bool
    """FLUSH: what was written becomes stable."""
    reset: bool
    """RESET: outstanding I/O ends."""
    nvme_admin: bool
    """NVMe admin commands."""
    nvme_io: bool
    """NVMe I/O commands."""
    nvme_io_md: bool
    """NVMe I/O commands with separate metadata."""
    write_zeroes: bool
    """WRITE_ZEROES, emulated or not."""
    zcopy: bool
    """ZCOPY: the bdev's own memory is lent."""
    get_zone_info: bool
    """GET_ZONE_INFO."""
    zone_management: bool
    """ZONE_MANAGEMENT."""
    zone_append: bool
    """ZONE_APPEND."""
    compare: bool
    """COMPARE."""
    compare_and_write: bool
    """COMPARE_AND_WRITE, atomically."""
    abort: bool
    """ABORT."""
    seek_hole: bool
    """SEEK_HOLE."""
    seek_data: bool
    """SEEK_DATA."""
    copy: bool
    """COPY inside the bdev."""
    nvme_iov_md: bool
    """NVMe I/O commands with scattered data and separate metadata."""
    nvme_nssr: bool
    """NVM subsystem reset."""
    write_uncorrectable: bool
    """WRITE_UNCORRECTABLE."""


class MemoryDomain(Result, kw_only=True):
    """A kind of memory that a bdev uses where it is."""

    dma_device_type: int
    """The kind (SPDK: enum spdk_dma_device_type)."""


class BdevInfo(Result, kw_only=True):
    """A bdev."""

    name: str
    """Name of the bdev."""
    aliases: list[str]
    """Other names, the UUID among them."""
    product_name: str
    """What kind of bdev it is, for humans."""
    block_size: int
    """Bytes of a block, interleaved metadata included."""
    num_blocks: int
    """Size in blocks."""
    preferred_write_alignment: int
    """Blocks; a hint to writers, 0 for none, as are the next four."""
    preferred_write_granularity: int
    """Blocks."""
    optimal_write_size: int
    """Blocks."""
    preferred_unmap_alignment: int
    """Blocks."""
    preferred_unmap_granularity: int
    """Blocks."""
    uuid: str
    """UUID, in lower case."""
    numa_id: int | UnsetType = UNSET
    """NUMA node of its memory; absent where that is any."""
    md_size: int | UnsetType = UNSET
    """Bytes of metadata of each block; absent, with the next two, where there is none."""
    md_interleave: bool | UnsetType = UNSET
    """Whether the metadata is part of the block."""
    dif_type: int | UnsetType = UNSET
    """Type of protection information, 1 to 3; 0 for none."""
    dif_is_head_of_md: bool | UnsetType = UNSET
    """Whether it stands at the start of the metadata; absent, with the next two, without any."""
    enabled_dif_check_types: DifCheckTypes | UnsetType = UNSET
    """What of it is checked."""
    dif_pi_format: int | UnsetType = UNSET
    """0, 1, 2: a guard of 16, 32, 64 bits."""
    assigned_rate_limits: RateLimits
    """As `bdev_set_qos_limit` has set them."""
    claimed: bool
    """Whether a module has claimed it."""
    claim_type: str | UnsetType = UNSET
    """How it is claimed; absent where it is not."""
    zoned: bool
    """Whether it has zones."""
    zone_size: int | UnsetType = UNSET
    """Blocks of a zone; absent, with the next two, without zones."""
    max_open_zones: int | UnsetType = UNSET
    """How many zones may be open; 0 for any number."""
    optimal_open_zones: int | UnsetType = UNSET
    """How many zones are best open at once."""
    supported_io_types: SupportedIoTypes
    """What it carries out."""
    memory_domains: list[MemoryDomain] | UnsetType = UNSET
    """Kinds of memory that it uses where it is; absent where there are none."""
    driver_specific: dict[str, Any]
    """What the module tells of it."""


# bdev_get_iostat and histograms


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


# vbdev_*


class Holder(Result, kw_only=True):
    """Who has a bdev open."""

    holder: str
    """Who, for humans."""
    write: bool
    """Whether for writing too."""
    claim_type: str | None
    """How it has claimed the bdev, if it has."""
    outstanding: int
    """I/Os that it waits for."""
    thread: str
    """Name of the thread that it belongs to."""


class Claim(Result, kw_only=True):
    """Who has claimed a bdev."""

    module: str
    """Kind of the module."""
    name: str
    """For whom, for humans."""


class Holders(Result, kw_only=True):
    """Who has a bdev open or claimed, and whom a removal waits for."""

    name: str
    """Name of the bdev."""
    state: str
    """`ready`, `removing`, or `stopping` when nobody has it open any more."""
    removing_ms: int | None
    """For how long it has been going away, in ms."""
    claim_type: str | None
    """How it is claimed, if it is."""
    claims: list[Claim]
    """By whom."""
    examined_by: list[str]
    """Modules that look at its data now."""
    holders: list[Holder]
    """Who has it open."""


class StackEntry(Result, kw_only=True):
    """A bdev, or one that waits for its base, as `vbdev ls` shows it."""

    name: str
    """Name of the bdev."""
    kind: str
    """Its module."""
    block_size: int
    """Bytes of data of a block."""
    md_size: int
    """Bytes of metadata of a block."""
    num_blocks: int
    """Size in blocks; 0 where it waits for its base."""
    zone_size: int
    """Blocks of a zone; 0 without zones."""
    base: str | None
    """Name of the bdev that it stands on, if it does."""
    state: str
    """As in `vbdev_get_holders`, or `waiting for its base`."""
    removing_ms: int | None
    """For how long it has been going away, in ms."""
    claim: str | None
    """Who has claimed it, if anybody, for humans."""
    claim_type: str | None
    """How it is claimed, if it is."""
    holders: list[str]
    """Who has it open, for humans."""
    busy: dict[str, int]
    """I/Os outstanding by who waits for them."""
    examined_by: list[str]
    """Modules that look at its data now."""
    outstanding: int
    """I/Os outstanding."""


# nbd_*


class Export(Result, kw_only=True):
    """A bdev that NBD clients can use."""

    export_name: str
    """What clients ask for."""
    bdev_name: str
    """Name of the bdev."""
    read_only: bool
    """Whether writes are refused."""
    description: str
    """For humans."""
    default: bool
    """Whether clients that ask for no name get it."""
    size_bytes: int
    """Size in bytes."""
    connections: int
    """Clients that use it now."""
    addresses: list[str]
    """Where the server listens."""


class NbdDisk(Result, kw_only=True):
    """A bdev that is a block device of this machine."""

    nbd_device: str
    """Path of the device."""
    bdev_name: str
    """Name of the bdev."""
