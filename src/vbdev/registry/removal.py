"""Removal: top-down, and never without saying for whom it waits.

Every opener is told (REMOVE); a vbdev answers by being unregistered itself, which tells its own
openers; so a stack unwinds from the top, and each bdev is destroyed when its last descriptor is
closed. Whoever asked may stop waiting at a deadline; the removal goes on and ends when the last
holder lets go.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from vbdev.bdev import Bdev, BdevError, BdevEvent, BdevState, VirtualBdev
from vbdev.bdev.entry import Entry, entry_of
from vbdev.reactor.task import Future, Task, wake
from vbdev.registry.creations import Creation
from vbdev.registry.holds import Holds
from vbdev.registry.table import Table

__all__ = ["Removal", "Removals", "holders"]

log = logging.getLogger(__name__)


class Removal:
    """The removal of one bdev, from the first REMOVE to the last name given free."""

    __slots__ = ("since_ns", "task")

    def __init__(self, since_ns: int, task: Task[None]) -> None:
        self.since_ns = since_ns
        self.task = task


def holders(bdev: Bdev) -> list[dict[str, Any]]:
    """Say who has a bdev open, how, and how many I/Os each has outstanding."""
    found = []
    entry = entry_of(bdev)
    for opener in entry.openers:
        claim = entry.claim.of(opener) if entry.claim is not None else None
        found.append(
            {
                "holder": opener.holder,
                "write": opener.write,
                "claim_type": str(entry.claim.kind) if entry.claim and claim else None,
                "outstanding": sum(c.outstanding for c in opener.channels.values()),
                "thread": opener.reactor.name,
            }
        )
    return found


def say_holders(bdev: Bdev) -> str:
    """Return the holders in words."""
    found = [
        f"{one['holder']}" + (f" ({one['outstanding']} I/Os)" if one["outstanding"] else "")
        for one in holders(bdev)
    ]
    control = entry_of(bdev).control
    if control is not None and control.busy:
        found.append("a RESET under way, or locked blocks")
    return ", ".join(found) or "nobody"


class Removals(dict[Bdev, Removal]):
    """What is being removed.

    on_gone: told of each that is gone, before its names are free.
    """

    def __init__(self, table: Table, holds: Holds, on_gone: Callable[[Bdev], object]) -> None:
        super().__init__()
        self._table = table
        self._holds = holds
        self._on_gone = on_gone

    async def delete(self, name: str, kind: str) -> None:
        """See `Registry.delete`."""
        table = self._table
        creation = table.creations.get(name)
        if table.find(name) is None and creation is not None and creation.cls.kind == kind:
            await self.delete_creation(creation)
            return
        if table.find(name) is None:
            raise BdevError(errno.ENODEV, f"there is no {kind} bdev {name!r}")
        await self.delete_bdev(table.get(name, kind))

    async def delete_creation(self, creation: Creation) -> None:
        """See `Registry.delete_creation`."""
        if self._table.creations.get(creation.key) is creation:
            del self._table.creations[creation.key]
        await creation.built()
        for layer in reversed(list(creation.vbdevs)):
            await self.take_away(layer)

    async def delete_bdev(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """See `Registry.delete_bdev`."""
        creation = self._table.creations.of(bdev)
        if creation is not None and creation.key == bdev.name:
            self._table.creations.forget(bdev.name)
        await self.unregister(bdev, timeout_ms)

    async def take_away(self, bdev: Bdev) -> None:
        """See `Registry.take_away`."""
        removal = self.get(bdev)
        if removal is not None:
            await removal.task
        elif bdev.state is BdevState.READY:
            await self.unregister(bdev)

    def hot_remove(self, bdev: Bdev) -> None:
        """See `Registry.hot_remove`."""

        async def go() -> None:
            if bdev.state is BdevState.READY:
                await self.unregister(bdev)

        self._table.reactor.spawn(go(), f"hot removal of {bdev.name}")

    async def unregister(self, bdev: Bdev, timeout_ms: int | None = None) -> None:
        """See `Registry.unregister`."""
        self._table.check_here(errno.ENOTSUP, f"bdev {bdev.name} was unregistered")
        entry = entry_of(bdev)
        if entry.state is not BdevState.READY:
            raise BdevError(
                errno.EBUSY,
                f"bdev {bdev.name} is being removed already; held by {say_holders(bdev)}",
            )
        entry.state = BdevState.REMOVING
        reactor = self._table.reactor
        _tell(entry)
        task = reactor.spawn(self._finish(entry), f"removal of {bdev.name}")
        self[bdev] = Removal(reactor.clock.now_ns(), task)
        if timeout_ms is None:
            await task
            return
        ended: Future[None] = Future()

        task.add_done_callback(lambda _task: wake(ended))
        timer = reactor.call_later(timeout_ms * 1000, partial(wake, ended))
        await ended
        timer.cancel()
        if not task.done:
            task.add_done_callback(lambda task: _report(bdev, task))
            raise BdevError(
                errno.ETIMEDOUT,
                f"bdev {bdev.name} is not gone after {timeout_ms} ms; held by {say_holders(bdev)}."
                " The removal goes on",
            )
        task.result()

    async def _finish(self, entry: Entry) -> None:
        bdev = entry.bdev
        await entry.unheld()
        if entry.control is not None:
            await entry.control.idle()
        entry.state = BdevState.REMOVED
        try:
            await bdev.stop()
        finally:
            # Its names are free only now that its files are: a last sync may have taken long.
            self._on_gone(bdev)
            self._table.leave(bdev)
            self.pop(bdev, None)
            if isinstance(bdev, VirtualBdev):
                await self._holds.let_go(bdev)
        log.info("bdev unregistered name=%s", bdev.name)


def _tell(entry: Entry) -> None:
    for opener in list(entry.openers):
        for reactor, channel in opener.channels.items():
            reactor.exec_msg(channel.abort_waiting)
        opener.post_event(BdevEvent.REMOVE)


def _report(bdev: Bdev, task: Future[None]) -> None:
    try:
        task.result()
    except Exception:
        log.exception("removal failed bdev=%s", bdev.name)
