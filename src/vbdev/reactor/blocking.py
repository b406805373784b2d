"""Calls that may block, beside the reactor: a file on a mount that hangs, a name that nobody knows.

Each call has a thread of its own, a daemon, so that one that never returns keeps neither the
reactor nor the end of the process. It is waited for CALL_US; then its caller gets an error that
says what it was about, and what the call brings later is given back where it comes.

Progress: MAX_QUICK calls run at once and others wait for their turn, but a call that has taken
SLOW_US is no longer counted among them, so that those behind it wait for that long and no longer.
There may be MAX_SLOW of those that hang; beyond that new calls are refused at once.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from vbdev.reactor.reactor import Reactor
from vbdev.reactor.task import Future
from vbdev.reactor.timers import Timer

__all__ = ["CALL_US", "BlockedError", "call_blocking", "call_off", "call_unheeded"]

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_US: Final = 10_000_000
"""How long a call is waited for, unless its caller says otherwise."""
SLOW_US: Final = 200_000
MAX_QUICK: Final = 16
MAX_SLOW: Final = 128


class BlockedError(OSError):
    """A call was given up: ETIMEDOUT, ESHUTDOWN (the application ends), EBUSY (too many hang)."""


async def call_blocking(
    reactor: Reactor,
    what: str,
    function: Callable[[], T],
    *,
    give_back: Callable[[T], object] = lambda _value: None,
    give_up: Callable[[], object] = lambda: None,
    timeout_us: int | None = CALL_US,
) -> T:
    """Return function(), called on a thread; what it raises is raised here, or BlockedError.

    Parameters
    ----------
    what: for messages: "opening /mnt/disk".
    give_back: called with the value, on a thread, when it came too late for anybody to have it.
    give_up: called before BlockedError is raised: nobody waits any more, if the call ever began.
    timeout_us: None waits until the application ends.

    With a virtual clock the call is made here: a thread's time is not that clock's.

    """
    if reactor.clock.virtual:
        return function()
    calls = _Calls.of(reactor)
    try:
        return await calls.ask(_Call(what, function, give_back, timeout_us))
    except BlockedError:
        give_up()
        raise


def call_unheeded(
    reactor: Reactor,
    what: str,
    function: Callable[[], object],
    give_up: Callable[[], object] = lambda: None,
) -> None:
    """Call function() on a thread, whose end nobody waits for. What it raises is logged."""

    async def call() -> None:
        try:
            await call_blocking(reactor, what, function, give_up=give_up)
        except OSError as error:
            log.warning("%s failed: %s", what, error.strerror or error)

    reactor.begin(call(), what)


def call_off(reactor: Reactor) -> None:
    """End all waiting of a reactor's: who waits gets BlockedError ESHUTDOWN."""
    calls = reactor.locals.get(_Calls)
    if calls is not None:
        calls.call_off()


class _Call(Generic[T]):
    """One call. Its thread touches what stands under the lock, the reactor's thread all else."""

    def __init__(
        self,
        what: str,
        function: Callable[[], T],
        give_back: Callable[[T], object],
        timeout_us: int | None,
    ) -> None:
        self.what = what
        self.timeout_us = timeout_us
        self.future: Future[T] = Future()
        self.began_ns = 0
        self.timers: list[Timer] = []
        self._function = function
        self._give_back = give_back
        self._lock = threading.Lock()
        self._returned = False
        self._given_up = False
        self._value: list[T] = []
        self._error: BaseException | None = None

    def work(self) -> None:
        """Make the call. On its thread."""
        try:
            self._value.append(self._function())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._error = error
        with self._lock:
            self._returned = True
            late = self._given_up
        if late:
            self._discard()

    def give_up(self, error: BlockedError) -> None:
        """Let the caller go on without it."""
        if self.future.done:
            return
        with self._lock:
            self._given_up = True
            late = self._returned
        if late:  # its message is on the way, and the value nobody's
            threading.Thread(target=self._discard, daemon=True).start()
        self.future.set_exception(error)

    def resolve(self) -> None:
        """Hand over what it brought, unless it was given up."""
        if self.future.done:
            return
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._value.pop())

    def _discard(self) -> None:
        try:
            for value in self._value:
                self._give_back(value)
        except Exception:
            log.exception("%s: what it brought could not be given back", self.what)


class _Calls:
    """One reactor's calls, among its `locals` as long as there are any."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._waiting: deque[_Call[Any]] = deque()
        self._quick: set[_Call[Any]] = set()
        self._slow: dict[_Call[Any], None] = {}  # oldest first

    @classmethod
    def of(cls, reactor: Reactor) -> _Calls:
        """Return the reactor's, made at the first call."""
        calls = reactor.locals.get(cls)
        if calls is None:
            calls = reactor.locals[cls] = cls(reactor)
        assert isinstance(calls, cls)
        return calls

    async def ask(self, call: _Call[T]) -> T:
        """Make a call when its turn comes, and wait for it."""
        if len(self._slow) >= MAX_SLOW:
            oldest = next(iter(self._slow))
            waited_s = (self._reactor.clock.now_ns() - oldest.began_ns) / 1e9
            raise BlockedError(
                errno.EBUSY,
                f"{call.what}: {len(self._slow)} calls hang already, the first one, {oldest.what},"
                f" for {waited_s:.0f} s",
            )
        if len(self._quick) < MAX_QUICK:
            self._begin(call)
        else:
            self._waiting.append(call)
        return await call.future

    def call_off(self) -> None:
        """Give up all that is asked for."""
        waiting, self._waiting = self._waiting, deque()
        for call in (*waiting, *self._quick, *self._slow):
            call.give_up(
                BlockedError(errno.ESHUTDOWN, f"{call.what}: given up, because vbdev ends")
            )

    def _begin(self, call: _Call[Any]) -> None:
        reactor = self._reactor

        def work() -> None:
            call.work()
            reactor.send_msg(self._returned, call)

        call.began_ns = reactor.clock.now_ns()
        self._quick.add(call)
        try:
            # A daemon: what never returns must not keep the process from ending.
            threading.Thread(target=work, name=f"{reactor.name}-blocking", daemon=True).start()
        except RuntimeError as error:
            self._quick.discard(call)
            call.give_up(BlockedError(errno.EAGAIN, f"{call.what}: no thread for it: {error}"))
            self._leave_if_done()
            return
        call.timers = [reactor.call_later(SLOW_US, lambda: self._took_long(call))]
        if call.timeout_us is not None:
            call.timers.append(reactor.call_later(call.timeout_us, lambda: self._too_late(call)))

    def _took_long(self, call: _Call[Any]) -> None:
        self._quick.discard(call)
        self._slow[call] = None
        self._next()

    def _too_late(self, call: _Call[Any]) -> None:
        assert call.timeout_us is not None
        log.warning("%s has not come back for %g s", call.what, call.timeout_us / 1e6)
        call.give_up(
            BlockedError(
                errno.ETIMEDOUT, f"{call.what}: no answer within {call.timeout_us / 1e6:g} s"
            )
        )

    def _returned(self, call: _Call[Any]) -> None:
        for timer in call.timers:
            timer.cancel()
        self._quick.discard(call)
        self._slow.pop(call, None)
        call.resolve()
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._quick) < MAX_QUICK:
            self._begin(self._waiting.popleft())
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._quick and not self._slow and not self._waiting:
            self._reactor.locals.pop(_Calls, None)
