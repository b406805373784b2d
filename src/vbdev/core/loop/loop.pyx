"""Loop: a reactor's turns, and its waiting, without Python where there is none to run.

What a turn looks at, and in which order, is said in `reactor/reactor.py`, which also has all that
runs there: messages, tasks, pollers, timers. Here it is found out whether there is any of it, which
takes an idle turn 100 instructions however many descriptors, timers and pollers there are; and
descriptors that are ready are handed straight to whoever watches them.

Each part of a turn has a slice of time (`core/engine/turn.pxd`), and what does not fit in goes on
in the next turn, in front: `late` tells whoever runs whether its part is over.

A turn that may wait, and that has found nothing, polls descriptors for `SPIN_US` more and then
sleeps, all without the interpreter's lock: the one place where a reactor is idle is `Loop._wait`.
After polls in vain so many waits go without that at most one in 64 polls: where there are more
threads than CPUs, what is polled for is often held up by the polling.
"""

import os

cimport cython
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.errno cimport ENOENT, errno
from libc.stdint cimport int64_t, uint32_t

from vbdev.core.base.calls cimport close
from vbdev.core.base.clocks cimport monotonic_ns
from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.types cimport this_thread
from vbdev.core.engine.engine cimport Engine
from vbdev.core.engine.turn cimport CALL_NS, slice_begin, slice_over


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    MAX_SLEEP_MS = 1 << 30
    NEVER = -1
    MAX_SKIPS = 63              # waits without polling, for a long row of polls in vain

SPIN_US = 30
cdef int64_t SPIN_NS = 1000 * <int64_t>SPIN_US


cdef object failed(int number, str call):
    return OSError(number, f"{call}: {os.strerror(number)}")


@cython.final
cdef class Watch:
    """Interest in one file descriptor. Callbacks run on the reactor when it is ready."""

    def update(self, *, bint read, bint write):
        """Say which readiness matters now. Costs a system call only when it changes.

        A peer that hangs up is reported as readable, or as writable where only that is wanted. The
        kernel tells of it even where nothing is wanted, and again and again; whoever wants nothing
        is told once, as readable, and has to remember it.
        """
        cdef epoll_event event
        event.events = (EPOLLIN if read else 0) | (EPOLLOUT if write else 0) or EPOLLONESHOT
        if event.events == self.events:
            return
        if self.loop is None:  # the number may be another file's by now
            raise failed(ENOENT, "epoll_ctl")
        event.data.ptr = <void *>self
        if epoll_ctl(self.loop.epoll_fd, EPOLL_CTL_MOD, self.fd, &event) < 0:
            raise failed(errno, "epoll_ctl")
        self.events = event.events

    def close(self):
        """Forget the descriptor, before it is closed. Idempotent."""
        cdef Loop loop = self.loop
        cdef epoll_event event
        if loop is None:
            return
        self.loop = None
        if loop.dispatching or loop.num_events:
            loop.closed_watches.append(self)
        if loop.epoll_fd >= 0 and epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, self.fd, &event) < 0:
            # Too late. Where the file is open elsewhere the kernel goes on naming this object.
            raise failed(errno, "epoll_ctl")
        loop.watches.discard(self)


@cython.final
cdef class Loop:
    """One thread's turns. All of it belongs to that thread.

    Parameters
    ----------
    messages, tasks: deques, looked at each turn.
    pollers: those without a period.
    timers: a heap of (when_ns, number, timer); a timer without `callback` is cancelled.
    run_messages, run_tasks, run_pollers, run_timers: called where there are some, or where the
        first timer is due (given the time). Each returns how much it did.
    on_error: called as (callback, exception) where one of a descriptor's callbacks has raised.
    main_thread: the `ident` of the thread where Python runs handlers of signals.
    clock: where time comes from; the machine's monotonic clock where it is None. With any other
        a turn may sleep, but not poll before.

    """

    def __cinit__(self):
        self.epoll_fd = -1

    def __init__(self, *, messages, tasks, dict pollers not None, list timers not None,
                 run_messages, run_tasks, run_pollers, run_timers, on_error,
                 unsigned long main_thread, clock=None):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise failed(errno, "epoll_create1")
        self.watches = set()
        self.closed_watches = []
        self.messages = messages
        self.tasks = tasks
        self.pollers = pollers
        self.timers = timers
        self.run_messages = run_messages
        self.run_tasks = run_tasks
        self.run_pollers = run_pollers
        self.run_timers = run_timers
        self.on_error = on_error
        self.main_thread = main_thread
        self.clock = clock
        self.slice = &self.own_slice
        self.own_slice.virtual = clock is not None
        self.started_ns = self.now_ns()

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    @property
    def engine(self):
        """What is drained at the end of each turn, or None."""
        return self.engine_

    @engine.setter
    def engine(self, engine):
        self.engine_ = engine
        self.core = engine if isinstance(engine, Engine) else None
        self.slice = &self.own_slice if self.core is None else &self.core.slice

    @property
    def closed(self):
        """Whether it has been closed."""
        return self.epoll_fd < 0

    def close(self):
        """Give back the descriptor. Idempotent."""
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
            self.epoll_fd = -1

    def watch(self, int fd, readable, writable):
        """Watch a descriptor; reading is wanted at once if `readable` is given."""
        cdef Watch watch = Watch.__new__(Watch)
        cdef epoll_event event
        watch.fd = fd
        watch.readable = readable
        watch.writable = writable
        watch.events = EPOLLIN if readable is not None else EPOLLONESHOT
        event.events = watch.events
        event.data.ptr = <void *>watch
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise failed(errno, "epoll_ctl")  # a regular file, say
        watch.loop = self
        self.watches.add(watch)
        return watch

    def turn(self, bint wait=False):
        """Take a turn; return how much there was to do.

        wait: where nothing is to be done, wait until there is, or until a signal; the turn that
        this is comes to the descriptors and the engine, and what else there is to the next one.
        """
        return self._turn(wait)

    @property
    def deadline_ns(self):
        """When the next timer is due, or the engine's next look at what waits; None if neither."""
        cdef int64_t deadline = self.deadline()
        return None if deadline == NEVER else deadline

    def spend(self, uint64_t ns):
        """Count work of the part of the turn that runs: on a virtual clock nothing else tells."""
        slice_over(self.slice, ns)

    @property
    def late(self):
        """Whether the part of the turn that runs is to let others go on: for loops in callbacks.

        Each look counts as a call in Python; on a virtual clock nothing else does.
        """
        return slice_over(self.slice, CALL_NS // 4)

    def times_ns(self):
        """Return how long it has been busy and idle, in ns. A turn in progress is busy."""
        return self.now_ns() - self.started_ns - self.idle_ns, self.idle_ns

    # Inside

    cdef int64_t now_ns(self) except? -1:
        if self.clock is None:
            return <int64_t>monotonic_ns()
        return self.clock.now_ns()

    cdef int64_t deadline(self) except? -1:
        cdef int64_t timer_ns = NEVER, engine_ns = 0
        if PyList_GET_SIZE(self.timers):
            if (<tuple>PyList_GET_ITEM(self.timers, 0))[2].callback is None:
                self.run_timers(NEVER)  # forgets those in front that are cancelled
            if PyList_GET_SIZE(self.timers):
                timer_ns = (<tuple>PyList_GET_ITEM(self.timers, 0))[0]
        if self.core is not None:
            engine_ns = self.core.next_look_ns()
        elif self.engine_ is not None:
            engine_ns = self.engine_.deadline_ns
        if engine_ns and (timer_ns == NEVER or engine_ns < timer_ns):
            return engine_ns
        return timer_ns

    cdef Py_ssize_t _turn(self, bint wait) except -1:
        # Budget: 30 ns and an epoll_wait for a turn in which nothing is to be done.
        cdef Py_ssize_t did = 0
        cdef int64_t now
        self.takes_signals = PyThread_get_thread_ident() == self.main_thread
        if self.core is not None:
            self.core.thread = this_thread()
        if self.clock is not None and self.engine_ is not None:
            self.engine_.set_virtual_time(self.clock.now_ns())
        if self.messages:
            slice_begin(self.slice)
            did += self.run_messages()
        if self.tasks:
            slice_begin(self.slice)
            did += self.run_tasks()
        if self.pollers:
            wait = False
            slice_begin(self.slice)
            did += self.run_pollers()
        if PyList_GET_SIZE(self.timers):
            now = self.now_ns()
            if (<tuple>PyList_GET_ITEM(self.timers, 0))[0] <= now:
                slice_begin(self.slice)
                did += self.run_timers(now)
        if self.num_events == 0:
            self.num_events = epoll_wait(self.epoll_fd, self.events, EVENTS, 0)
        if self.num_events <= 0 and did == 0 and wait:
            # The last turn ended in the engine. What waits there may have room since then.
            if self.core is not None:
                if self.core.has_waiting() or self.core.has_done() or self.core.has_workers:
                    did += self.core.take_turn()
            elif self.engine_ is not None:
                did += self.engine_.drain()
            # Children for which there is no BdevIO are due still; what frees one wakes it.
            if did == 0 and (self.core is None or self.core.done.n == 0):
                self.num_events = self._wait(self.events)
        if self.num_events > 0:
            slice_begin(self.slice)
            did += self._dispatch()
        else:
            self.num_events = 0
        if self.core is not None:
            if self.core.has_work():
                did += self.core.take_turn()
        elif self.engine_ is not None:
            did += self.engine_.drain()
        if did:
            self.busy_turns += 1
        else:
            self.idle_turns += 1
        return did

    cdef int _wait(self, epoll_event *events) except -1:
        """Poll for a while, then sleep until a descriptor is ready or a deadline comes.

        What other threads want comes by a descriptor too. What a signal's handler does, or
        whatever else Python runs in between, is in the queues.
        """
        cdef int64_t start = self.now_ns(), now = start, deadline = self.deadline()
        cdef int64_t spin_until = start + SPIN_NS
        cdef int n = 0
        cdef bint near = deadline != NEVER and deadline < spin_until
        cdef bint polls = self.clock is None and (near or self.skips == 0)
        if self._has_work():
            return 0
        if near:  # what sleeps is woken by the millisecond
            spin_until = deadline
        self.polls += polls
        if polls or not self.takes_signals:
            with nogil:
                gil_left()
                while n == 0 and polls and now < spin_until:
                    n = epoll_wait(self.epoll_fd, events, EVENTS, 0)
                    now = <int64_t>monotonic_ns()
                if not near:
                    self._note_poll(polls, n != 0)
                if n == 0 and not self.takes_signals:
                    n = self._sleep(events, deadline, now)
                gil_wanted()
        elif not near:
            self._note_poll(False, False)
        if n == 0 and self.takes_signals:
            # One that came while it polled interrupts no sleep that begins only now.
            PyErr_CheckSignals()
            if self.deadline() == deadline and not self._has_work():
                with nogil:
                    gil_left()
                    n = self._sleep(events, deadline, now)
                    gil_wanted()
        self.idle_ns += self.now_ns() - start
        return n if n > 0 else 0  # EINTR: its handler runs when Python does

    cdef void _note_poll(self, bint polled, bint found) noexcept nogil:
        # Nobody comes, or whoever would come waits for this CPU: then to poll is in vain.
        if not polled:
            self.skips -= self.skips > 0
        elif found:
            self.in_vain = 0
        else:
            self.in_vain = min(2 * self.in_vain + 1, <int>MAX_SKIPS)
            self.skips = self.in_vain

    cdef bint _has_work(self) except -1:
        return self.messages or self.tasks or self.pollers

    cdef int _sleep(self, epoll_event *events, int64_t deadline, int64_t now) noexcept nogil:
        cdef int64_t left
        cdef int timeout_ms = -1
        if deadline != NEVER:
            left = (deadline - now + 999999) // 1000000  # not before it
            timeout_ms = <int>(0 if left < 0 else min(left, <int64_t>MAX_SLEEP_MS))
        if timeout_ms == 0:
            return 0
        self.sleeps += 1
        return epoll_wait(self.epoll_fd, events, EVENTS, timeout_ms)

    cdef Py_ssize_t _dispatch(self) except -1:
        """Call those whose descriptors were ready, until the slice is over; return how many.

        Those that are left are the first in the next turn, before the kernel is asked again: it
        would name the same ones first. A turn that a callback takes goes on with them too.
        """
        cdef Watch watch
        cdef uint32_t ready
        cdef Py_ssize_t did = 0
        self.dispatching += 1
        try:
            while self.next_event < self.num_events:
                watch = <Watch>self.events[self.next_event].data.ptr
                ready = self.events[self.next_event].events
                self.next_event += 1
                did += 1
                self._report(watch, ready)
                if self.next_event < self.num_events and slice_over(self.slice, CALL_NS):
                    break
        finally:
            self.dispatching -= 1
            if self.next_event >= self.num_events:
                self.next_event = self.num_events = 0
                if self.dispatching == 0 and PyList_GET_SIZE(self.closed_watches):
                    self.closed_watches.clear()
        return did

    cdef int _report(self, Watch watch, uint32_t ready) except -1:
        if watch.loop is None:  # closed since it was found ready
            return 0
        # Nor what is not wanted any more.
        ready &= watch.events | ~<uint32_t>(EPOLLIN | EPOLLOUT)
        # A hang-up or an error counts as whatever the watch waits for.
        if (ready & ~<uint32_t>EPOLLOUT and watch.readable is not None
                and watch.events != <uint32_t>EPOLLOUT):
            self._call(watch.readable)
            if not ready & EPOLLOUT or watch.loop is None:
                return 0
        if ready and watch.writable is not None:
            self._call(watch.writable)
        return 0

    cdef int _call(self, function) except -1:
        try:
            function()
        except (KeyboardInterrupt, SystemExit):  # nobody's failure: whoever runs the loop ends it
            raise
        except BaseException as error:
            self.on_error(function, error)
        return 0
