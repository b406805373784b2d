"""What is said of threads and reactors, which are one thing here. Ticks are nanoseconds."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from vbdev.api.results.base import Result

__all__ = [
    "IoChannel",
    "IoChannels",
    "LwThread",
    "PollerInfo",
    "ReactorInfo",
    "ReactorList",
    "ThreadIoChannels",
    "ThreadPollers",
    "ThreadStats",
    "ThreadsPollers",
    "ThreadsStats",
]


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
    numa_id: int
    """NUMA node of its CPUs; -1 where they are of several, or any."""
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
