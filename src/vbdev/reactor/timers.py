"""Timers: calls at a deadline, once, in the order of their deadlines."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from vbdev.reactor.clock import Clock

__all__ = ["MAX_DELAY_US", "Timer", "Timers"]

MAX_DELAY_US = 1 << 51
"""71 years: a timer further ahead is a mistake of whoever asks for it."""

LAST_NS = (1 << 63) - (1 << 32)
"""The last deadline there can be: deadlines, and what is added to them, are signed 64-bit ns."""


class Timer:
    """A call at a deadline, once. `cancel` is idempotent."""

    __slots__ = ("callback", "when_ns")

    def __init__(self, when_ns: int, callback: Callable[[], object]) -> None:
        self.when_ns = when_ns
        self.callback: Callable[[], object] | None = callback
        """None: it has run, or is cancelled."""

    def cancel(self) -> None:
        """Make sure that the callback does not run any more."""
        self.callback = None


class Timers:
    """Those of one reactor. Touched by its thread alone.

    heap: of (deadline in ns, number, timer), for the loop, which sleeps until the first of them.
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self.heap: list[tuple[int, int, Timer]] = []
        self._name = name
        self._clock = clock
        self._count = 0

    def add(self, delay_us: float, callback: Callable[[], object]) -> Timer:
        """See `Reactor.call_later`."""
        if not delay_us <= MAX_DELAY_US:  # a NaN is neither more nor less
            raise ValueError(
                f"reactor {self._name}: a delay of {delay_us} us for {callback!r};"
                f" {MAX_DELAY_US} us at most"
            )
        delay_ns = int(max(delay_us, 0) * 1000)
        timer = Timer(min(self._clock.now_ns() + delay_ns, LAST_NS), callback)
        self._count += 1  # equal deadlines run in the order they were asked for
        heapq.heappush(self.heap, (timer.when_ns, self._count, timer))
        return timer

    def run(
        self, now_ns: int, call: Callable[[Callable[[], object]], None], late: Callable[[], bool]
    ) -> int:
        """Call those that are due; forget those in front that are cancelled.

        What these ask for is for the next turn, even if it is due at once. late: whether it is
        others' turn.
        """
        did, newest, heap = 0, self._count, self.heap
        while heap and (heap[0][0] <= now_ns or heap[0][2].callback is None):
            if heap[0][1] > newest or (did and late()):
                break
            timer = heapq.heappop(heap)[2]
            callback = timer.callback
            if callback is not None:
                timer.cancel()
                did += 1
                call(callback)
        return did
