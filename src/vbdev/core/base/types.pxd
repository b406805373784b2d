# The C structs that every compiled module shares. Numbers repeat vocab/io.py; a test compares them.
#
# One room: an I/O, its frames, its channel and its owner name each other, and what reads them
# inline needs all of them.

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove


cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from *:
    """
    #include <pthread.h>

    /* Which thread this is, without a call where the compiler knows how. It is compared with itself
       alone: pthread_self(), and so Python's identity of a thread, is another number on aarch64. */
    #if defined(__has_builtin) && (defined(__x86_64__) || defined(__aarch64__))
    #if __has_builtin(__builtin_thread_pointer)
    #define vbdev_this_thread() ((unsigned long)__builtin_thread_pointer())
    #endif
    #endif
    #ifndef vbdev_this_thread
    #define vbdev_this_thread() ((unsigned long)pthread_self())
    #endif
    """
    unsigned long this_thread "vbdev_this_thread"() noexcept nogil


cdef enum:
    OP_READ = 1
    OP_WRITE = 2
    OP_UNMAP = 3
    OP_FLUSH = 4
    OP_RESET = 5
    OP_NVME_ADMIN = 6
    OP_NVME_IO = 7
    OP_NVME_IO_MD = 8
    OP_WRITE_ZEROES = 9
    OP_ZCOPY = 10
    OP_GET_ZONE_INFO = 11
    OP_ZONE_MANAGEMENT = 12
    OP_ZONE_APPEND = 13
    OP_COMPARE = 14
    OP_COMPARE_AND_WRITE = 15
    OP_ABORT = 16
    OP_SEEK_HOLE = 17
    OP_SEEK_DATA = 18
    OP_COPY = 19
    OP_NVME_IOV_MD = 20
    OP_NVME_NSSR = 21
    OP_WRITE_UNCORRECTABLE = 22
    OP_LIMIT = 32

cdef enum:
    IO_AIO_ERROR = -8
    IO_ABORTED = -7
    IO_FIRST_FUSED_FAILED = -6
    IO_MISCOMPARE = -5
    IO_NOMEM = -4
    IO_SCSI_ERROR = -3
    IO_NVME_ERROR = -2
    IO_FAILED = -1
    IO_PENDING = 0
    IO_SUCCESS = 1

# Who has an I/O: its owner, a layer, the completion queue, a queue of a channel, the channel
# while its children are under way, or the control path (RESET, COMPARE_AND_WRITE, IN_BYTES).
cdef enum:
    IO_IDLE = 0
    IO_SUBMITTED = 1
    IO_DONE = 2
    IO_WAITING = 3
    IO_PARENT = 4
    IO_CONTROL = 5

cdef enum:
    FLAG_FUA = 1
    FLAG_NO_HOLE = 2
    FLAG_FAST_ZERO = 4
    FLAG_ZCOPY_POPULATE = 8
    FLAG_ZCOPY_END = 16
    FLAG_ZCOPY_COMMIT = 32
    FLAG_PRACT = 64

# What the core says of an I/O in `flags`, so that a channel that has nothing to do with it need
# not look: it is a write that begins or ends inside a block (see edges.pyx), where it enters its
# first channel and no further down; its data is in a memory domain; it has separate metadata; its
# data has no metadata in it, where the bdev's has. And, for who answers a READ without writing
# anything: its buffer is a pool's, with somebody else's data in it.
cdef enum:
    IN_BYTES = 1 << 11
    HAS_DOMAIN = 1 << 12
    HAS_METADATA = 1 << 13
    HAS_BARE_DATA = 1 << 14
    HAS_POOL_BUFFER = 1 << 15

# Why completion looks at an I/O alone, and not at a run of them.
cdef enum:
    SLOW_BOUNCE = 1         # data was put in place of the caller's
    SLOW_RESULT = 2         # its result moves with its offset
    SLOW_UNCOUNTED = 4      # no counter sees it at `uncounted_depth`: its children are counted
    SLOW_DOUBTED = 8        # a READ that somebody ended without data: whether that can be
    SLOW_AWAITED = 16       # somebody waits until it leaves a channel

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
cdef struct io_parent
cdef struct memory_domain
cdef struct channel_state
cdef struct owner_state
cdef struct io_bounce

# I/Os that a list holds in order.
cdef struct io_list:
    bdev_io **v
    size_t n
    size_t cap


# I/Os that wait in a channel, in order, through `bdev_io.next`.
cdef struct io_queue:
    bdev_io *head
    bdev_io *tail
    uint64_t n


# What one layer pushed on an I/O on its way down, and takes back on its way up.
cdef struct io_frame:
    channel_state *channel  # alive while it has I/O outstanding
    uint64_t offset_blocks  # as the layer received it
    uint64_t submit_ns

# Memory that is not the process's own heap, but mapped here: pieces of data in it are offsets.
cdef struct memory_domain:
    char *base
    uint64_t size           # bytes
    uint32_t type           # vocab.DmaDeviceType
    uint64_t in_flight      # I/Os that point here


# Data that a layer put in place of its caller's, until its frame is popped.
cdef struct io_bounce:
    io_bounce *outer
    iovec *iovs
    iovec *iovs2
    void *md
    memory_domain *domain   # where `iovs` are
    const void *layout      # dif_layout, when metadata is put in and taken out on the way
    uint16_t iovcnt
    uint16_t iovcnt2
    uint16_t flags
    uint8_t depth           # of the frame it belongs to
    uint8_t copy_back       # READ: to the caller's buffers when it succeeds
    uint8_t stays           # while the I/O waits to be given to the module again
    iovec iov
    iovec iov2
    buffer_ref buf

# The first bytes of a bdev_io, where a layer reads or writes all of them at once. The first half is
# what I/Os that travel together have in common.
cdef struct io_head:
    uint8_t op
    uint8_t depth
    uint16_t flags
    int8_t status
    uint8_t hooked_depth
    uint8_t state
    uint8_t stage

cdef struct bdev_io:
    # What every layer touches: one cache line, the frames next to it. It begins with an io_head.
    uint8_t op
    uint8_t depth           # frames in use
    uint16_t flags
    int8_t status
    uint8_t hooked_depth    # depth whose `completed` has run for this trip
    uint8_t state           # IO_IDLE, IO_SUBMITTED, IO_DONE, IO_WAITING...
    uint8_t stage           # how far its channel's admission has got; see Channel._admit
    uint8_t slow            # SLOW_*
    uint8_t uncounted_depth
    uint8_t privileged      # others wait for its end: it gets memory beyond the limit
    uint16_t iovcnt
    uint16_t iovcnt2
    uint64_t offset_blocks
    uint64_t num_blocks
    owner_state *owner      # who gets the completion
    io_bounce *bounce
    iovec *iovs
    uint32_t index          # in its pool
    uint32_t generation     # changes when it goes back to the pool
    io_frame frames[MAX_STACK_DEPTH]
    # What its type, its owner or its leaf looks at.
    uint16_t dif_exclude    # DIF checks that the submitter does without
    # Detail of the status: errno; NVME_ERROR: sct << 8 | sc; SCSI_ERROR: sc << 24 | sk << 16
    # | asc << 8 | ascq; 0 if none.
    int32_t err
    uint32_t cdw0           # NVMe completion dword 0
    uint32_t arg            # ZONE_MANAGEMENT: action; GET_ZONE_INFO: zones
    iovec iov_inline[INLINE_IOVS]
    uint64_t cookie         # the owner's
    uint64_t tag            # the owner's
    void *owner_data        # the owner's; it holds memory of the pool for the I/O if not NULL
    buffer_ref buf          # the owner's, or the layer's that allocated for a READ
    uint64_t src_offset_blocks  # COPY
    # SEEK_*: block offset, or UINT64_MAX; ZONE_APPEND: where it went; ABORT: its victim's
    # generation.
    uint64_t result
    void *leaf              # the leaf's, while it holds the I/O
    uint64_t leaf_value
    bdev_io *next           # a list of whoever holds the I/O
    iovec *iovs2            # COMPARE_AND_WRITE: what to write
    void *md                # separate metadata, or NULL
    void *cmd               # NVMe command, 64 bytes
    memory_domain *domain   # where the data lives; NULL: system memory
    bdev_io *victim         # ABORT
    io_parent *parent       # of a child
    io_parent *family       # of a parent, its own
    void *own               # of a child: iovs, when the inline ones are too few, or metadata
    # Whole cache lines, and an odd number of them, so that I/Os spread over the sets.
    uint64_t walk           # of the engine's, the last that has met it
    uint64_t _stride[7]

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

# What Channel._admit looks at besides range and type, and why.
cdef enum:
    GATE_BUFFER = 1         # a READ without a buffer gets one here
    GATE_ALIGN = 2          # data in memory is bounced to the module's alignment
    GATE_SPLIT = 4          # limits, by which an I/O may become several
    GATE_LENGTH = 8         # the layer above has blocks of another size
    GATE_FROZEN = 16        # a RESET is under way
    GATE_LOCKED = 32        # ranges of blocks are locked
    GATE_QOS = 64           # rates are limited
    GATE_NOMEM = 128        # the module had no room for those that wait in front
    GATE_METADATA = 256     # metadata is made and checked here
    GATE_DOMAIN = 512       # data outside of system memory is moved
    GATE_CLOSING = 1024     # its descriptor is about to be closed: nothing new goes on
    GATES_FOR_ALL = 16 | 32 | 64 | 128 | 1024

# Why popping a frame looks at its channel more closely.
cdef enum:
    WATCH_COMPLETED = 1     # the module has a `completed`
    WATCH_HISTOGRAM = 2
    WATCH_READS = 4         # the module may supply the buffers of READs

# How far Channel._admit got with an I/O: where it goes on when the I/O's wait is over.
cdef enum:
    STAGE_ENTER = 0
    STAGE_SPLIT = 1
    STAGE_QOS = 2
    STAGE_MEMORY = 3
    STAGE_NOMEM = 4         # the module answered NOMEM
    STAGE_HELD = 5          # the module's coroutine has it, and waits for memory

# What an I/O's children do for it: see children.pyx.
cdef enum:
    CHILDREN_SPLIT = 0      # the same, piece by piece
    CHILDREN_ZERO = 1       # WRITE_ZEROES by WRITEs
    CHILDREN_COMPARE = 2    # COMPARE by READs
    CHILDREN_COPY = 3       # COPY by READs and WRITEs
    CHILDREN_ABORT = 4      # ABORT of each child of its victim
    # RESET; COMPARE_AND_WRITE by a COMPARE and WRITEs; IN_BYTES by READs and WRITEs
    CHILDREN_CONTROL = 5

# By what an I/O of a channel is cut into several; in blocks, 0: no limit.
cdef struct io_limits:
    uint64_t boundary       # READ and WRITE do not cross its multiples
    uint64_t write_unit     # WRITE comes in whole units
    uint64_t max_rw
    uint64_t max_unmap
    uint64_t max_write_zeroes
    uint64_t max_copy
    uint64_t acwu           # longest COMPARE_AND_WRITE
    uint32_t max_segment_bytes
    uint32_t max_segments

# Blocks that are locked: see vbdev.bdev.control.
cdef struct locked_range:
    uint64_t offset_blocks
    uint64_t num_blocks
    uint64_t number         # of the lock
    bint quiesce            # reads wait too

# The part of a Channel that each I/O passes; the object embeds it.
cdef struct channel_state:
    uint64_t ops_mask       # bit per op that may pass here
    uint64_t special_mask   # bit per op that needs a look beyond range and op
    uint64_t num_blocks
    uint64_t outstanding
    uint32_t block_size
    uint32_t data_block_size  # of it, without interleaved metadata
    uint32_t align_mask     # required alignment of data, in bytes, minus 1
    uint16_t refused_flags
    uint16_t special_flags  # I/Os with these need a look beyond range and op
    bint hides_metadata     # the submitter's blocks are data only
    const void *layout      # dif_layout of the metadata, NULL without
    uint16_t gates          # GATE_*
    uint8_t watch           # WATCH_*
    bint ready_queued
    uint64_t native_mask    # bit per op that the module itself carries out
    uint64_t plain_blocks   # up to so many a READ or WRITE can pass its gates with one look
    uint64_t parked         # of those outstanding: in a queue here, or with children, or in control
    io_list ready           # completed below, waiting for `completed`
    io_queue nomem          # waiting for a buffer, or for the module to have room
    bint nomem_mixed        # some of those may hold memory that others wait for
    io_queue locked         # waiting for a range to be unlocked
    io_queue qos            # waiting for their rate
    bint waits              # it is among IoCore.waiters
    io_limits limits
    uint32_t md_len         # of separate metadata, in bytes a block
    void *object            # the Channel, borrowed
    op_stat stats[STAT_CLASSES]
    uint64_t errors[NUM_ERROR_STATUSES]
    uint64_t batches        # submits, for the mean batch size
    uint64_t batched_ios
    uint64_t retries        # I/Os that the module had no room for
    void *histogram         # histogram_data, with WATCH_HISTOGRAM; the Channel's object holds it
    void **in_hand          # by BdevIO number: the BdevIO object of one that a coroutine has
    uint32_t in_hand_size

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


cdef inline void io_list_drop_front(io_list *self, size_t n) noexcept nogil:
    self.n -= n
    if self.n:  # a list that never held anything has no memory to move
        memmove(<void *>self.v, <void *>(self.v + n), self.n * sizeof(void *))


cdef inline void io_list_free(io_list *self) noexcept nogil:
    free(<void *>self.v)
    self.v = NULL
    self.n = self.cap = 0


cdef inline void io_queue_push(io_queue *self, bdev_io *io) noexcept nogil:
    io.next = NULL
    if self.head == NULL:
        self.head = io
    else:
        self.tail.next = io
    self.tail = io
    self.n += 1


cdef inline bdev_io *io_queue_pop(io_queue *self) noexcept nogil:
    cdef bdev_io *io = self.head
    if io != NULL:
        self.head = io.next
        if self.head == NULL:
            self.tail = NULL
        self.n -= 1
    return io


cdef inline void io_queue_join_front(io_queue *self, io_queue *front) noexcept nogil:
    # Put all of `front` before what is here; `front` is empty afterwards.
    if front.head == NULL:
        return
    front.tail.next = self.head
    if self.head == NULL:
        self.tail = front.tail
    self.head = front.head
    self.n += front.n
    front.head = front.tail = NULL
    front.n = 0


cdef inline bint io_queue_remove(io_queue *self, bdev_io *io) noexcept nogil:
    # False: it is not in here.
    cdef bdev_io *before = NULL
    cdef bdev_io *at = self.head
    while at != NULL and at != io:
        before = at
        at = at.next
    if at == NULL:
        return False
    if before == NULL:
        self.head = io.next
    else:
        before.next = io.next
    if self.tail == io:
        self.tail = before
    self.n -= 1
    return True


cdef inline uint64_t io_data_bytes(const bdev_io *io) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(io.iovcnt):
        total += io.iovs[i].iov_len
    return total


cdef inline bint io_holds_memory(const bdev_io *io) noexcept nogil:
    # Whether its end gives memory back: such an I/O never waits for those that wait for memory.
    return (io.buf.size_class >= 0 or io.bounce != NULL or io.owner_data != NULL
            or io.privileged)


cdef inline void io_doubt(bdev_io *io) noexcept nogil:
    # For who says that an I/O has ended well: a READ has data then, its caller's or the module's.
    # How much is no question: what comes without a buffer gets one for its blocks, or has none.
    if io.op == OP_READ and io.iovcnt == 0:
        io.slow |= SLOW_DOUBTED


cdef inline uint32_t io_kind(const bdev_io *io) noexcept nogil:
    # Type, depth and flags, to be compared at once.
    cdef uint32_t kind
    memcpy(&kind, io, sizeof(kind))
    return kind


cdef inline uint64_t io_next_head(const bdev_io *io) noexcept nogil:
    # The io_head that the I/O, and any other of its kind, has one layer further down.
    cdef io_head head
    cdef uint64_t packed
    memcpy(&head, io, sizeof(head))
    head.depth += 1
    head.status = IO_PENDING
    head.hooked_depth = 0
    head.state = IO_SUBMITTED
    head.stage = STAGE_ENTER
    memcpy(&packed, &head, sizeof(packed))
    return packed


cdef inline void io_set_head(bdev_io *io, uint64_t packed) noexcept nogil:
    memcpy(<void *>io, &packed, sizeof(packed))


cdef inline void io_map_to(bdev_io *io, uint64_t offset_blocks) noexcept nogil:
    # Where a layer sends an I/O on its way down. The source of a COPY moves by as much.
    if io.op == OP_COPY:
        io.src_offset_blocks += offset_blocks - io.offset_blocks
    io.offset_blocks = offset_blocks


cdef inline void io_restore(bdev_io *io) noexcept nogil:
    # Put back the offset that the layer of the top frame received; what moved with it moves too.
    io_restore_to(io, io.frames[io.depth - 1].offset_blocks)


cdef inline void io_restore_to(bdev_io *io, uint64_t offset_blocks) noexcept nogil:
    cdef uint64_t moved = io.offset_blocks - offset_blocks
    if moved:
        io.offset_blocks -= moved
        if io.op == OP_COPY:
            io.src_offset_blocks -= moved
        elif io.slow & SLOW_RESULT and io.result != <uint64_t>-1:
            io.result -= moved


cdef inline bint io_is_bare(const channel_state *s, const bdev_io *io) noexcept nogil:
    # Whether the I/O's data comes without the metadata that is interleaved in the bdev's blocks.
    return s.hides_metadata or io.flags & (FLAG_PRACT | HAS_BARE_DATA) & s.special_flags


cdef inline uint32_t io_block_bytes(const channel_state *s, const bdev_io *io) noexcept nogil:
    # Bytes that a block takes in the I/O's data.
    return s.data_block_size if io_is_bare(s, io) else s.block_size


cdef inline uint64_t io_bounce_bytes(const bdev_io *io) noexcept nogil:
    # What `IoCore.bounce` asks the pool for.
    cdef uint64_t total = io_data_bytes(io)
    cdef uint32_t i
    if io.op == OP_COMPARE_AND_WRITE:
        for i in range(io.iovcnt2):
            total += io.iovs2[i].iov_len
    if io.md != NULL:
        total += io.num_blocks * io.frames[io.depth - 1].channel.md_len
    return total
