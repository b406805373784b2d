"""The `thread_*` methods and `framework_get_reactors`: what each reactor does.

SPDK's threads are scheduled on its reactors; here they are the same thing, one each. Ticks are
nanoseconds. What belongs to a reactor is asked of it by message, one after the other.
"""

from __future__ import annotations

import errno
import os
import re
import resource
from typing import Final

from msgspec import UNSET

from vbdev.api.errors import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from vbdev.api.methods import DECODE_OBJECT_INVALID, NO_ARGUMENTS, Method, Refusal
from vbdev.api.params import Params, Uint64
from vbdev.api.results import (
    IoChannel,
    IoChannels,
    LwThread,
    PollerInfo,
    ReactorInfo,
    ReactorList,
    ThreadIoChannels,
    ThreadPollers,
    ThreadsPollers,
    ThreadsStats,
    ThreadStats,
)
from vbdev.bdev.entry import entry_of
from vbdev.bdev.host import Opener
from vbdev.reactor.poller import Poller, PollerState
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.rpc.methods.plane import Plane
from vbdev.vocab.cpu_sets import node_of_cpus, parse_cpu_set, show_cpu_mask, usable_cpus

__all__ = ["METHODS", "given_cpus"]

TICK_RATE = 1_000_000_000
USER_HZ = os.sysconf("SC_CLK_TCK")


class SetCpumaskParams(Params, kw_only=True, frozen=True):
    """Bind a thread to CPUs."""

    id: Uint64
    """Number of the thread (`thread_get_stats`)."""
    cpumask: str
    """CPUs as a hexadecimal mask (3, 0x3) or a list ([0,2-3]). Those that the daemon was not given
    at its start are left out; one at least has to remain."""


NO_THREAD: Final = Refusal(INVALID_PARAMS, "Thread {id} does not exist")
INVALID_MASK: Final = Refusal(INTERNAL_ERROR, "Invalid cpumask {cpumask}")
NO_CPU: Final = Refusal(INTERNAL_ERROR, "No CPU is selected from reactor mask {mask}")


def given_cpus(reactors: Reactors) -> frozenset[int]:
    """Return the CPUs that threads may be bound to. To be asked before any of them is."""
    given = set().union(*(reactor.core.cpus for reactor in reactors))
    return frozenset(given & usable_cpus() or usable_cpus())


async def get_stats(plane: Plane, _params: None) -> ThreadsStats:
    """Say how busy each thread is."""
    return ThreadsStats(tick_rate=TICK_RATE, threads=await plane.reactors.for_each(stats))


async def get_pollers(plane: Plane, _params: None) -> ThreadsPollers:
    """List what each thread calls again and again."""
    return ThreadsPollers(tick_rate=TICK_RATE, threads=await plane.reactors.for_each(pollers))


async def get_io_channels(plane: Plane, _params: None) -> IoChannels:
    """List the bdevs that each thread has a channel to."""
    opened = [(bdev.name, one) for bdev in plane.registry for one in entry_of(bdev).openers]
    threads = await plane.reactors.for_each(lambda reactor: io_channels(reactor, opened))
    return IoChannels(tick_rate=TICK_RATE, threads=threads)


async def get_reactors(plane: Plane, _params: None) -> ReactorList:
    """List the reactors and what runs on them."""
    return ReactorList(
        tick_rate=TICK_RATE,
        pid=os.getpid(),
        reactors=sorted(await plane.reactors.for_each(reactor_info), key=lambda one: one.lcore),
    )


async def set_cpumask(plane: Plane, params: SetCpumaskParams) -> bool:
    reactor = next((reactor for reactor in plane.reactors if reactor.id == params.id), None)
    if reactor is None:
        raise NO_THREAD.error(id=params.id)
    cpus = cpus_of(params.cpumask) & plane.cpus
    if not cpus:
        mask = show_cpu_mask(plane.cpus)
        raise NO_CPU.error(f"cpumask: {params.cpumask}", mask=mask)
    try:
        await reactor.ask(os.sched_setaffinity, 0, cpus)  # 0: whoever calls
    except OSError as error:  # the kernel has taken CPUs away from the daemon meanwhile
        reason = os.strerror(error.errno or errno.EINVAL)
        raise RpcError(INTERNAL_ERROR, reason, f"{reactor.name}: {error}") from error
    return True


def cpus_of(mask: str) -> frozenset[int]:
    """Return the CPUs of a mask, possibly none. RpcError."""
    if re.fullmatch(r"\s*(0[xX])?0+\s*", mask):
        return frozenset()
    try:
        return parse_cpu_set(mask)
    except ValueError as error:
        raise INVALID_MASK.error(str(error), cpumask=mask) from error


# Each is called on the reactor that it describes


def stats(reactor: Reactor) -> ThreadStats:
    """Return an element of `thread_get_stats`."""
    busy_ns, idle_ns = reactor.times_ns()
    active, timed, paused = by_kind(reactor)
    return ThreadStats(
        name=reactor.name,
        id=reactor.id,
        cpumask=cpu_mask(),
        busy=busy_ns,
        idle=idle_ns,
        active_pollers_count=len(active),
        timed_pollers_count=len(timed),
        paused_pollers_count=len(paused),
    )


def pollers(reactor: Reactor) -> ThreadPollers:
    """Return an element of `thread_get_pollers`."""
    active, timed, paused = by_kind(reactor)
    return ThreadPollers(
        name=reactor.name,
        id=reactor.id,
        active_pollers=[poller_info(poller) for poller in active],
        timed_pollers=[poller_info(poller) for poller in timed],
        paused_pollers=[poller_info(poller) for poller in paused],
    )


def poller_info(poller: Poller) -> PollerInfo:
    """Return what is known of one poller."""
    return PollerInfo(
        name=poller.name,
        id=poller.id,
        state=poller.state.value,
        run_count=poller.stats.run_count,
        busy_count=poller.stats.busy_count,
        period_ticks=poller.period_ticks if poller.period_us else UNSET,
    )


def by_kind(reactor: Reactor) -> tuple[list[Poller], list[Poller], list[Poller]]:
    """Return a reactor's pollers: those of each turn, the timed ones, the paused ones."""
    paused = [p for p in reactor.pollers if p.state is PollerState.PAUSED]
    running = [p for p in reactor.pollers if p.state is not PollerState.PAUSED]
    active = [p for p in running if not p.period_us]
    return active, [p for p in running if p.period_us], paused


def io_channels(reactor: Reactor, opened: list[tuple[str, Opener]]) -> ThreadIoChannels:
    """Return an element of `thread_get_io_channels`: one channel for each bdev."""
    refs: dict[str, int] = {}
    for bdev_name, opener in opened:
        count = opener.channel_refs()
        if count:
            name = f"bdev_{bdev_name}"
            refs[name] = refs.get(name, 0) + count
    return ThreadIoChannels(
        name=reactor.name,
        io_channels=[IoChannel(name=name, ref=count) for name, count in refs.items()],
    )


def reactor_info(reactor: Reactor) -> ReactorInfo:
    """Return an element of `framework_get_reactors`."""
    busy_ns, idle_ns = reactor.times_ns()
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return ReactorInfo(
        lcore=reactor.core.number,
        numa_id=node_of_cpus(reactor.core.cpus),
        tid=reactor.native_id,
        busy=busy_ns,
        idle=idle_ns,
        in_interrupt=True,  # without work it waits in the kernel
        irq=0,  # the kernel counts none for a thread
        sys=int(usage.ru_stime * USER_HZ),
        usr=int(usage.ru_utime * USER_HZ),
        lw_threads=[
            LwThread(
                name=reactor.name,
                id=reactor.id,
                cpumask=cpu_mask(),
                elapsed=busy_ns + idle_ns,
            )
        ],
    )


def cpu_mask() -> str:
    """Return the CPUs that the calling thread may run on, in hexadecimal."""
    return show_cpu_mask(usable_cpus())


METHODS: Final[tuple[Method[Plane], ...]] = (
    Method("thread_get_stats", None, get_stats, result=ThreadsStats, unwanted=NO_ARGUMENTS),
    Method("thread_get_pollers", None, get_pollers, result=ThreadsPollers, unwanted=NO_ARGUMENTS),
    Method(
        "thread_get_io_channels", None, get_io_channels, result=IoChannels, unwanted=NO_ARGUMENTS
    ),
    Method(
        "framework_get_reactors",
        None,
        get_reactors,
        result=ReactorList,
        unwanted="`{name}` requires no arguments",
    ),
    Method(
        "thread_set_cpumask",
        SetCpumaskParams,
        set_cpumask,
        DECODE_OBJECT_INVALID,
        errors=(NO_THREAD, INVALID_MASK, NO_CPU),
    ),
)
