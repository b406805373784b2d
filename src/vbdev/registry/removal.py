"""Removal: top-down, and never without saying for whom it waits.

Every opener is told (REMOVE); a vbdev answers by being unregistered itself, which tells its own
openers; so a stack unwinds from the top, and each bdev is destroyed when its last descriptor is
closed. Whoever asked may stop waiting at a deadline; the removal goes on and ends when the last
holder lets go.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from vbdev.bdev import Bdev, BdevError, BdevEvent, BdevState, VirtualBdev
from vbdev.reactor.task import Future, Task, wake
from vbdev.registry.creations import let_go

if TYPE_CHECKING:
    from vbdev.registry.registry import Registry

__all__ = ["Removal", "holders", "remove"]

log = logging.getLogger(__name__)

LOOK_AGAIN_US = 100
"""How often a removal looks whether a RESET has ended and blocks are locked no more."""


class Removal:
    """The removal of one bdev, from the first REMOVE to the last name given free."""

    __slots__ = ("since_ns", "task")

    def __init__(self, since_ns: int, task: Task[None]) -> None:
        self.since_ns = since_ns
        self.task = task


def holders(bdev: Bdev) -> list[dict[str, Any]]:
    """Say who has a bdev open, how, and how many I/Os each has outstanding."""
    found = []
    for descriptor in bdev.descriptors:
        claim = bdev.claim.of(descriptor) if bdev.claim is not None else None
        found.append(
            {
                "holder": descriptor.holder,
                "write": descriptor.write,
                "claim_type": str(bdev.claim.kind) if bdev.claim and claim else None,
                "outstanding": sum(c.outstanding for c in descriptor.channels.values()),
                "thread": descriptor.reactor.name,
            }
        )
    return found


def say_holders(bdev: Bdev) -> str:
    """Return the holders in words."""
    found = [
        f"{one['holder']}" + (f" ({one['outstanding']} I/Os)" if one["outstanding"] else "")
        for one in holders(bdev)
    ]
    if bdev.control is not None and bdev.control.busy:
        found.append("a RESET under way, or locked blocks")
    return ", ".join(found) or "nobody"


async def remove(registry: Registry, bdev: Bdev, timeout_ms: int | None) -> None:
    """Remove a bdev; see `Registry.unregister`."""
    if bdev.state is not BdevState.READY:
        raise BdevError(
            errno.EBUSY,
            f"bdev {bdev.name} is being removed already; held by {say_holders(bdev)}",
        )
    bdev.state = BdevState.REMOVING
    closed = _tell(registry, bdev)
    task = registry.reactor.spawn(_finish(registry, bdev, closed), f"removal of {bdev.name}")
    registry.removals[bdev] = Removal(registry.reactor.clock.now_ns(), task)
    if timeout_ms is None:
        await task
        return
    ended: Future[None] = Future()

    task.add_done_callback(lambda _task: wake(ended))
    timer = registry.reactor.call_later(timeout_ms * 1000, partial(wake, ended))
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


def _tell(registry: Registry, bdev: Bdev) -> Future[None]:
    closed: Future[None] = Future()

    def check() -> None:
        if not bdev.descriptors:
            wake(closed)

    for descriptor in list(bdev.descriptors):
        for reactor, channel in descriptor.channels.items():
            reactor.exec_msg(channel.abort_waiting)
        descriptor.on_close(lambda: registry.reactor.send_msg(check))
        descriptor.post_event(BdevEvent.REMOVE)
    check()
    return closed


async def _finish(registry: Registry, bdev: Bdev, closed: Future[None]) -> None:
    await closed
    while bdev.control is not None and bdev.control.busy:
        await registry.reactor.sleep(LOOK_AGAIN_US)
    bdev.state = BdevState.REMOVED
    try:
        await bdev.stop()
    finally:
        # Its names are free only now that its files are: a last sync may have taken long.
        registry.forget(bdev)
        if isinstance(bdev, VirtualBdev):
            await let_go(bdev)
    log.info("bdev unregistered name=%s", bdev.name)


def _report(bdev: Bdev, task: Future[None]) -> None:
    try:
        task.result()
    except Exception:
        log.exception("removal failed bdev=%s", bdev.name)
