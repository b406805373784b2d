"""The context switch monitor: what the kernel's scheduler does to each reactor, once a second.

On until somebody switches it off. What it finds it says to the log, at INFO, as SPDK's does
(spdk_framework_enable_context_switch_monitor). As long as the log lets none of that out, no
reactor is woken for it.
"""

from __future__ import annotations

import logging
import resource
from typing import Final

from vbdev.reactor.poller import Poller
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import Reactors

__all__ = ["PERIOD_US", "ContextSwitchMonitor"]

log = logging.getLogger(__name__)

PERIOD_US: Final = 1_000_000


class ContextSwitchMonitor:
    """Watches the threads of some reactors while it is `enabled`. Belongs to the first of them."""

    def __init__(self, reactors: Reactors) -> None:
        self.enabled = True
        self._reactors = reactors

    async def enable(self, enabled: bool) -> None:
        """Begin or end; twice is once. A reactor looks for the first time a second from now."""
        self.enabled = enabled
        await self.follow()

    async def follow(self) -> None:
        """Begin or end as is wished, and as the log lets it be told; again when that changes."""
        await self._reactors.for_each(self._follow)

    def _follow(self, reactor: Reactor) -> None:
        # The wish is read here, so that the last of several wins on every reactor.
        watch: Poller | None = reactor.locals.get(ContextSwitchMonitor)
        wanted = self.enabled and log.isEnabledFor(logging.INFO)
        if watch is not None and not wanted:
            watch.unregister()
            del reactor.locals[ContextSwitchMonitor]
        if watch is None and wanted:
            seen = switches()

            def look() -> int:
                nonlocal seen
                before, seen = seen, switches()
                if seen != before:
                    log.info(
                        "Reactor %d: %d voluntary context switches and %d involuntary context"
                        " switches in the last second.",
                        reactor.core.number,
                        seen[0] - before[0],
                        seen[1] - before[1],
                    )
                return 0

            reactor.locals[ContextSwitchMonitor] = reactor.register_poller(
                look, PERIOD_US, "context_switch_monitor"
            )


def switches() -> tuple[int, int]:
    """Return how often the calling thread gave up its CPU, and how often it was taken away."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_nvcsw, usage.ru_nivcsw
