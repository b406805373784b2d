"""Rate limits of a bdev: a quota for each millisecond that all channels draw from.

An I/O starts when each limit that concerns it has something left, and may then take more than is
left: what runs over is owed by the next timeslices. What a timeslice leaves unused is lost. So
the mean rate is the limit, whatever the sizes, and no burst is longer than one timeslice and one
I/O. (SPDK: bdev_qos_rw_queue_io, bdev_channel_poll_qos.)

Nobody has to be awake for it: whoever asks brings the time, and the first to ask in a new
timeslice refills. While I/Os wait, a caller that comes late finds the quota of every timeslice
that has passed; while none do, of one.

Reactors share the numbers through atomic operations; nothing here locks or waits.
"""

from libc.stdint cimport int64_t, uint64_t, uint8_t

from vbdev.core.base.types cimport (
    FLAG_ZCOPY_END,
    FLAG_ZCOPY_POPULATE,
    OP_NVME_IO,
    OP_NVME_IO_MD,
    OP_READ,
    OP_WRITE,
    OP_ZCOPY,
    bdev_io,
    io_data_bytes,
)


cdef extern from *:
    """
    #include <stdint.h>

    #define vbdev_qos_load(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define vbdev_qos_store(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    #define vbdev_qos_add(at, value) __atomic_fetch_add(at, value, __ATOMIC_ACQ_REL)
    #define vbdev_qos_swap(at, expected, value) \\
        __atomic_compare_exchange_n(at, expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    """
    uint64_t load "vbdev_qos_load"(const uint64_t *at) nogil
    int64_t load_signed "vbdev_qos_load"(const int64_t *at) nogil
    void store "vbdev_qos_store"(uint64_t *at, uint64_t value) nogil
    void store_signed "vbdev_qos_store"(int64_t *at, int64_t value) nogil
    uint64_t add "vbdev_qos_add"(uint64_t *at, uint64_t value) nogil
    int64_t add_signed "vbdev_qos_add"(int64_t *at, int64_t value) nogil
    bint swap "vbdev_qos_swap"(uint64_t *at, uint64_t *expected, uint64_t value) nogil
    bint swap_signed "vbdev_qos_swap"(int64_t *at, int64_t *expected, int64_t value) nogil

cdef enum:
    SLICE_NS = 1000000
    SLICES_PER_SECOND = 1000

# The least that a timeslice allows, so that a small limit still moves (SPDK's numbers).
cdef uint64_t[QOS_LIMITS] MINIMUM = [1, 512, 512, 512]
cdef uint8_t[QOS_LIMITS] CONCERNS = [
    QOS_READS | QOS_WRITES, QOS_READS | QOS_WRITES, QOS_READS, QOS_WRITES]
cdef int64_t MOST = <int64_t>1 << 62


cdef uint8_t qos_kind(const bdev_io *io) noexcept nogil:
    """Return which limits concern an I/O: QOS_READS, QOS_WRITES, or 0 when none does."""
    if io.op == OP_READ:
        return QOS_READS
    if io.op == OP_WRITE:
        return QOS_WRITES
    if io.op == OP_ZCOPY and not io.flags & FLAG_ZCOPY_END:
        return QOS_READS if io.flags & FLAG_ZCOPY_POPULATE else QOS_WRITES
    if (io.op == OP_NVME_IO or io.op == OP_NVME_IO_MD) and io.cmd != NULL:
        # The opcode says where the data goes: bit 1 to the host.
        return QOS_READS if (<const uint8_t *>io.cmd)[0] & 2 else QOS_WRITES
    return 0


cdef uint64_t qos_bytes(const bdev_io *io, uint64_t block_size) noexcept nogil:
    if io.op == OP_NVME_IO or io.op == OP_NVME_IO_MD:
        return io_data_bytes(io)
    return io.num_blocks * block_size


cdef class RateLimits:
    """The limits of one bdev. Any thread may start I/Os against them.

    Times are ns of one clock, the reactors'.
    """

    def __cinit__(self, uint64_t now_ns=0):
        self.q.slice_ns = now_ns
        self.per_second = [0] * QOS_LIMITS

    def set(self, limits, uint64_t now_ns):
        """Set all four limits, in I/Os and bytes a second: rw_ios, rw_bytes, r_bytes, w_bytes.

        0 is no limit. The timeslice begins anew, and nothing is owed.
        """
        cdef int i
        cdef uint64_t per_slice
        if len(limits) != QOS_LIMITS:
            raise ValueError(f"{len(limits)} limits; there are {int(QOS_LIMITS)}")
        self.per_second = list(limits)
        for i in range(QOS_LIMITS):
            per_slice = limits[i] // SLICES_PER_SECOND
            if limits[i] and per_slice < MINIMUM[i]:
                per_slice = MINIMUM[i]
            store_signed(&self.q.limits[i].remaining, <int64_t>per_slice)
            store(&self.q.limits[i].per_slice, per_slice)
        store(&self.q.slice_ns, now_ns)

    @property
    def limits(self):
        """The limits as they were set, in I/Os and bytes a second."""
        return list(self.per_second)

    @property
    def remaining(self):
        """What is left of this timeslice of each limit, in I/Os and bytes; negative: owed."""
        cdef int i
        return [load_signed(&self.q.limits[i].remaining) for i in range(QOS_LIMITS)]

    @property
    def waiting(self):
        """I/Os that wait for the limits, on all channels."""
        return load(&self.q.waiting)

    def try_start(self, bint read, uint64_t size_bytes, uint64_t now_ns):
        """Start an I/O of this size if the limits allow it now; say whether they did."""
        return self.start(QOS_READS if read else QOS_WRITES, size_bytes, now_ns)

    def note_waiting(self, int more):
        """Count I/Os that are held back, or have left."""
        add(&self.q.waiting, <uint64_t>more)

    cdef void wait_more(self, uint64_t n) noexcept nogil:
        add(&self.q.waiting, n)

    cdef void wait_less(self, uint64_t n) noexcept nogil:
        add(&self.q.waiting, -n)

    cdef bint start(self, uint8_t kind, uint64_t size_bytes, uint64_t now_ns) noexcept nogil:
        """Take an I/O's share of each limit that concerns it, or of none."""
        cdef int i
        cdef qos_limit *limit
        cdef int64_t share
        cdef int64_t[QOS_LIMITS] taken
        self.refill(now_ns)
        for i in range(QOS_LIMITS):
            limit = &self.q.limits[i]
            taken[i] = 0
            if not CONCERNS[i] & kind or load(&limit.per_slice) == 0:
                continue
            share = 1 if i == QOS_RW_IOS else <int64_t>size_bytes
            if load_signed(&limit.remaining) > 0:
                taken[i] = share
                if add_signed(&limit.remaining, -share) > 0:
                    continue
                # Another reactor took the last of it between the two looks.
            while i >= 0:
                if taken[i]:
                    add_signed(&self.q.limits[i].remaining, taken[i])
                i -= 1
            return False
        return True

    cdef void refill(self, uint64_t now_ns) noexcept nogil:
        """Begin the timeslice that `now_ns` lies in, unless somebody has."""
        cdef uint64_t began = load(&self.q.slice_ns)
        cdef uint64_t slices, per_slice
        cdef int64_t left, more, full
        cdef bint late_for_waiters
        cdef int i
        if now_ns < began + SLICE_NS:
            return
        slices = (now_ns - began) // SLICE_NS
        if not swap(&self.q.slice_ns, &began, began + slices * SLICE_NS):
            return  # another reactor refills
        late_for_waiters = load(&self.q.waiting) > 0
        for i in range(QOS_LIMITS):
            per_slice = load(&self.q.limits[i].per_slice)
            if per_slice == 0:
                continue
            more = MOST if slices > <uint64_t>MOST // per_slice else <int64_t>(slices * per_slice)
            left = load_signed(&self.q.limits[i].remaining)
            while True:
                full = (left if left < 0 else 0) + more
                if not late_for_waiters and full > <int64_t>per_slice:
                    full = <int64_t>per_slice
                if swap_signed(&self.q.limits[i].remaining, &left, full):
                    break

    cdef uint64_t next_slice_ns(self) noexcept nogil:
        """Return when what waits shall be looked at again."""
        return load(&self.q.slice_ns) + SLICE_NS
