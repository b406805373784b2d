from vbdev.core.base.types cimport (
    FLAG_PRACT,
    HAS_BARE_DATA,
    HAS_DOMAIN,
    IN_BYTES,
    OP_READ,
    OP_WRITE,
    STAGE_MEMORY,
    bdev_io,
    channel_state,
    int32_t,
    int8_t,
    io_list,
    io_queue,
    locked_range,
    size_t,
    uint32_t,
    uint64_t,
    uint8_t,
)
from vbdev.core.counts.rates cimport RateLimits
from vbdev.core.engine.entered cimport Entered
from vbdev.core.memory.dif cimport dif_layout


cdef enum:
    MAX_DOMAIN_TYPES = 8
    # What makes an I/O one of those that `_admit` has to look at closely.
    NOT_PLAIN = FLAG_PRACT | IN_BYTES | HAS_DOMAIN | HAS_BARE_DATA


cdef class Admission(Entered):
    cdef object control
    cdef readonly bint closed
    cdef uint64_t supported_mask
    cdef dif_layout layout              # of its metadata; I/Os that are converted point here
    cdef uint32_t domain_types[MAX_DOMAIN_TYPES]
    cdef uint32_t num_domain_types
    cdef io_list for_control            # RESET, COMPARE_AND_WRITE of the batch at hand
    cdef locked_range *ranges
    cdef size_t num_ranges
    cdef bint refuses                   # with GATE_CLOSING: what comes ends, and does not wait
    cdef bdev_io *nomem_last            # the last one that `take_back` put in front
    cdef uint64_t nomem_in_queue        # I/Os that the module had no room for
    cdef uint64_t nomem_threshold       # go on when the module has no more than this many
    cdef uint64_t nomem_retry_ns        # or when this time has come
    cdef RateLimits qos                 # shared by all channels of the bdev, with GATE_QOS
    cdef uint8_t qos_blocked            # kinds of I/O of which some wait in s.qos
    cdef uint64_t qos_look_ns           # when they may go on

    cdef void _arm(self) noexcept nogil
    cdef uint64_t _plain_blocks(self) noexcept nogil
    cdef bint _leave_domain(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _add_metadata(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _admit(self, bdev_io *io, bint resumed) noexcept nogil
    cdef bint _admit_memory(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _admit_other(self, bdev_io *io) noexcept nogil
    cdef bint _admit_abort(self, bdev_io *io) noexcept nogil
    cdef bint _emulate(self, bdev_io *io) noexcept nogil
    cdef bint _adopt(self, bdev_io *io, int kind) noexcept nogil
    cdef bint _bounce(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _give_buffer(self, bdev_io *io, bint first) noexcept nogil
    cdef bint _no_memory(self, bdev_io *io, uint64_t length, bint held) noexcept nogil
    cdef bint _to_control(self, bdev_io *io) noexcept nogil
    cdef bint _end(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil
    cdef bint _park(self, io_queue *queue, bdev_io *io) noexcept nogil
    cdef bint _unpark(self, io_queue *queue, bdev_io *io) noexcept nogil
    cdef bint _abort_parked(self, bdev_io *io) noexcept nogil
    cdef int _end_queue(self, io_queue *queue, int8_t status) noexcept nogil
    cdef bint _admit_rate(self, bdev_io *io) noexcept nogil
    cdef bint _needs_split(self, bdev_io *io) noexcept nogil
    cdef bint _fits(self, const bdev_io *io) noexcept nogil
    cdef bint _belongs(self, const bdev_io *io) noexcept nogil
    cdef bint _is_child(self, const bdev_io *io) noexcept nogil
    cdef bint _is_locked(self, const bdev_io *io) noexcept nogil


cdef bint touches(uint8_t op, uint64_t offset, uint64_t src, uint64_t num, uint64_t start,
                  uint64_t length, bint quiesce) noexcept nogil


cdef inline bint passes_plainly(const channel_state *s, bdev_io *io) noexcept nogil:
    # Whether `_admit` would let the I/O pass as it is, seen at one look, as for most of them: a
    # READ or WRITE of one piece of memory, as long as its blocks, aligned, that nothing splits. One
    # without blocks is none: it would pass where nothing may (0 - 1 is more than any limit).
    if (io.num_blocks - 1 >= s.plain_blocks or io.iovcnt != 1 or io.flags & NOT_PLAIN
            or (io.op != OP_READ and io.op != OP_WRITE)
            or io.iovs[0].iov_len != io.num_blocks * s.block_size
            or (<size_t>io.iovs[0].iov_base | io.iovs[0].iov_len) & s.align_mask):
        return False
    io.stage = STAGE_MEMORY
    return True
