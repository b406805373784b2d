"""What signals mean to a process that has something to bring to an end.

- SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGXCPU, SIGALRM and SIGPWR (init's word that the power fails)
  ask for the orderly stop. Whoever asks again changes nothing: timeout(1) sends each of its
  signals twice, service managers when they lose patience.
- But a SIGINT that comes while the stop is under way is a person who does not want to wait. One
  that comes within SAME_WISH_S of the one before is the same wish, told by two.
  What can not end by itself then, because a module has the thread, is ended
  (`Signals.exit_within`).
- SIGUSR1 and SIGUSR2 have no meaning, and the log says so; they end nothing.
- SIGHUP stays ignored where it was at the start: nohup(1). SIGPIPE is ignored by Python.

Python runs a handler between two of its own instructions, on the main thread. A signal that came
just before the reactor went to sleep, or to another thread, has to wake the reactor for that; from
`catch` to `release` it does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from types import FrameType
from typing import Final

from vbdev.reactor.reactor import Reactor, Watch
from vbdev.vocab.refused import naming

__all__ = ["SAME_WISH_S", "STOP_SIGNALS", "Signals", "ignore_signals"]

log = logging.getLogger(__name__)

STOP_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGXCPU,
    signal.SIGALRM,
    signal.SIGPWR,
)
IGNORED_SIGNALS: Final = (signal.SIGUSR1, signal.SIGUSR2)
SAME_WISH_S: Final = 0.25
"""Within how many seconds a second SIGINT means what the first did."""


class Signals:
    """The signals of a process whose main thread runs `reactor`.

    on_stop(number): called for the first that asks for a stop. on_hurry(number): called for one of
    `hurry_by` behind it. Both are called between any two instructions of the main thread.
    """

    def __init__(
        self,
        reactor: Reactor,
        on_stop: Callable[[int], object],
        on_hurry: Callable[[int], object],
        hurry_by: Collection[int] = (signal.SIGINT,),
    ) -> None:
        self._reactor = reactor
        self._on_stop = on_stop
        self._on_hurry = on_hurry
        self._hurry_by = hurry_by
        self._asked = False
        self._last_s = 0.0
        self._pipe: tuple[int, int] | None = None
        self._watch: Watch | None = None
        self._exit: threading.Timer | None = None

    def catch(self) -> None:
        """Handle signals from here on. Idempotent. Main thread only."""
        for number in STOP_SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        for number in IGNORED_SIGNALS:
            signal.signal(number, self._note)
        if self._pipe is None:
            with naming("pipe2"):
                reader, writer = self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._watch = self._reactor.watch(reader, readable=lambda: os.read(reader, 64))
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def exit_within(self, seconds: float, status: int) -> None:
        """End the process so many seconds from now, wherever it is, unless `release` comes first.

        For a thread that a module keeps, to which no reactor gets through.
        """
        if self._exit is None:
            self._exit = threading.Timer(seconds, os._exit, (status,))
            self._exit.daemon = True
            self._exit.start()

    def release(self) -> None:
        """Wake the reactor no more, which has ended. Idempotent."""
        if self._exit is not None:
            self._exit.cancel()
            self._exit = None
        if self._pipe is None or self._watch is None:
            return
        signal.set_wakeup_fd(-1)
        self._watch.close()
        for descriptor in self._pipe:
            os.close(descriptor)
        self._pipe = self._watch = None

    def stop_began(self) -> None:
        """Take a SIGINT from here on as one behind the first: the stop has begun without any."""
        self._asked = True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        again = self._asked and now_s - self._last_s >= SAME_WISH_S
        if number in self._hurry_by or not self._asked:
            self._last_s = now_s
        if not self._asked:
            self._asked = True
            self._on_stop(number)
        elif again and number in self._hurry_by:
            self._on_hurry(number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self._reactor.send_msg(log.warning, "signal %s has no meaning here: ignored", name)


def ignore_signals() -> None:
    """Let no signal change the exit status any more, at the end of a command.

    Python gives them back their default actions as it ends, unless they are ignored.
    """
    for number in (*STOP_SIGNALS, *IGNORED_SIGNALS):
        signal.signal(number, signal.SIG_IGN)
