"""Pollers: functions that a reactor calls each turn, or every so often."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from vbdev.reactor.timers import Timer

__all__ = ["Poller", "PollerState", "PollerStats"]

log = logging.getLogger(__name__)


class PollerState(Enum):
    """Where a poller is (SPDK: spdk_poller_get_state_str)."""

    WAITING = "waiting"
    RUNNING = "running"
    UNREGISTERED = "unregistered"
    PAUSING = "pausing"
    """Paused by its own function, which has not returned yet."""
    PAUSED = "paused"


class PollerStats(NamedTuple):
    """How often a poller ran, and how often there was something to do."""

    run_count: int
    busy_count: int


class Poller:
    """A function that a reactor calls each turn (period 0) or every `period_us`.

    It returns how much it did; 0 and less count as idle. A timed poller that is late is called
    once and then again a period later (SPDK: `spdk_poller_register`). Belongs to its reactor's
    thread; made by `Reactor.register_poller`.

    later: the reactor's `call_later`. turn_pollers: its table of those without a period that are
    not paused. forget: told when it is unregistered.
    """

    __slots__ = (
        "_forget",
        "_function",
        "_later",
        "_timer",
        "_turn_pollers",
        "busy_count",
        "id",
        "name",
        "period_us",
        "run_count",
        "state",
    )

    def __init__(
        self,
        poller_id: int,
        function: Callable[[], int],
        period_us: int,
        name: str,
        *,
        later: Callable[[float, Callable[[], object]], Timer],
        turn_pollers: dict[int, Poller],
        forget: Callable[[Poller], object],
    ) -> None:
        self.id = poller_id
        self.name = name
        self.period_us = period_us
        self.run_count = 0
        self.busy_count = 0
        self.state = PollerState.WAITING
        self._function = function
        self._later = later
        self._turn_pollers = turn_pollers
        self._forget = forget
        self._timer: Timer | None = None
        self._schedule()

    @property
    def period_ticks(self) -> int:
        """The period in ticks, which are nanoseconds."""
        return self.period_us * 1000

    @property
    def stats(self) -> PollerStats:
        """Its counters, as they are now."""
        return PollerStats(self.run_count, self.busy_count)

    def run(self) -> int:
        """Call the function once, and return 1 if it did something; an exception is logged."""
        if self.state is not PollerState.WAITING:
            return 0
        self.state = PollerState.RUNNING
        self.run_count += 1
        did = 0
        try:
            did = int(self._function() > 0)  # whatever kind of number it is
        except (KeyboardInterrupt, SystemExit):  # nobody's failure: whoever runs the loop ends it
            raise
        except BaseException:
            log.exception("poller failed name=%s", self.name)
        finally:
            self.busy_count += did
            # Its function may have unregistered, paused or resumed it.
            if self.state is PollerState.RUNNING:
                self.state = PollerState.WAITING
            elif self.state is PollerState.PAUSING:
                self.state = PollerState.PAUSED
                self._unschedule()
        return did

    def _timed(self) -> None:
        self._timer = None
        try:
            self.run()
        finally:  # what ends the reactor's turn ends no poller
            if self.state is PollerState.WAITING:
                self._schedule()

    def _schedule(self) -> None:
        if not self.period_us:
            self._turn_pollers[self.id] = self
        elif self._timer is None:
            self._timer = self._later(self.period_us, self._timed)

    def _unschedule(self) -> None:
        if not self.period_us:
            self._turn_pollers.pop(self.id, None)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self) -> None:
        """Call it no more until `resume`. Allowed inside the function itself, and twice."""
        if self.state is PollerState.RUNNING:
            self.state = PollerState.PAUSING
        elif self.state is PollerState.WAITING:
            self._unschedule()
            self.state = PollerState.PAUSED

    def resume(self) -> None:
        """Call it again, a period from now. Without a pause, nothing happens."""
        if self.state is PollerState.PAUSING:
            self.state = PollerState.RUNNING
        elif self.state is PollerState.PAUSED:
            self.state = PollerState.WAITING
            self._schedule()

    def unregister(self) -> None:
        """Call it no more. Allowed inside the function itself, and twice."""
        if self.state is not PollerState.UNREGISTERED:
            self.state = PollerState.UNREGISTERED
            self._unschedule()
            self._forget(self)
