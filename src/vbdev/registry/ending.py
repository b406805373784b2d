"""The end of all bdevs: stacks from the top, newest first; nobody's failure stops the others."""

from __future__ import annotations

import errno
import logging

from vbdev.bdev import Bdev, BdevError, BdevState
from vbdev.bdev.entry import entry_of
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, Task, wake
from vbdev.registry.examine import Examiner
from vbdev.registry.opening import ENDS
from vbdev.registry.removal import Removals
from vbdev.registry.table import Table

__all__ = ["end_all"]

log = logging.getLogger(__name__)

END_TURN_US = 1_000_000
"""How long the end of one bdev holds up that of others, at the end of all."""
EXAMINE_AT_END_US = 5_000_000
"""How long the end waits for examinations that go on."""


async def end_all(table: Table, removals: Removals, examiner: Examiner) -> None:
    """See `Registry.close`."""
    table.closing = True
    table.closes += 1
    try:
        await _End(table, removals, examiner).run()
    finally:
        table.closing = False


class _End:
    """One end of all."""

    def __init__(self, table: Table, removals: Removals, examiner: Examiner) -> None:
        self._table = table
        self._removals = removals
        self._examiner = examiner
        self._failures: list[Exception] = []
        self._ends: list[Task[None]] = []
        """What takes long, while others go on."""

    async def run(self) -> None:
        """End what waits, then every bdev; raise the first failure at the end."""
        table = self._table
        table.creations.clear()
        table.end_waiting(BdevError(errno.ESHUTDOWN, ENDS))
        for examination in await self._examiner.wait(EXAMINE_AT_END_US):
            log.warning("the end does not wait any longer for the examination: %s", examination)
        while table.bdevs:
            # What stands on a bdev came later: from the end, each is free when its turn comes.
            for bdev in reversed(list(table.bdevs.values())):
                if bdev.state is BdevState.READY and entry_of(bdev).claim is None:
                    await self._end(bdev)
            idle = [b for b in table.bdevs.values() if b.state is BdevState.READY]
            if any(entry_of(b).claim is None for b in idle):
                continue
            slow = [task for task in self._ends if not task.done]
            going = [removal.task for removal in self._removals.values()]
            if not idle or slow:
                await _any_done(self._table.reactor, going + slow)
                continue
            # What is being removed may be what has the claim, and its I/O is still under way.
            if going and await _any_done(self._table.reactor, going, timeout_us=END_TURN_US):
                continue
            claim = entry_of(idle[-1]).claim
            assert claim is not None
            log.warning(
                "unregistering claimed bdev name=%s claim=%s by=%s",
                idle[-1].name,
                claim.kind,
                claim.holder,
            )
            await self._end(idle[-1])
        for task in self._ends:
            await task
        if self._failures:
            raise self._failures[0]

    async def _end(self, bdev: Bdev) -> None:
        """Unregister a bdev. One that takes long is left to itself: the next one's turn is due."""

        async def unregister() -> None:
            try:
                await self._removals.unregister(bdev)
            except (BdevError, OSError) as error:
                self._failures.append(error)

        done: Future[None] = Future()
        reactor = self._table.reactor
        task = reactor.spawn(unregister(), f"end of {bdev.name}")
        task.add_done_callback(lambda _task: wake(done))
        timer = reactor.call_later(END_TURN_US, lambda: wake(done))
        await done
        timer.cancel()
        if not task.done:
            log.info("the end of a bdev takes long, others go on bdev=%s", bdev.name)
        self._ends.append(task)


async def _any_done(
    reactor: Reactor, tasks: list[Task[None]], timeout_us: float | None = None
) -> bool:
    """Wait until one of some has ended; False: none has, in time. Of none it is True at once."""
    done: Future[None] = Future()
    for task in tasks:
        task.add_done_callback(lambda _task: wake(done))
    if not tasks:
        return True
    timer = None
    if timeout_us is not None:
        timer = reactor.call_later(timeout_us, lambda: wake(done))
    await done
    if timer is not None:
        timer.cancel()
    return any(task.done for task in tasks)
