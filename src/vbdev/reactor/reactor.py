"""The reactor: one thread's loop of file descriptors, timers, messages, pollers and tasks.

Only the clock reads time, and only the reactor waits. On a `VirtualClock` the same code runs in
a simulation: when nothing is left to do, time jumps to the next deadline.

One turn, in this order: messages that other threads sent, tasks that became ready, pollers without
a period (the newest first), timers that are due (equal deadlines in the order they were asked for),
file descriptors, and what the I/O engine gathered from all of these (completions): what a
descriptor brings is answered before the next look at any. A turn that finds no work polls the
descriptors for `SPIN_US` more and then sleeps in the kernel until a descriptor, a message or a
deadline wakes it; while such polls find nothing, it leaves out most of them. An idle reactor costs
no CPU, and what is idle on a busy one costs its turns nothing. The turn itself is compiled
(`core/loop/loop.pyx`).

What belongs to a reactor is touched by its thread alone. Threads that want something of it send a
message (`send_msg`), or ask and await the answer (`ask`). `Reactor.current()` is the reactor whose
code runs on the calling thread.

A turn is bounded in time: each of its parts has a slice of 200 us (`core/engine/turn.pxd`) and does
at least one thing; what does not fit in is the first in the next turn. Nothing that runs here is
interrupted, so whatever may go on for longer has to stop by itself: a loop in a callback asks
`late`, a coroutine awaits `breathe`.

Exceptions from callbacks are logged with their owner and end nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from vbdev.core.loop.loop import SPIN_US, Loop, Watch
from vbdev.reactor.clock import Clock, RealClock, VirtualClock
from vbdev.reactor.poller import Poller
from vbdev.reactor.questions import Question, ReactorStoppedError
from vbdev.reactor.task import Future, Task
from vbdev.reactor.timers import MAX_DELAY_US, Timer, Timers
from vbdev.vocab.cpu_sets import Core
from vbdev.vocab.refused import naming

__all__ = [
    "MESSAGES_PER_TURN",
    "SPIN_US",
    "TASKS_PER_TURN",
    "IoEngine",
    "Poller",
    "Reactor",
    "Watch",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

MESSAGES_PER_TURN = 64
"""Messages run in one turn, so that a flood of them does not starve the data path."""

TASKS_PER_TURN = 64
"""Tasks that go on in one turn, for the same reason: one event may be what thousands wait for."""


_thread = threading.local()


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
        self.locals: dict[Any, Any] = {}
        self.native_id = 0
        self._pollers: dict[int, Poller] = {}
        self.turn_pollers: dict[int, Poller] = {}
        """Those without a period that are not paused. For pollers, which enter and leave."""
        self._messages: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._ready: deque[Task[Any]] = deque()
        self._timers = Timers(self.name, self.clock)
        self._poller_count = 0
        self._last_poller = 0  # the last one that had its turn, where not all of them had
        self._stopping = False
        self._thread_id: int | None = None
        self._closed = False
        self._wake_sent = False
        self._wake_lock = threading.RLock()  # a signal handler may send while its thread sends
        with naming("eventfd"):
            self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop = Loop(
            messages=self._messages,
            tasks=self._ready,
            pollers=self.turn_pollers,
            timers=self._timers.heap,
            run_messages=self._run_messages,
            run_tasks=self._run_tasks,
            run_pollers=self._run_pollers,
            run_timers=self._run_timers,
            on_error=self._log_failure,
            main_thread=threading.main_thread().ident or 0,
            clock=None if type(self.clock) is RealClock else self.clock,
        )
        self._wake_watch = self.watch(self._wake_fd, readable=self._woken)

    def __repr__(self) -> str:
        return f"<reactor {self.id} {self.name}>"

    @property
    def engine(self) -> IoEngine | None:
        """The compiled core that it drives, and that finds it as `engine.reactor`."""
        engine: IoEngine | None = self._loop.engine
        return engine

    @engine.setter
    def engine(self, engine: IoEngine | None) -> None:
        self._loop.engine = engine
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
        return self._loop.watch(fd, readable, writable)

    def register_poller(
        self, function: Callable[[], int], period_us: int = 0, name: str = ""
    ) -> Poller:
        """Call `function` each turn, or every `period_us`.

        One without a period keeps the reactor awake for as long as it is registered. A period of
        more than `MAX_DELAY_US` is as long as that. ValueError: it is negative, or no number.
        """
        if not period_us >= 0:
            raise ValueError(f"reactor {self.name}: poller {name!r}: a period of {period_us} us")
        self._poller_count += 1
        period_us = min(period_us, MAX_DELAY_US)
        poller = Poller(
            self._poller_count,
            function,
            period_us,
            name or repr(function),
            later=self.call_later,
            turn_pollers=self.turn_pollers,
            forget=self._forget_poller,
        )
        self._pollers[poller.id] = poller
        return poller

    @property
    def pollers(self) -> list[Poller]:
        """Those that are registered, the oldest first."""
        return list(self._pollers.values())

    def _forget_poller(self, poller: Poller) -> None:
        del self._pollers[poller.id]

    def call_later(self, delay_us: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, `delay_us` microseconds from now.

        At once where that is less than 0. ValueError: more than `MAX_DELAY_US`, or no number.
        """
        return self._timers.add(delay_us, callback)

    def sleep(self, delay_us: float) -> Future[None]:
        """Return a future that resolves after `delay_us` us. ValueError as `call_later`."""
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
        function raises, or ReactorStoppedError where this one ends before it comes to it. What is
        no Exception is a RuntimeError for the asker; KeyboardInterrupt and SystemExit are this
        reactor's besides.
        """
        origin = Reactor.current()
        if origin is None:
            raise RuntimeError(f"{self.name} was asked by a thread that runs no reactor")
        question = Question(self, origin, function, args)
        if not self.send_msg(question):
            question.future.set_exception(ReactorStoppedError(self))
        return question.future

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
        with self.here():
            turn = self._loop.turn
            while not self._stopping:
                turn(wait=True)
            self._stopping = False

    def run_until_complete(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> T:
        """Turn until the coroutine ends; return its result or raise its error.

        On a virtual clock, time jumps when nothing else is left; a coroutine that waits for
        something that can no longer come is a RuntimeError, not a hang.
        """
        with self.here():
            task = self.spawn(coroutine, name)
            task.add_done_callback(lambda _task: None)  # its failure is raised here, not logged
            turn, virtual = self._loop.turn, self.clock.virtual
            while not task.done:
                if not turn(wait=not virtual) and virtual and not self.advance():
                    raise RuntimeError(
                        f"{task.name} waits for something that can not come any more"
                    )
            return task.result()

    def poll(self) -> int:
        """Take one turn without sleeping; return how much there was to do."""
        with self.here():
            return self._loop.turn()

    @property
    def late(self) -> bool:
        """Whether the part of the turn that runs has had its time: others go on first.

        For loops in callbacks; each look counts as one of their calls.
        """
        return self._loop.late

    async def breathe(self) -> None:
        """Let others go on where the time of this turn is over: between the parts of long work."""
        if self._loop.late:
            pause: Future[None] = Future()
            self.send_msg(pause.set_result, None)
            await pause

    def _run_messages(self) -> int:
        messages, did, loop = self._messages, 0, self._loop
        # One that takes a turn itself leaves fewer for this one.
        for _ in range(min(len(messages), MESSAGES_PER_TURN)):
            if not messages or (did and loop.late):
                break
            function, args = messages.popleft()
            did += 1
            self._call(function, *args)
        return did

    def _run_tasks(self) -> int:
        ready, did, loop = self._ready, 0, self._loop
        for _ in range(min(len(ready), TASKS_PER_TURN)):
            if not ready or (did and loop.late):
                break
            did += 1
            ready.popleft().step()
        return did

    def _run_pollers(self) -> int:
        # Of a copy: what they register now is for the next turn.
        pollers = sorted(self.turn_pollers.values(), key=lambda poller: -poller.id)
        # Those for which the last turn had no time are the first.
        left = [poller for poller in pollers if poller.id < self._last_poller]
        if left:
            pollers = left + pollers[: -len(left)]
        self._last_poller = 0
        did, last = 0, len(pollers) - 1
        for number, poller in enumerate(pollers):
            did += poller.run()
            if number < last and self._loop.late:
                self._last_poller = poller.id
                break
        return did

    # Time spent

    @property
    def turns(self) -> int:
        """Turns before the one in progress: its number."""
        return self._loop.busy_turns + self._loop.idle_turns

    @property
    def busy_turns(self) -> int:
        """Turns in which there was something to do."""
        return self._loop.busy_turns

    @property
    def idle_turns(self) -> int:
        """Turns in which there was not."""
        return self._loop.idle_turns

    @property
    def sleeps(self) -> int:
        """How often it went to sleep."""
        return self._loop.sleeps

    def times_ns(self) -> tuple[int, int]:
        """Return how long it has been busy and idle, in ns. For its own thread, which is busy."""
        return self._loop.times_ns()

    def advance(self) -> bool:
        """Virtual clock: jump to the next deadline. False when there is none."""
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise TypeError(f"reactor {self.name}: only a virtual clock can be advanced")
        deadline_ns = self.deadline_ns
        if deadline_ns is None:
            return False
        clock.advance_to(deadline_ns)
        return True

    @property
    def deadline_ns(self) -> int | None:
        """When the next timer is due, or the engine's next look at what waits; None if neither."""
        return self._loop.deadline_ns

    def _run_timers(self, now_ns: int) -> int:
        return self._timers.run(now_ns, self._call, lambda: self._loop.late)

    def _woken(self) -> None:
        # The next message wakes it again; those that are there are run in the next turn.
        with self._wake_lock:
            self._wake_sent = False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except (KeyboardInterrupt, SystemExit):  # nobody's failure: whoever runs the loop ends it
            raise
        except BaseException as error:  # noqa: BLE001 - logged, and ends nothing else
            self._log_failure(function, error)

    def _log_failure(self, function: Callable[..., object], error: BaseException) -> None:
        log.error("callback failed reactor=%s function=%r", self.name, function, exc_info=error)

    def finish(self) -> None:
        """Take no more messages, and run those that are there. After `run`, on its thread."""
        with self.here():
            with self._wake_lock:
                self._closed = True
            stop: BaseException | None = None
            while self._messages:
                function, args = self._messages.popleft()
                try:
                    self._call(function, *args)
                except BaseException as error:  # noqa: BLE001 - raised below: others wait for an answer
                    stop = stop or error
            if stop is not None:
                raise stop

    def close(self) -> None:
        """Give back the descriptors. Only after `run` has returned."""
        if self._loop.closed:
            return
        self._wake_watch.close()
        with self._wake_lock:
            self._closed = True
            os.close(self._wake_fd)
        while self._messages:  # who asked is told that nobody answers any more
            function, _ = self._messages.popleft()
            if isinstance(function, Question):
                function.refuse()
        self._loop.close()
