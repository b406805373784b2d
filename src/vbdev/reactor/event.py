"""Events: what one reactor waits for and any thread brings about."""

from __future__ import annotations

from functools import partial

from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future, wake

__all__ = ["Event"]


class Event:
    """Awaited on `reactor`, by one at a time; set on any thread. One set is one wait's."""

    __slots__ = ("_is_set", "_reactor", "_waits")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._is_set = False
        self._waits: Future[None] | None = None

    def set(self) -> None:
        """Let the wait end, or the next one return at once."""
        self._reactor.send_msg(self._set)

    def _set(self) -> None:
        self._is_set = True
        if self._waits is not None:
            wake(self._waits)

    async def wait(self, timeout_us: float | None = None) -> bool:
        """Wait until it is set, and return True; False: it was not, in so many microseconds."""
        if not self._is_set:
            self._waits = Future()
            timer = None
            if timeout_us is not None:
                timer = self._reactor.call_later(timeout_us, partial(wake, self._waits))
            await self._waits
            self._waits = None
            if timer is not None:
                timer.cancel()
        is_set, self._is_set = self._is_set, False
        return is_set
