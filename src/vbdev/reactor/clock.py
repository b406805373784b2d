"""Clocks: the one place where time comes from, and the one that a simulation has instead."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "RealClock", "VirtualClock"]


class Clock(Protocol):
    """Where time comes from. `now_ns` counts from an arbitrary start and never goes back."""

    virtual: bool

    def now_ns(self) -> int:
        """Return the time in nanoseconds."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    virtual = False

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()


class VirtualClock:
    """A clock that stands still until it is told to move, for simulations and tests."""

    virtual = True

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """Return the virtual time in nanoseconds."""
        return self._now_ns

    def advance_to(self, when_ns: int) -> None:
        """Move to `when_ns`; a time that has passed changes nothing."""
        self._now_ns = max(self._now_ns, when_ns)
