"""The reactor: one thread's loop of file descriptors, timers, messages, pollers and tasks.

Only the clock reads time, and only the reactor waits. On a `VirtualClock` the same code runs in
a simulation: when nothing is left to do, time jumps to the next deadline.

One turn, in this order: what the I/O engine gathered (completions), messages that other threads
sent, tasks that became ready, timers that are due, pollers, file descriptors. While a turn found
work the next one starts at once; after `SPIN_US` without work the thread sleeps in the kernel
until a descriptor, a message or a deadline wakes it. An idle reactor costs no CPU.

Exceptions from callbacks are logged with their owner and end nothing else.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from vbdev.clock import Clock, RealClock, VirtualClock
from vbdev.task import Future, Task

__all__ = ["MESSAGES_PER_TURN", "SPIN_US", "IoEngine", "Poller", "Reactor", "Timer", "Watch"]

log = logging.getLogger(__name__)

T = TypeVar("T")

SPIN_US = 30
"""How long a reactor polls after the last work before it sleeps, in us: about what one wake-up
from the kernel costs, so that a client at queue depth 1 does not pay for it on each request."""

MESSAGES_PER_TURN = 64
"""Messages run in one turn, so that a flood of them does not starve the data path."""


class IoEngine(Protocol):
    """What a reactor asks of the compiled core that it drives."""

    def drain(self) -> int:
        """Deliver what has completed; return how many I/Os moved."""
        ...

    def set_virtual_time(self, now_ns: int) -> None:
        """Stamp I/Os with this time from now on (virtual clocks only)."""
        ...


class Timer:
    """A call at a deadline, once. `cancel` is idempotent."""

    __slots__ = ("_callback", "when_ns")

    def __init__(self, when_ns: int, callback: Callable[[], object]) -> None:
        self.when_ns = when_ns
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Make sure that the callback does not run any more."""
        self._callback = None


class Poller:
    """A function that a reactor calls each turn (period 0) or every `period_us`.

    It returns how much it did; 0 counts as idle. A timed poller that is late is called once
    and then again a period later (SPDK: `spdk_poller_register`).
    """

    __slots__ = ("_function", "_reactor", "_timer", "busy_count", "name", "period_us", "run_count")

    def __init__(
        self, reactor: Reactor, function: Callable[[], int], period_us: int, name: str
    ) -> None:
        self.name = name
        self.period_us = period_us
        self.run_count = 0
        self.busy_count = 0
        self._reactor = reactor
        self._function = function
        self._timer: Timer | None = None
        if period_us:
            self._timer = reactor.call_later(period_us, self._timed)

    def run(self) -> int:
        """Call the function once; an exception is logged and counts as idle."""
        self.run_count += 1
        try:
            did = self._function()
        except Exception:
            log.exception("poller failed name=%s", self.name)
            return 0
        if did > 0:
            self.busy_count += 1
        return did

    def _timed(self) -> None:
        self.run()
        if self._timer is not None:
            self._timer = self._reactor.call_later(self.period_us, self._timed)

    def unregister(self) -> None:
        """Call it no more. Allowed inside the function itself, and twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self in self._reactor._pollers:  # noqa: SLF001 - a poller is part of its reactor
            self._reactor._pollers.remove(self)  # noqa: SLF001 - as above


class Watch:
    """Interest in one file descriptor. Callbacks run on the reactor when it is ready."""

    __slots__ = ("_events", "_reactor", "fd", "readable", "writable")

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        readable: Callable[[], object] | None,
        writable: Callable[[], object] | None,
    ) -> None:
        self.fd = fd
        self.readable = readable
        self.writable = writable
        self._reactor = reactor
        self._events = 0

    def update(self, *, read: bool, write: bool) -> None:
        """Say which readiness matters now. Costs a system call only when it changes.

        A peer that hangs up is reported as readable, or as writable where only that is wanted.
        """
        events = (select.EPOLLIN if read else 0) | (select.EPOLLOUT if write else 0)
        if events != self._events:
            self._reactor._epoll.modify(self.fd, events)  # noqa: SLF001 - part of its reactor
            self._events = events

    def close(self) -> None:
        """Forget the descriptor, before it is closed. Idempotent."""
        if self._reactor._watches.get(self.fd) is self:  # noqa: SLF001 - part of its reactor
            del self._reactor._watches[self.fd]  # noqa: SLF001 - as above
            self._reactor._epoll.unregister(self.fd)  # noqa: SLF001 - as above


class Reactor:
    """One thread's loop. Everything but `send_msg` and `stop` belongs to that thread.

    Parameters
    ----------
    name: shown in logs and by `thread_get_stats`.
    clock: `RealClock` by default.
    engine: the compiled core's part, drained each turn; attached later through `engine`.

    """

    def __init__(self, name: str = "reactor_0", clock: Clock | None = None) -> None:
        self.name = name
        self.clock: Clock = clock or RealClock()
        self.engine: IoEngine | None = None
        self.busy_turns = 0
        self.idle_turns = 0
        self.sleeps = 0
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._messages: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ready: deque[Task[Any]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._timer_count = 0
        self._pollers: list[Poller] = []
        self._stopping = False
        self._asleep = False
        self._thread_id: int | None = None
        self._closed = False
        self._wake_lock = threading.RLock()  # a signal handler may send while its thread sends
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_watch = self.watch(self._wake_fd, readable=self._woken)

    # Registration

    def watch(
        self,
        fd: int,
        *,
        readable: Callable[[], object] | None = None,
        writable: Callable[[], object] | None = None,
    ) -> Watch:
        """Call back when `fd` (non-blocking) is ready; reading is wanted at once if given."""
        watch = Watch(self, fd, readable, writable)
        watch._events = select.EPOLLIN if readable else 0  # noqa: SLF001 - part of the reactor
        self._epoll.register(fd, watch._events)  # noqa: SLF001 - as above
        self._watches[fd] = watch  # only now: a regular file is refused
        return watch

    def register_poller(
        self, function: Callable[[], int], period_us: int = 0, name: str = ""
    ) -> Poller:
        """Call `function` each turn, or every `period_us`.

        One without a period keeps the reactor awake for as long as it is registered.
        """
        poller = Poller(self, function, period_us, name or repr(function))
        if not period_us:
            self._pollers.append(poller)
        return poller

    def call_later(self, delay_us: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, `delay_us` microseconds from now."""
        timer = Timer(self.clock.now_ns() + int(delay_us * 1000), callback)
        self._timer_count += 1  # equal deadlines run in the order they were asked for
        heapq.heappush(self._timers, (timer.when_ns, self._timer_count, timer))
        return timer

    def sleep(self, delay_us: float) -> Future[None]:
        """Return a future that resolves after `delay_us` microseconds."""
        future: Future[None] = Future()
        self.call_later(delay_us, lambda: future.set_result(None))
        return future

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> Task[T]:
        """Run a coroutine from the next turn on. Await the task, or let it log its failure."""
        task = Task(self._ready, coroutine, name or getattr(coroutine, "__qualname__", "task"))
        self._ready.append(task)
        return task

    def send_msg(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function(*args)` on this reactor. Any thread may call; order per sender is kept."""
        self._messages.append((function, args))
        # The flag is read after the append, and the loop looks at the queue after setting it:
        # one of the two always sees the other.
        if self._asleep or threading.get_ident() != self._thread_id:
            # Once closed, the descriptor's number may be another file's.
            with self._wake_lock:
                if not self._closed:
                    os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Let `run` return after the turn in progress. Any thread may call.

        Before `run` it counts too: that one returns at once, so that a signal during start-up
        is not lost.
        """
        self._stopping = True
        self.send_msg(lambda: None)

    # The loop

    def run(self) -> None:
        """Turn until `stop`. The calling thread becomes the reactor's."""
        self._thread_id = threading.get_ident()
        spin_until_ns = 0
        while not self._stopping:
            if self.poll():
                spin_until_ns = 0
                continue
            if self._pollers:
                continue
            now_ns = self.clock.now_ns()
            if not spin_until_ns:
                spin_until_ns = now_ns + SPIN_US * 1000
            if now_ns >= spin_until_ns:
                self._sleep()
        self._stopping = False

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> T:
        """Turn until the coroutine ends; return its result or raise its error.

        On a virtual clock, time jumps when nothing else is left; a coroutine that waits for
        something that can no longer come is a RuntimeError, not a hang.
        """
        self._thread_id = threading.get_ident()
        task = self.spawn(coroutine, name)
        task.add_done_callback(lambda _task: None)  # its failure is raised here, not logged
        while not task.done:
            if self.poll():
                continue
            if not self.clock.virtual:
                if not self._pollers:
                    self._sleep()
            elif not self.advance():
                raise RuntimeError(f"{task.name} waits for something that can not come any more")
        return task.result()

    def poll(self) -> int:
        """Take one turn without sleeping; return how much there was to do."""
        did = 0
        engine = self.engine
        if engine is not None:
            if self.clock.virtual:
                engine.set_virtual_time(self.clock.now_ns())
            did += engine.drain()
        for _ in range(min(len(self._messages), MESSAGES_PER_TURN)):
            function, args = self._messages.popleft()
            did += 1
            self._call(function, *args)
        for _ in range(len(self._ready)):
            did += 1
            self._ready.popleft().step()
        if self._timers:
            did += self._run_timers()
        for poller in reversed(self._pollers):  # as SPDK iterates them
            did += poller.run()
        did += self._poll_fds(0)
        if did:
            self.busy_turns += 1
        else:
            self.idle_turns += 1
        return did

    def advance(self) -> bool:
        """Virtual clock: jump to the next deadline. False when there is none."""
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise TypeError(f"reactor {self.name}: only a virtual clock can be advanced")
        deadline_ns = self._deadline_ns()
        if deadline_ns is None:
            return False
        clock.advance_to(deadline_ns)
        return True

    def _deadline_ns(self) -> int | None:
        """Return when the next timer is due; cancelled ones are forgotten here."""
        while self._timers and self._timers[0][2]._callback is None:  # noqa: SLF001 - own timer
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _run_timers(self) -> int:
        did = 0
        now_ns = self.clock.now_ns()
        while self._timers and self._timers[0][0] <= now_ns:
            timer = heapq.heappop(self._timers)[2]
            callback = timer._callback  # noqa: SLF001 - a timer is part of its reactor
            if callback is not None:
                timer.cancel()
                did += 1
                self._call(callback)
        return did

    def _poll_fds(self, timeout_s: float) -> int:
        try:
            events = self._epoll.poll(timeout_s)
        except InterruptedError:
            return 0
        self._asleep = False  # what these callbacks send needs no wake-up
        watches = self._watches
        for fd, event in events:
            watch = watches.get(fd)
            if watch is None:  # closed by an earlier callback of this turn
                continue
            # A hang-up or an error counts as whatever the watch waits for.
            if event & ~select.EPOLLOUT and watch.readable is not None:
                self._call(watch.readable)
                if not event & select.EPOLLOUT or watches.get(fd) is not watch:
                    continue
            if watch.writable is not None:
                self._call(watch.writable)
        return len(events)

    def _sleep(self) -> None:
        timeout_s = -1.0
        deadline_ns = self._deadline_ns()
        if deadline_ns is not None:
            timeout_s = max(0.0, (deadline_ns - self.clock.now_ns()) / 1e9)
        self._asleep = True
        if self._messages or self._ready or self._stopping:
            timeout_s = 0.0
        self.sleeps += 1
        try:
            self._poll_fds(timeout_s)
        finally:
            self._asleep = False

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            log.exception("callback failed reactor=%s function=%r", self.name, function)

    def close(self) -> None:
        """Give back the descriptors. Only after `run` has returned."""
        self._wake_watch.close()
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_fd)
        self._epoll.close()
