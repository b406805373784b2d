# The machine's monotonic clock, in nanoseconds.

from libc.stdint cimport uint64_t


cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *out)
    int CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE


cdef inline uint64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef inline uint64_t monotonic_ns() noexcept nogil:
    return clock_ns(CLOCK_MONOTONIC)


cdef inline uint64_t coarse_ns() noexcept nogil:
    # A few ns for a resolution of a few ms, which is enough to find who blocks.
    return clock_ns(CLOCK_MONOTONIC_COARSE)


cdef inline uint64_t since_ns(uint64_t then, uint64_t now) noexcept nogil:
    # How long ago `then` was. What lies ahead is no time ago: two readings may be of two clocks, of
    # two threads, or of one that was set.
    return now - then if now > then else 0
