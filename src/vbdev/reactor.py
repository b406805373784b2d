"""The reactor: one thread's loop of file descriptors, timers, messages, pollers and tasks.

Only the clock reads time, and only the reactor waits. On a `VirtualClock` the same code runs in
a simulation: when nothing is left to do, time jumps to the next deadline.

One turn, in this order: what the I/O engine gathered (completions), messages that other threads
sent, tasks that became ready, pollers without a period (the newest first), timers that are due
(equal deadlines in the order they were asked for), file descriptors. While a turn found work the
next one starts at once; after `SPIN_US` without work the thread sleeps in the kernel until a
descriptor, a message or a deadline wakes it. An idle reactor costs no CPU.

What belongs to a reactor is touched by its thread alone. Threads that want something of it send a
message (`send_msg`), or ask and await the answer (`ask`). `Reactor.current()` is the reactor whose
code runs on the calling thread.

Exceptions from callbacks are logged with their owner and end nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from vbdev.clock import Clock, RealClock, VirtualClock
from vbdev.core import handover
from vbdev.cpu_sets import Core
from vbdev.poller import Poller, PollerState
from vbdev.task import Future, Task

__all__ = [
    "MESSAGES_PER_TURN",
    "SPIN_US",
    "TASKS_PER_TURN",
    "IoEngine",
    "Poller",
    "Reactor",
    "ReactorStoppedError",
    "Timer",
    "Watch",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

SPIN_US = 30
"""How long a reactor polls after the last work before it sleeps, in us: about what one wake-up
from the kernel costs, so that a client at queue depth 1 does not pay for it on each request."""

MESSAGES_PER_TURN = 64
"""Messages run in one turn, so that a flood of them does not starve the data path."""

TASKS_PER_TURN = 64
"""Tasks that go on in one turn, for the same reason: one event may be what thousands wait for."""


_thread = threading.local()


class ReactorStoppedError(OSError):
    """A message could not be delivered: its reactor has stopped (errno ESHUTDOWN)."""

    def __init__(self, reactor: Reactor) -> None:
        super().__init__(errno.ESHUTDOWN, f"reactor {reactor.name} has stopped")


class IoEngine(Protocol):
    """What a reactor asks of the compiled core that it drives."""

    def drain(self) -> int:
        """Deliver what has completed; return how many I/Os moved."""
        ...

    reactor: Any
    """Set by the reactor that drives it."""

    @property
    def deadline_ns(self) -> int:
        """When `drain` should be called even if nothing happens before; 0: no need."""
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
    """One thread's loop. Everything but `send_msg`, `ask` and `stop` belongs to that thread.

    Parameters
    ----------
    name: shown in logs and by `thread_get_stats`; `reactor_<core>` by default.
    clock: `RealClock` by default.
    reactor_id: from 1, unique in an application (SPDK: the thread's id).
    core: under which number it is known, and where it runs; by default 0, 1... anywhere.

    `engine` is the compiled core's part, drained each turn; attached later. `locals` is for
    whatever else there is one of on each reactor; its thread alone touches it.

    """

    def __init__(
        self,
        name: str = "",
        clock: Clock | None = None,
        *,
        reactor_id: int = 1,
        core: Core | None = None,
    ) -> None:
        self.id = reactor_id
        self.core = core or Core(reactor_id - 1)
        self.name = name or f"reactor_{self.core.number}"
        self.clock: Clock = clock or RealClock()
        self._engine: IoEngine | None = None
        self.locals: dict[Any, Any] = {}
        self.pollers: list[Poller] = []
        self.native_id = 0
        self.busy_turns = 0
        self.idle_turns = 0
        self.sleeps = 0
        self._started_ns = self._mark_ns = self.clock.now_ns()
        self._busy_ns = 0
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        self._messages: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ready: deque[Task[Any]] = deque()
        self._timers: list[tuple[int, int, Timer]] = []
        self._timer_count = 0
        self._poller_count = 0
        self._stopping = False
        self._asleep = False
        self._thread_id: int | None = None
        self._closed = False
        self._wake_sent = False
        self._wake_lock = threading.RLock()  # a signal handler may send while its thread sends
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wake_watch = self.watch(self._wake_fd, readable=self._woken)

    def __repr__(self) -> str:
        return f"<reactor {self.id} {self.name}>"

    @property
    def engine(self) -> IoEngine | None:
        """The compiled core that it drives, and that finds it as `engine.reactor`."""
        return self._engine

    @engine.setter
    def engine(self, engine: IoEngine | None) -> None:
        self._engine = engine
        if engine is not None:
            engine.reactor = self

    @staticmethod
    def current() -> Reactor | None:
        """Return the reactor whose code the calling thread runs; None outside of any."""
        return getattr(_thread, "reactor", None)

    @property
    def is_here(self) -> bool:
        """Whether the caller may touch what belongs to this reactor.

        So may its own code; and, outside of any reactor's, a thread that polls it by hand.
        """
        here = getattr(_thread, "reactor", None)
        if here is None:
            return self._thread_id in (None, threading.get_ident())
        return here is self

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make the calling thread this reactor's for a while, as a loop or a test does."""
        before = getattr(_thread, "reactor", None)
        before_id, self._thread_id = self._thread_id, threading.get_ident()
        if self._thread_id != before_id:
            self.native_id = threading.get_native_id()
        _thread.reactor = self
        try:
            yield
        finally:
            _thread.reactor = before
            self._thread_id = before_id

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
        self._poller_count += 1
        poller = Poller(self, self._poller_count, function, period_us, name or repr(function))
        self.pollers.append(poller)
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

    def send_msg(self, function: Callable[..., object], *args: Any) -> bool:
        """Run `function(*args)` on this reactor. Any thread may call; order per sender is kept.

        False when the reactor has stopped: the function will not run.
        """
        if threading.get_ident() == self._thread_id and not self._closed:
            self._messages.append((function, args))
            if self._asleep:  # a signal handler, between the last look and the sleep
                os.eventfd_write(self._wake_fd, 1)
            return True
        # The lock also keeps a message from coming in behind the last look at them, and from
        # being written to a descriptor whose number is another file's by now.
        with self._wake_lock:
            if self._closed:
                return False
            self._messages.append((function, args))
            if not self._wake_sent:
                self._wake_sent = True
                os.eventfd_write(self._wake_fd, 1)
        return True

    def exec_msg(self, function: Callable[..., object], *args: Any) -> bool:
        """Run `function(*args)` here and now if this is the reactor's code; else as `send_msg`."""
        if not self.is_here:
            return self.send_msg(function, *args)
        function(*args)
        return True

    def ask(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Run `function(*args)` on this reactor; return a future of its result.

        To be called on a reactor, which is where the future resolves. It has the error that the
        function raises, or ReactorStoppedError.
        """
        origin = Reactor.current()
        if origin is None:
            raise RuntimeError(f"{self.name} was asked by a thread that runs no reactor")
        future: Future[T] = Future()

        def work() -> None:
            try:
                value = function(*args)
            except Exception as error:  # noqa: BLE001 - it is the asker's
                origin.send_msg(future.set_exception, error)
            else:
                origin.send_msg(future.set_result, value)

        if not self.send_msg(work):
            future.set_exception(ReactorStoppedError(self))
        return future

    def stop(self) -> None:
        """Let `run` return after the turn in progress. Any thread may call.

        Before `run` it counts too: that one returns at once, so that a signal during start-up
        is not lost.
        """
        self._stopping = True
        self.send_msg(lambda: None)

    def begin(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> Task[T]:
        """Run a coroutine now, up to its first await, and from there on as `spawn` does."""
        task = Task(self._ready, coroutine, name or getattr(coroutine, "__qualname__", "task"))
        task.step()
        return task

    # The loop

    def run(self) -> None:
        """Turn until `stop`. The calling thread becomes the reactor's."""
        spin_until_ns = 0
        with self.here():
            while not self._stopping:
                if self._turn():
                    spin_until_ns = 0
                    continue
                now_ns = self._count_time(busy=not spin_until_ns)
                if not spin_until_ns:
                    spin_until_ns = now_ns + SPIN_US * 1000
                if now_ns >= spin_until_ns and not self._polls:
                    self._sleep()
            self._stopping = False

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> T:
        """Turn until the coroutine ends; return its result or raise its error.

        On a virtual clock, time jumps when nothing else is left; a coroutine that waits for
        something that can no longer come is a RuntimeError, not a hang.
        """
        with self.here():
            task = self.spawn(coroutine, name)
            task.add_done_callback(lambda _task: None)  # its failure is raised here, not logged
            while not task.done:
                if self._turn():
                    continue
                if not self.clock.virtual:
                    if not self._polls:
                        self._sleep()
                elif not self.advance():
                    raise RuntimeError(
                        f"{task.name} waits for something that can not come any more"
                    )
            return task.result()

    def poll(self) -> int:
        """Take one turn without sleeping; return how much there was to do."""
        with self.here():
            return self._turn()

    def _turn(self) -> int:
        did = 0
        engine = self.engine
        if engine is not None:
            if self.clock.virtual:
                engine.set_virtual_time(self.clock.now_ns())
            did += engine.drain()
        # Most turns have neither, and to look is cheaper than a range of nothing.
        if self._messages:
            for _ in range(min(len(self._messages), MESSAGES_PER_TURN)):
                function, args = self._messages.popleft()
                did += 1
                self._call(function, *args)
        if self._ready:
            for _ in range(min(len(self._ready), TASKS_PER_TURN)):
                did += 1
                self._ready.popleft().step()
        if self.pollers:
            # Of a copy: what they register now is for the next turn.
            for poller in self.pollers[::-1]:
                if not poller.period_us:
                    did += poller.run()
        if self._timers:
            did += self._run_timers()
        did += self._poll_fds(0)
        if did:
            self.busy_turns += 1
        else:
            self.idle_turns += 1
        return did

    @property
    def _polls(self) -> bool:
        """Whether a poller without a period keeps it from sleeping."""
        return any(not p.period_us and p.state is not PollerState.PAUSED for p in self.pollers)

    # Time spent

    def _count_time(self, *, busy: bool) -> int:
        """Count the time since the last call as busy or idle, and return the time."""
        now_ns = self.clock.now_ns()
        if busy:
            self._busy_ns += now_ns - self._mark_ns
        self._mark_ns = now_ns
        return now_ns

    def times_ns(self) -> tuple[int, int]:
        """Return how long it has been busy and idle, in ns. For its own thread, which is busy."""
        now_ns = self._count_time(busy=True)
        return self._busy_ns, now_ns - self._started_ns - self._busy_ns

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

    @property
    def deadline_ns(self) -> int | None:
        """When the next timer is due, or the engine's next look at what waits; None if neither."""
        return self._deadline_ns()

    def _deadline_ns(self) -> int | None:
        """Return when the next timer is due; cancelled ones are forgotten here."""
        while self._timers and self._timers[0][2]._callback is None:  # noqa: SLF001 - own timer
            heapq.heappop(self._timers)
        timer_ns = self._timers[0][0] if self._timers else None
        engine_ns = self._engine.deadline_ns if self._engine is not None else 0
        if engine_ns and (timer_ns is None or engine_ns < timer_ns):
            return engine_ns
        return timer_ns

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
        handover.left()
        try:
            self._poll_fds(timeout_s)
        finally:
            self._asleep = False
            self._count_time(busy=False)

    def _woken(self) -> None:
        # The next message wakes it again; those that are there are run in the next turn.
        with self._wake_lock:
            self._wake_sent = False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            log.exception("callback failed reactor=%s function=%r", self.name, function)

    def finish(self) -> None:
        """Take no more messages, and run those that are there. After `run`, on its thread."""
        with self.here():
            with self._wake_lock:
                self._closed = True
            while self._messages:
                function, args = self._messages.popleft()
                self._call(function, *args)

    def close(self) -> None:
        """Give back the descriptors. Only after `run` has returned."""
        if self._epoll.closed:
            return
        self._wake_watch.close()
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_fd)
        self._epoll.close()
