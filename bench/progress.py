"""How far a session is, for whoever waits for it: on stderr, with an estimate of the end.

The estimate is what rows have taken before, each by itself, times how much longer those took that
are done by now. On a terminal the last line says what runs at the moment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

__all__ = ["Progress"]

LEAST_S = 20.0
"""What has to be done before it says anything of this machine."""


class Progress:
    """Lines with the time in front.

    expected_s: {row: how long it takes}, of the rows that are to be measured, in their order.
    """

    def __init__(
        self,
        expected_s: Mapping[str, float],
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._expected_s = dict(expected_s)
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._start_s = self._row_start_s = clock()
        self._done_s = 0.0
        self._row = ""
        self._shown = 0
        self._live = self._out.isatty()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start_s

    def begin(self, row: str) -> None:
        """Take notice that a row begins, and the one before it has ended."""
        self._done_s += self._expected_s.get(self._row, 0.0)
        self._row = row
        self._row_start_s = self._clock()

    def left_s(self) -> float:
        """Return how many seconds are left, as far as that can be told."""
        pace = 1.0
        if self._done_s >= LEAST_S:
            pace = (self._row_start_s - self._start_s) / self._done_s
        row_s = self._expected_s.get(self._row, 0.0)
        ahead_s = sum(self._expected_s.values()) - self._done_s - row_s
        in_row_s = self._clock() - self._row_start_s
        return pace * ahead_s + max(pace * row_s - in_row_s, 0.0)

    def say(self, line: str) -> None:
        """Say something for good, with the time."""
        self._wipe()
        print(f"[{clock_text(self.elapsed_s)}, {self._left_text()}] {line}", file=self._out)
        self._out.flush()

    def now(self, line: str) -> None:
        """Say what runs at the moment, where somebody looks; the next line takes its place."""
        if not self._live:
            return
        self._wipe()
        text = f"[{clock_text(self.elapsed_s)}, {self._left_text()}] {line}"[:100]
        self._out.write(text)
        self._out.flush()
        self._shown = len(text)

    def _left_text(self) -> str:
        left_s = self.left_s()
        return f"{clock_text(left_s)} left" if left_s >= 1 else "nearly done"

    def _wipe(self) -> None:
        if self._shown:
            self._out.write("\r" + " " * self._shown + "\r")
            self._shown = 0


def clock_text(seconds: float) -> str:
    """Return a time as 3:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
