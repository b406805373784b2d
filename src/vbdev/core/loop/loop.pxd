from libc.stdint cimport int64_t, uint32_t, uint64_t

from vbdev.core.engine.engine cimport Engine
from vbdev.core.engine.turn cimport time_slice


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    enum: EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    enum: EPOLLIN, EPOLLOUT, EPOLLONESHOT


cdef enum:
    EVENTS = 256                # that the kernel is asked for at once


cdef class Watch:
    cdef Loop loop                      # None: closed
    cdef readonly int fd
    cdef readonly object readable
    cdef readonly object writable
    cdef uint32_t events


cdef class Loop:
    cdef int epoll_fd
    cdef set watches
    cdef list closed_watches            # by callbacks of the events being looked at
    cdef int dispatching                # how deep
    cdef epoll_event events[EVENTS]     # of which those from `next_event` on are to be reported
    cdef int num_events
    cdef int next_event
    cdef time_slice own_slice           # without an Engine
    cdef time_slice *slice
    cdef unsigned long main_thread
    cdef bint takes_signals             # its turns are the main thread's
    cdef object clock                   # None: CLOCK_MONOTONIC
    cdef Engine core                    # None: another kind of engine, or none
    cdef object engine_
    cdef object messages
    cdef object tasks
    cdef dict pollers
    cdef list timers
    cdef object run_messages
    cdef object run_tasks
    cdef object run_pollers
    cdef object run_timers
    cdef object on_error
    cdef int64_t started_ns
    cdef int64_t idle_ns
    cdef readonly uint64_t busy_turns
    cdef readonly uint64_t idle_turns
    cdef readonly uint64_t sleeps
    cdef readonly uint64_t polls        # waits that began with polling
    cdef int skips                      # so many waits are without polling
    cdef int in_vain                    # from how many polls in a row have found nothing

    cdef int64_t now_ns(self) except? -1
    cdef int64_t deadline(self) except? -1
    cdef Py_ssize_t _turn(self, bint wait) except -1
    cdef int _wait(self, epoll_event *events) except -1
    cdef void _note_poll(self, bint polled, bint found) noexcept nogil
    cdef bint _has_work(self) except -1
    cdef int _sleep(self, epoll_event *events, int64_t deadline, int64_t now) noexcept nogil
    cdef Py_ssize_t _dispatch(self) except -1
    cdef int _report(self, Watch watch, uint32_t ready) except -1
    cdef int _call(self, function) except -1
