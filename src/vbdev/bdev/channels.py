"""Doing something with all channels of a bdev, each on the thread that it belongs to."""

from __future__ import annotations

import errno
from collections.abc import Callable

from vbdev.bdev.contract import Bdev
from vbdev.bdev.entry import entry_of
from vbdev.bdev.host import BdevState, Opener
from vbdev.bdev.iostat import IoTotals
from vbdev.core.engine.channel import Channel
from vbdev.reactor.event import Event
from vbdev.reactor.questions import ReactorStoppedError
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.vocab.errors import BdevError

__all__ = ["after_each_channel", "ask_drained", "drained", "for_each_channel", "gather_iostat"]


async def for_each_channel(bdev: Bdev, function: Callable[[Channel], int | None]) -> int:
    """Call `function(channel)` for all channels of a bdev; return its last status.

    Await it on the control plane's reactor. Reactors are visited in the order of their ids, one
    message at a time; the function runs on the channel's own thread. A status other than 0 (or
    None) stops the walk, and is returned; an exception stops it and is raised. Channels made
    meanwhile are visited where the walk has not been yet. Without any channel, the status is 0.

    BdevError ENODEV for a bdev that is gone (SPDK: spdk_for_each_channel).
    """
    last_id = 0
    entry = entry_of(bdev)
    while True:
        if entry.state is BdevState.REMOVED:
            raise BdevError(errno.ENODEV, f"bdev {bdev.name} is gone: it has no channels")
        descriptors = list(entry.openers)
        reactors = {r for descriptor in descriptors for r in descriptor.channels}
        ahead = sorted((r for r in reactors if r.id > last_id), key=lambda r: r.id)
        if not ahead:
            return 0
        reactor = ahead[0]
        last_id = reactor.id
        try:
            status = await reactor.ask(_visit, reactor, descriptors, function)
        except ReactorStoppedError:
            continue  # its thread has ended, and its channels with it
        if status:
            return status


def after_each_channel(
    channel: Channel, function: Callable[[Channel], None], then: Callable[[], object]
) -> None:
    """For a module's `submit`, as of a RESET: see to all channels of its bdev, then go on.

    `function` runs for each channel on that one's thread, then `then` on the thread of `channel`,
    which has to have an I/O outstanding meanwhile. Returns before either does.
    """
    bdev, reactor = channel.bdev, channel.reactor

    async def walk() -> None:
        try:
            await for_each_channel(bdev, function)
        finally:
            reactor.send_msg(then)

    control: Reactor = bdev.reactor
    control.send_msg(lambda: control.spawn(walk(), f"channels of {bdev.name}"))


async def drained(bdev: Bdev, *, at_most: int = 0, timeout_us: float | None = None) -> bool:
    """Wait until the bdev's module has no more than `at_most` I/Os, of all channels.

    Await it on the control plane's reactor. False: it has more at the end of so many microseconds.
    Without a timeout it takes as long as the I/O does. BdevError ENODEV as `for_each_channel`.
    """
    control: Reactor = bdev.reactor
    left = Event(control)
    give_up_ns = 0 if timeout_us is None else control.clock.now_ns() + int(timeout_us * 1000)
    counts: list[int] = []

    def count(channel: Channel) -> None:
        counts.append(channel.in_module)
        if channel.in_module:
            channel.call_when_left(left.set)

    while True:
        counts.clear()
        await for_each_channel(bdev, count)
        if sum(counts) <= at_most:
            return True
        if not give_up_ns:
            await left.wait()
            continue
        left_us = (give_up_ns - control.clock.now_ns()) / 1000
        if left_us <= 0:
            return False
        await left.wait(left_us)


def ask_drained(
    bdev: Bdev, reactor: Reactor, *, at_most: int, timeout_us: float | None = None
) -> Future[bool]:
    """For a module's RESET, which is one of those `at_most`: `drained`, to be awaited on `reactor`.

    Where the bdev is gone, with its channels, nothing is left of their I/O.
    """
    answer: Future[bool] = Future()

    async def wait() -> None:
        ended = False
        try:
            ended = await drained(bdev, at_most=at_most, timeout_us=timeout_us)
        except BdevError:
            ended = True
        finally:
            reactor.send_msg(answer.set_result, ended)

    control: Reactor = bdev.reactor
    if not control.send_msg(lambda: control.spawn(wait(), f"drain of {bdev.name}")):
        answer.set_exception(ReactorStoppedError(control))
    return answer


def _visit(
    reactor: Reactor, descriptors: list[Opener], function: Callable[[Channel], int | None]
) -> int:
    for descriptor in descriptors:
        channel = descriptor.channels.get(reactor)
        if channel is not None:
            status = function(channel)
            if status:
                return status
    return 0


GATHER_ATTEMPTS = 8
"""How often the counters are gathered anew because a channel was closed meanwhile."""


async def gather_iostat(bdev: Bdev) -> tuple[IoTotals, dict[Reactor, IoTotals]]:
    """Return what all channels of a bdev, open and closed, have counted; and each reactor's."""
    entry = entry_of(bdev)
    for _ in range(GATHER_ATTEMPTS):
        closed = entry.folds
        by_reactor: dict[Reactor, IoTotals] = {}

        def count(channel: Channel, into: dict[Reactor, IoTotals] = by_reactor) -> None:
            here = Reactor.current()
            assert here is not None
            into.setdefault(here, IoTotals()).add(channel)

        await for_each_channel(bdev, count)
        if closed == entry.folds:  # else one that was visited may count twice
            break
    total = IoTotals()
    total.add(entry.totals)
    for counted in by_reactor.values():
        total.add(counted)
    return total, by_reactor
