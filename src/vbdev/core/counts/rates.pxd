from libc.stdint cimport int64_t

from vbdev.core.base.types cimport bdev_io, uint64_t, uint8_t


cdef enum:
    QOS_RW_IOS = 0
    QOS_RW_BYTES = 1
    QOS_R_BYTES = 2
    QOS_W_BYTES = 3
    QOS_LIMITS = 4

# Which limits concern an I/O.
cdef enum:
    QOS_READS = 1
    QOS_WRITES = 2

# One limit. Every field is shared by reactors, and touched by atomic operations alone.
cdef struct qos_limit:
    uint64_t per_slice      # I/Os or bytes that may start in a timeslice; 0: unlimited
    int64_t remaining       # of this timeslice; negative: what ran over, owed by the next

cdef struct qos_state:
    qos_limit limits[QOS_LIMITS]
    uint64_t slice_ns       # when the timeslice in progress began
    uint64_t waiting        # I/Os held back, on all channels


cdef class RateLimits:
    cdef qos_state q
    cdef list per_second

    cdef bint start(self, uint8_t kind, uint64_t size_bytes, uint64_t now_ns) noexcept nogil
    cdef void refill(self, uint64_t now_ns) noexcept nogil
    cdef uint64_t next_slice_ns(self) noexcept nogil
    cdef void wait_more(self, uint64_t n) noexcept nogil
    cdef void wait_less(self, uint64_t n) noexcept nogil

cdef uint8_t qos_kind(const bdev_io *io) noexcept nogil
cdef uint64_t qos_bytes(const bdev_io *io, uint64_t block_size) noexcept nogil
