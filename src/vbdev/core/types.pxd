# The C structs that every compiled module shares. Numbers repeat vocab.py; a test compares them.

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc


cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    OP_READ = 1
    OP_WRITE = 2
    OP_UNMAP = 3
    OP_FLUSH = 4
    OP_RESET = 5
    OP_WRITE_ZEROES = 9
    OP_ZCOPY = 10
    OP_COMPARE = 14
    OP_ABORT = 16
    OP_SEEK_HOLE = 17
    OP_SEEK_DATA = 18
    OP_COPY = 19
    OP_LIMIT = 32

cdef enum:
    IO_AIO_ERROR = -8
    IO_ABORTED = -7
    IO_MISCOMPARE = -5
    IO_NOMEM = -4
    IO_FAILED = -1
    IO_PENDING = 0
    IO_SUCCESS = 1

# Who has an I/O: its owner, a layer, the completion queue, or a channel that has no buffer for it.
cdef enum:
    IO_IDLE = 0
    IO_SUBMITTED = 1
    IO_DONE = 2
    IO_WAITING = 3

cdef enum:
    FLAG_FUA = 1
    FLAG_NO_HOLE = 2
    FLAG_FAST_ZERO = 4
    FLAG_ZCOPY_POPULATE = 8
    FLAG_ZCOPY_END = 16
    FLAG_ZCOPY_COMMIT = 32

cdef enum:
    MAX_STACK_DEPTH = 80
    INLINE_IOVS = 2

# A data buffer of a pool. `slab` is the 2 MiB region it was cut from (-1: a mapping of its own),
# which is what a ring registers.
cdef struct buffer_ref:
    void *base
    int16_t size_class      # -1: no buffer
    int16_t slab

cdef struct bdev_io
cdef struct channel_state
cdef struct owner_state
cdef struct io_bounce

# I/Os that a list holds in order.
cdef struct io_list:
    bdev_io **v
    size_t n
    size_t cap


# What one layer pushed on an I/O on its way down, and takes back on its way up.
cdef struct io_frame:
    channel_state *channel  # alive while it has I/O outstanding
    uint64_t offset_blocks  # as the layer received it
    uint64_t submit_ns

# Data that a layer put in place of its caller's, until its frame is popped.
cdef struct io_bounce:
    io_bounce *outer
    iovec *iovs
    uint32_t iovcnt
    uint8_t depth           # of the frame it belongs to
    uint8_t copy_back       # READ: to the caller's buffers when it succeeds
    iovec iov
    buffer_ref buf

cdef struct bdev_io:
    uint8_t op
    int8_t status
    uint8_t depth           # frames in use
    uint8_t hooked_depth    # depth whose `completed` has run for this trip
    uint8_t state           # IO_IDLE, IO_SUBMITTED, IO_DONE, IO_WAITING
    uint16_t flags
    uint16_t iovcnt
    int32_t err             # errno that goes with a status, 0 if none
    uint32_t index          # in its pool
    uint32_t generation     # changes when it goes back to the pool
    uint64_t offset_blocks
    uint64_t num_blocks
    uint64_t src_offset_blocks  # COPY
    uint64_t result         # SEEK_*: block offset, or UINT64_MAX; ABORT: its victim's generation
    iovec *iovs
    iovec iov_inline[INLINE_IOVS]
    bdev_io *victim         # ABORT
    io_bounce *bounce
    owner_state *owner      # who gets the completion
    uint64_t cookie         # the owner's
    uint64_t tag            # the owner's
    void *owner_data        # the owner's; it holds memory of the pool for the I/O if not NULL
    buffer_ref buf          # the owner's, or the layer's that allocated for a READ
    void *leaf              # the leaf's, while it holds the I/O
    uint64_t leaf_value
    bdev_io *next           # a list of whoever holds the I/O
    io_frame frames[MAX_STACK_DEPTH]
    uint64_t _stride        # an odd number of cache lines, so that I/Os spread over the sets

# What a channel counts for one class of I/O (SPDK: struct spdk_bdev_io_stat).
cdef enum:
    STAT_READ = 0
    STAT_WRITE = 1
    STAT_UNMAP = 2
    STAT_COPY = 3
    STAT_NONE = 4           # types that iostat does not count
    STAT_CLASSES = 5
    NUM_ERROR_STATUSES = 9

cdef struct op_stat:
    uint64_t ops
    uint64_t blocks
    uint64_t latency_ns
    uint64_t max_latency_ns
    uint64_t min_latency_ns

# The part of a Channel that each I/O passes; the object embeds it.
cdef struct channel_state:
    uint64_t ops_mask       # bit per op that may pass here
    uint64_t special_mask   # bit per op that needs a look beyond range and op
    uint64_t num_blocks
    uint64_t outstanding
    uint32_t block_size
    uint32_t align_mask     # required alignment of data, in bytes, minus 1
    uint16_t refused_flags
    bint wants_completed    # the module has a `completed`
    bint gives_read_buffers  # a READ without a buffer gets one below
    bint ready_queued
    io_list ready           # completed below, waiting for `completed`
    bdev_io *nomem_head     # waiting for a buffer, in order
    bdev_io *nomem_tail
    void *object            # the Channel, borrowed
    op_stat stats[STAT_CLASSES]
    uint64_t errors[NUM_ERROR_STATUSES]
    uint64_t batches        # submits, for the mean batch size
    uint64_t batched_ios

# The part of an IoOwner that each completion touches.
cdef struct owner_state:
    io_list ready
    bint ready_queued
    uint64_t in_flight
    void *object            # the IoOwner, borrowed


cdef inline bint io_list_reserve(io_list *self, size_t more) noexcept nogil:
    cdef size_t cap
    cdef void *grown
    if self.n + more <= self.cap:
        return True
    cap = self.cap * 2 if self.cap else 64
    while cap < self.n + more:
        cap *= 2
    grown = realloc(<void *>self.v, cap * sizeof(void *))
    if grown == NULL:
        return False
    self.v = <bdev_io **>grown
    self.cap = cap
    return True


cdef inline void io_list_free(io_list *self) noexcept nogil:
    free(<void *>self.v)
    self.v = NULL
    self.n = self.cap = 0


cdef inline uint64_t io_data_bytes(const bdev_io *io) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(io.iovcnt):
        total += io.iovs[i].iov_len
    return total


cdef inline bint io_holds_memory(const bdev_io *io) noexcept nogil:
    # Whether its end gives memory back: such an I/O never waits for those that wait for memory.
    return io.buf.size_class >= 0 or io.bounce != NULL or io.owner_data != NULL


cdef inline void io_restore(bdev_io *io) noexcept nogil:
    # Put back the offset that the layer of the top frame received; what moved with it moves too.
    cdef uint64_t moved = io.offset_blocks - io.frames[io.depth - 1].offset_blocks
    if moved:
        io.offset_blocks -= moved
        if io.op == OP_COPY:
            io.src_offset_blocks -= moved
        elif io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            if io.result != <uint64_t>-1:
                io.result -= moved
