"""The orderly stop: who leaves first, what is made stable before that, and when to give up.

RPC, the kernel's disks, NBD clients in other processes; then bdevs of this process that are clients
of its own exports are flushed while these are served; then exports, bdevs, reactors.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from vbdev.bdev import BdevError, BdevState
from vbdev.bdev.entry import entry_of
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors
from vbdev.reactor.task import Future, wake
from vbdev.registry import Registry
from vbdev.targets.nbd import NbdServer

__all__ = ["Stop"]

log = logging.getLogger(__name__)

STOP_US = 30_000_000
"""How long an orderly stop may take before it says who holds it up and gives up."""
FLUSH_US = 5_000_000
"""How long bdevs that are clients of our own exports have to flush."""


class Stop:
    """One stop: `await stop.run()` on the first reactor.

    ends: what ends first. on_failure: called where anything has failed; the stop goes on.
    """

    def __init__(
        self,
        *,
        reactor: Reactor,
        reactors: Reactors,
        registry: Registry,
        nbd: NbdServer,
        ends: Iterable[Callable[[], Awaitable[None]]],
        on_failure: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._reactors = reactors
        self._registry = registry
        self._nbd = nbd
        self._on_failure = on_failure
        self._ends = (
            *ends,
            self._flush_through_ourselves,
            nbd.close,
            registry.close,
            self._end_reactors,
        )

    async def run(self) -> None:
        """End one after the other. After STOP_US the first reactor stops, whatever is left."""
        timer = self._reactor.call_later(STOP_US, self._give_up)
        for end in self._ends:
            try:
                await end()
            except (BdevError, OSError) as error:
                # Nothing keeps the bdevs from what they still hold.
                log.error("the stop failed: %s", error)  # noqa: TRY400 - a sentence says it
                self._on_failure()
            except Exception:
                log.exception("the stop failed")
                self._on_failure()
        timer.cancel()

    async def _flush_through_ourselves(self) -> None:
        """Let bdevs that are clients of our own exports make stable what those still take.

        Others have left by then, so nothing is written any more. What does not answer is not
        waited for longer than FLUSH_US: its `stop` tells what may be lost.
        """
        if not await self._nbd.finish_others():
            return
        done: Future[None] = Future()
        timer = self._reactor.call_later(FLUSH_US, lambda: wake(done))
        syncs = [
            self._reactor.spawn(bdev.sync(), f"sync of {bdev.name}")
            for bdev in self._registry
            if bdev.state is BdevState.READY
        ]

        def ended(_sync: Future[None]) -> None:
            if all(sync.done for sync in syncs):
                wake(done)

        for sync in syncs:
            sync.add_done_callback(ended)
        await done
        timer.cancel()

    async def _end_reactors(self) -> None:
        for reactor in await self._reactors.stop():
            log.error("reactor %s does not end: a module blocks it", reactor.name)
            self._on_failure()

    def _give_up(self) -> None:
        if any(bdev.state is BdevState.REMOVED for bdev in self._registry):
            # A last sync is under way, and what it writes is worth waiting for.
            log.warning("still writing what the bdevs hold; a SIGINT stops at once")
            self._reactor.call_later(STOP_US, self._give_up)
            return
        for bdev in self._registry:
            holders = ", ".join(bdev.holders()) or "nobody"
            log.error(
                "bdev %s is still there after %d s: state %s, held by %s, %d I/Os outstanding",
                bdev.name,
                STOP_US // 1_000_000,
                bdev.state.value,
                holders,
                entry_of(bdev).outstanding,
            )
        self._on_failure()
        self._reactor.stop()
