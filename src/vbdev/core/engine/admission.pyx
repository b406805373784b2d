"""Admission: what an I/O may have to wait for, or be changed by, before a module sees it.

One room: the stages that an I/O passes are one class, whose methods are taken in where they are
called; each of them may end where another begins.

`_admit` sees only I/Os of a type that some gate of the channel is closed for, so a channel without
limits, locks or queues pays nothing for it. An I/O that can not go on now is parked: in a queue of
the channel, with its children (children.pyx), or with the control path (vbdev.bdev.control). It
holds its frame meanwhile, and each way out is through `_admit` again, at the stage it had reached,
or through `_end`.
"""

from libc.errno cimport EINVAL, ENODEV, ENOENT, ENOMEM, EOPNOTSUPP as ENOTSUP
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport abort

from vbdev.core.base.types cimport (
    CHILDREN_ABORT,
    CHILDREN_COMPARE,
    CHILDREN_COPY,
    CHILDREN_SPLIT,
    CHILDREN_ZERO,
    FLAG_FAST_ZERO,
    FLAG_FUA,
    FLAG_ZCOPY_END,
    GATES_FOR_ALL,
    GATE_ALIGN,
    GATE_BUFFER,
    GATE_CLOSING,
    GATE_FROZEN,
    GATE_LENGTH,
    GATE_LOCKED,
    GATE_METADATA,
    GATE_NOMEM,
    GATE_QOS,
    GATE_SPLIT,
    HAS_POOL_BUFFER,
    IN_BYTES,
    IO_ABORTED,
    IO_CONTROL,
    IO_FAILED,
    IO_PARENT,
    IO_PENDING,
    IO_SUBMITTED,
    IO_SUCCESS,
    IO_WAITING,
    OP_ABORT,
    OP_COMPARE,
    OP_COMPARE_AND_WRITE,
    OP_COPY,
    OP_NVME_IO,
    OP_NVME_IO_MD,
    OP_READ,
    OP_RESET,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_UNCORRECTABLE,
    OP_WRITE_ZEROES,
    OP_ZCOPY,
    OP_ZONE_APPEND,
    SLOW_RESULT,
    STAGE_ENTER,
    STAGE_MEMORY,
    STAGE_NOMEM,
    STAGE_QOS,
    STAGE_SPLIT,
    bdev_io,
    channel_state,
    io_block_bytes,
    io_bounce,
    io_bounce_bytes,
    io_data_bytes,
    io_holds_memory,
    io_is_bare,
    io_limits,
    io_list_reserve,
    io_queue,
    io_queue_pop,
    io_queue_remove,
    io_restore,
    locked_range,
)
from vbdev.core.counts.rates cimport qos_bytes, qos_kind
from vbdev.core.engine.entered cimport Entered
from vbdev.core.engine.turn cimport BYTES_PER_NS, slice_over


cdef enum:
    NOMEM_THRESHOLD_COUNT = 8           # as SPDK's
    NOMEM_RETRY_NS = 10000000           # when nothing is outstanding whose end could be waited for

cdef uint64_t ALWAYS_SPECIAL = (
    (1 << OP_COPY) | (1 << OP_ABORT) | (1 << OP_RESET) | (1 << OP_SEEK_DATA) | (1 << OP_SEEK_HOLE)
    | (1 << OP_UNMAP) | (1 << OP_ZONE_APPEND) | (1 << OP_COMPARE_AND_WRITE))
cdef uint64_t BOTH_WAYS = (1 << OP_READ) | (1 << OP_WRITE)
cdef uint64_t COMPARING = (1 << OP_COMPARE) | (1 << OP_COMPARE_AND_WRITE)
cdef uint64_t WITH_DATA = (
    (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_COMPARE_AND_WRITE)
    | (1 << OP_ZONE_APPEND))
# What a locked range holds up (bdev_io_range_is_locked); reads too when it is quiesced.
cdef uint64_t LOCKED_OPS = (
    (1 << OP_WRITE) | (1 << OP_UNMAP) | (1 << OP_WRITE_ZEROES) | (1 << OP_ZCOPY) | (1 << OP_COPY)
    | (1 << OP_WRITE_UNCORRECTABLE) | (1 << OP_COMPARE_AND_WRITE) | (1 << OP_ZONE_APPEND)
    | (1 << OP_NVME_IO) | (1 << OP_NVME_IO_MD))
cdef uint64_t QUIESCED_OPS = LOCKED_OPS | (1 << OP_READ) | (1 << OP_COMPARE)
# Commands of which the layer does not know the blocks: they may be any.
cdef uint64_t OPAQUE_OPS = (1 << OP_NVME_IO) | (1 << OP_NVME_IO_MD)


cdef inline bint overlap(uint64_t a, uint64_t num_a, uint64_t b, uint64_t num_b) noexcept nogil:
    return a < b + num_b and b < a + num_a and num_a and num_b


cdef class Admission(Entered):
    """The part of a `Channel` that decides how far an I/O gets."""

    cdef void _arm(self) noexcept nogil:
        """Derive from the gates which types `_admit` has to see."""
        cdef uint32_t gates = self.s.gates
        cdef io_limits *limits = &self.s.limits
        cdef uint64_t mask = ALWAYS_SPECIAL | (self.supported_mask & ~self.s.native_mask)
        if gates & GATES_FOR_ALL:
            mask = <uint64_t>-1
        if gates & GATE_BUFFER:
            mask |= 1 << OP_READ
        if gates & (GATE_ALIGN | GATE_LENGTH | GATE_METADATA):
            mask |= WITH_DATA
        if gates & GATE_SPLIT:
            if limits.boundary or limits.max_rw or limits.max_segment_bytes or limits.max_segments:
                mask |= (1 << OP_READ) | (1 << OP_WRITE)
            if limits.write_unit:
                mask |= 1 << OP_WRITE
            if limits.max_write_zeroes:
                mask |= 1 << OP_WRITE_ZEROES
        self.s.special_mask = mask
        self.s.plain_blocks = self._plain_blocks()

    cdef uint64_t _plain_blocks(self) noexcept nogil:
        """For `passes_plainly`: 0 where a READ or WRITE may wait, be converted, or be split."""
        cdef io_limits *limits = &self.s.limits
        cdef uint64_t most = <uint64_t>-1
        if (self.s.gates & GATES_FOR_ALL or self.s.hides_metadata or limits.boundary
                or limits.write_unit or BOTH_WAYS & self.supported_mask & ~self.s.native_mask):
            return 0
        if limits.max_rw:
            most = limits.max_rw
        if limits.max_segment_bytes:
            most = min(most, <uint64_t>(limits.max_segment_bytes // self.s.block_size))
        return most

    cdef bint _admit(self, bdev_io *io, bint resumed) noexcept nogil:
        """Take an I/O, whose frame is pushed, as far as it goes now; True: the module's turn.

        False: it is parked, or it has ended. `resumed`: it comes from the front of `nomem`.
        """
        cdef uint32_t gates = self.s.gates
        cdef uint8_t stage = io.stage
        if stage == STAGE_ENTER:
            if gates & GATE_FROZEN and io.op != OP_RESET:
                return self._end(io, IO_ABORTED, 0)
            if gates & GATE_CLOSING and not self._belongs(io):
                if self.refuses:
                    return self._end(io, IO_FAILED, ENODEV)
                return self._park(&self.s.locked, io)
            if io.flags & IN_BYTES:
                return self._to_control(io)
            if gates & GATE_LENGTH and (WITH_DATA >> io.op) & 1 and not self._fits(io):
                return self._end(io, IO_FAILED, EINVAL)
            if (ALWAYS_SPECIAL >> io.op) & 1 and not self._admit_other(io):
                return False
            if gates & GATE_LOCKED and not self._is_child(io) and self._is_locked(io):
                return self._park(&self.s.locked, io)
            io.stage = stage = STAGE_SPLIT
        if stage == STAGE_SPLIT:
            if io.domain != NULL and not self._leave_domain(io, resumed):
                return False
            if not (self.s.native_mask >> io.op) & 1 or (
                    (COMPARING >> io.op) & 1 and io_is_bare(&self.s, io)):
                return self._emulate(io)
            if gates & GATE_SPLIT and self._needs_split(io):
                if io.op == OP_WRITE and self.s.limits.write_unit and (
                        io.offset_blocks % self.s.limits.write_unit
                        or io.num_blocks % self.s.limits.write_unit):
                    return self._end(io, IO_FAILED, EINVAL)
                if io.op == OP_READ and io.iovcnt == 0 and not self._give_buffer(io, resumed):
                    return False
                return self._adopt(io, CHILDREN_SPLIT)
            io.stage = stage = STAGE_QOS
        if stage == STAGE_QOS:
            if gates & GATE_QOS and not self._admit_rate(io):
                return False
            io.stage = stage = STAGE_MEMORY
        if gates & GATE_NOMEM and not resumed and io.op != OP_ABORT and io.op != OP_RESET:
            return self._park(&self.s.nomem, io)
        return self._admit_memory(io, resumed)

    cdef bint _emulate(self, bdev_io *io) noexcept nogil:
        if io.op == OP_COMPARE_AND_WRITE:
            return self._to_control(io)
        if io.op == OP_WRITE_ZEROES and not io.flags & FLAG_FAST_ZERO:
            return self._adopt(io, CHILDREN_ZERO)
        if io.op == OP_COMPARE:
            return self._adopt(io, CHILDREN_COMPARE)
        if io.op == OP_COPY:
            return self._adopt(io, CHILDREN_COPY)
        return self._end(io, IO_FAILED, ENOTSUP)

    cdef bint _adopt(self, bdev_io *io, int kind) noexcept nogil:
        if not self.engine.children.adopt(&self.s, io, kind):
            return self._end(io, IO_FAILED, ENOMEM)
        self.s.parked += 1
        return False

    cdef bint _admit_memory(self, bdev_io *io, bint first) noexcept nogil:
        """Get data where the module needs other data. `first`: nobody waits in front of it."""
        cdef uint32_t i
        if not (WITH_DATA >> io.op) & 1:
            return True
        if io_is_bare(&self.s, io) and not self._add_metadata(io, first):
            return False
        if io.op == OP_READ and io.iovcnt == 0:
            return not self.s.gates & GATE_BUFFER or self._give_buffer(io, first)
        if self.s.align_mask:
            if io.bounce != NULL and io.bounce.depth == io.depth and not io.bounce.stays:
                return True  # it got aligned memory before it waited
            for i in range(io.iovcnt):
                if (<size_t>io.iovs[i].iov_base | io.iovs[i].iov_len) & self.s.align_mask:
                    break
            else:
                return True
            return self._bounce(io, first)
        return True

    cdef bint _bounce(self, bdev_io *io, bint first) noexcept nogil:
        """Put a buffer of the pool in place of the data; False: it waits for it, or has ended."""
        cdef bint held = io_holds_memory(io)
        if not (held or first or self.s.nomem.head == NULL) or not self.engine.bounce(
                io, io.op != OP_READ, io.op == OP_READ, held):
            return self._no_memory(io, io_bounce_bytes(io), held)
        return True

    cdef bint _leave_domain(self, bdev_io *io, bint first) noexcept nogil:
        """Copy data out of a memory domain that cannot stay there (SPDK: pull and push)."""
        cdef uint32_t i
        if (self.s.native_mask >> io.op) & 1 and not io_is_bare(&self.s, io):
            for i in range(self.num_domain_types):
                if self.domain_types[i] == io.domain.type:
                    return True
        if not self._bounce(io, first):
            return False
        io.bounce.stays = True
        return True

    cdef bint _add_metadata(self, bdev_io *io, bint first) noexcept nogil:
        """Put blocks with metadata in place of bare data; False: it waits for memory, or failed."""
        cdef io_bounce *bounce = io.bounce
        cdef bint held
        cdef int failure
        if io.op != OP_READ and io.op != OP_WRITE:
            return self._end(io, IO_FAILED, ENOTSUP)  # ZONE_APPEND: nobody knows the tags yet
        while bounce != NULL and bounce.depth == io.depth:
            if bounce.layout != NULL:
                return True
            bounce = bounce.outer
        if io.op == OP_READ and io.iovcnt == 0 and not self._give_buffer(io, first):
            return False
        held = io_holds_memory(io)
        if not (held or first or self.s.nomem.head == NULL):
            return self._no_memory(io, io.num_blocks * self.s.block_size, held)
        failure = self.engine.add_metadata(io, &self.layout, held)
        slice_over(&self.engine.slice, io.num_blocks * self.s.block_size // BYTES_PER_NS)
        if failure == EINVAL:
            return self._end(io, IO_FAILED, EINVAL)
        if failure:
            return self._no_memory(io, io.num_blocks * self.s.block_size, held)
        return True

    cdef bint _give_buffer(self, bdev_io *io, bint first) noexcept nogil:
        """Give a READ that has no buffer one; False: it waits for it, or has ended."""
        cdef uint64_t length = io.num_blocks * io_block_bytes(&self.s, io)
        cdef bint held = io_holds_memory(io)
        if length == 0:
            return True
        if not (held or first or self.s.nomem.head == NULL) or not self.engine.buffers.get(
                length, held, &io.buf):
            return self._no_memory(io, length, held)
        io.flags |= HAS_POOL_BUFFER
        io.iovs = io.iov_inline
        io.iov_inline[0].iov_base = io.buf.base
        io.iov_inline[0].iov_len = length
        io.iovcnt = 1
        return True

    cdef bint _no_memory(self, bdev_io *io, uint64_t length, bint held) noexcept nogil:
        if self.engine.buffers.can_ever_get(length, held):
            return self._park(&self.s.nomem, io)
        return self._end(io, IO_FAILED, EINVAL)

    cdef bint _admit_other(self, bdev_io *io) noexcept nogil:
        """Look at what is particular to a type. True: it goes on."""
        cdef uint64_t num_blocks = self.s.num_blocks
        if io.op == OP_COPY:
            if io.src_offset_blocks > num_blocks - io.num_blocks:
                return self._end(io, IO_FAILED, EINVAL)
            # Onto itself there is nothing to do, unless the blocks have to be stable afterwards.
            if io.num_blocks == 0 or (
                    io.src_offset_blocks == io.offset_blocks and not io.flags & FLAG_FUA):
                return self._end(io, IO_SUCCESS, 0)
        elif io.op == OP_UNMAP:
            if io.num_blocks == 0:
                return self._end(io, IO_SUCCESS, 0)
        elif io.op == OP_COMPARE_AND_WRITE:
            if io.num_blocks > self.s.limits.acwu:
                return self._end(io, IO_FAILED, EINVAL)
        elif io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            if io.offset_blocks >= num_blocks:
                return self._end(io, IO_FAILED, EINVAL)
            io.slow |= SLOW_RESULT
            if not (self.s.native_mask >> io.op) & 1:
                io.result = io.offset_blocks if io.op == OP_SEEK_DATA else <uint64_t>-1
                return self._end(io, IO_SUCCESS, 0)
        elif io.op == OP_ZONE_APPEND:
            io.slow |= SLOW_RESULT
        elif io.op == OP_RESET:
            if self.control is not None and not self._is_child(io):
                return self._to_control(io)
        elif io.op == OP_ABORT:
            return self._admit_abort(io)
        return True

    cdef bint _admit_abort(self, bdev_io *io) noexcept nogil:
        """Find the victim, if it is parked; True: the module may have it, or a layer below.

        Only what came through this very channel is its to abort (SPDK: bdev_abort_io looks through
        the channel's own `io_submitted`).
        """
        cdef bdev_io *victim = io.victim
        cdef uint8_t d = 0
        # Once its victim has ended, the BdevIO may be somebody else's.
        if victim == NULL or victim.generation != <uint32_t>io.result:
            return self._end(io, IO_FAILED, ENOENT)
        while d < victim.depth and victim.frames[d].channel != &self.s:
            d += 1
        if d == victim.depth:
            return self._end(io, IO_FAILED, ENOENT)
        if victim.op == OP_RESET or victim.op == OP_ABORT:
            return self._end(io, IO_FAILED, ENOTSUP)
        if victim.state == IO_WAITING:
            if (<Admission>victim.frames[victim.depth - 1].channel.object)._abort_parked(victim):
                return self._end(io, IO_SUCCESS, 0)
            # Its queue is being gone through at this moment: nobody can say whether it waits.
            return self._end(io, IO_FAILED, ENOENT)
        if victim.state == IO_PARENT or victim.state == IO_CONTROL:
            if victim.frames[victim.depth - 1].channel != &self.s:
                return True
            if victim.state == IO_CONTROL:
                return self._to_control(io)
            return self._adopt(io, CHILDREN_ABORT)
        if victim.state != IO_SUBMITTED or victim.depth < io.depth:
            # Too late; or the layer above, which has it, does not let it go.
            return self._end(io, IO_FAILED, ENOENT)
        return True

    cdef bint _fits(self, const bdev_io *io) noexcept nogil:
        """Whether an I/O's data, or what it will get, is as long as its blocks.

        A READ without a buffer gets one of this channel's blocks, and the layer above, which has as
        many of its own, would take it for its own.
        """
        cdef uint32_t block_bytes = io_block_bytes(&self.s, io)
        if io.iovcnt:
            return io_data_bytes(io) == io.num_blocks * block_bytes
        return io.depth < 2 or io.num_blocks == 0 or block_bytes == io_block_bytes(
            io.frames[io.depth - 2].channel, io)

    cdef bint _belongs(self, const bdev_io *io) noexcept nogil:
        """Whether an I/O is part, or the end, of what a channel that is closed has to end first."""
        return (self._is_child(io) or io.op == OP_ABORT
                or (io.op == OP_ZCOPY and io.flags & FLAG_ZCOPY_END))

    cdef bint _is_child(self, const bdev_io *io) noexcept nogil:
        """Whether it was made at this very channel."""
        return io.depth == 1 and io.owner == &self.engine.children.o

    cdef bint _needs_split(self, bdev_io *io) noexcept nogil:
        cdef io_limits *limits = &self.s.limits
        cdef uint64_t boundary, most
        cdef uint32_t i
        if io.op == OP_READ or io.op == OP_WRITE:
            if io.op == OP_WRITE and limits.write_unit:
                boundary = limits.write_unit
                if io.num_blocks % boundary:
                    return True
            else:
                boundary = limits.boundary
            if boundary and io.offset_blocks % boundary + io.num_blocks > boundary:
                return True
            if limits.max_rw and io.num_blocks > limits.max_rw:
                return True
            if limits.max_segments and io.iovcnt > limits.max_segments:
                return True
            if limits.max_segment_bytes:
                if io.iovcnt == 0:
                    return (io.num_blocks * io_block_bytes(&self.s, io)
                            > limits.max_segment_bytes)
                for i in range(io.iovcnt):
                    if io.iovs[i].iov_len > limits.max_segment_bytes:
                        return True
            return False
        if io.op == OP_UNMAP:
            most = limits.max_unmap
        elif io.op == OP_WRITE_ZEROES:
            most = limits.max_write_zeroes
        elif io.op == OP_COPY:
            most = limits.max_copy
        else:
            return False
        return most and io.num_blocks > most

    cdef bint _end(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
        """Complete an I/O that the module does not see, or not again; return False."""
        if io.stage < STAGE_NOMEM:
            io.hooked_depth = io.depth
        io.state = IO_SUBMITTED
        self.engine.push_done(io, status, err)
        return False

    cdef bint _park(self, io_queue *queue, bdev_io *io) noexcept nogil:
        self.engine.wait_in(queue, io)
        return False

    cdef bint _unpark(self, io_queue *queue, bdev_io *io) noexcept nogil:
        """Account for an I/O that has left a queue."""
        self.s.parked -= 1
        self.engine.waiting -= 1
        io.state = IO_SUBMITTED
        if io == self.nomem_last:
            self.nomem_last = NULL
        if queue == &self.s.qos:
            self.qos.wait_less(1)
        if io.stage == STAGE_NOMEM:
            self.nomem_in_queue -= 1
            if self.nomem_in_queue == 0:
                self.s.gates &= ~GATE_NOMEM
                self._arm()
        return True

    cdef bint _abort_parked(self, bdev_io *io) noexcept nogil:
        """Complete an I/O that waits in a queue here as ABORTED."""
        if io_queue_remove(&self.s.nomem, io):
            self._unpark(&self.s.nomem, io)
        elif io_queue_remove(&self.s.qos, io):
            self._unpark(&self.s.qos, io)
        elif io_queue_remove(&self.s.locked, io):
            self._unpark(&self.s.locked, io)
        else:
            return False
        self._end(io, IO_ABORTED, 0)
        return True

    cdef int _end_queue(self, io_queue *queue, int8_t status) noexcept nogil:
        cdef bdev_io *io = io_queue_pop(queue)
        while io != NULL:
            self._unpark(queue, io)
            self._end(io, status, 0)
            io = io_queue_pop(queue)
        return 0

    cdef bint take_back(self, bdev_io *io) noexcept nogil:
        """Queue an I/O for which the module had no room, in front of those that wait already.

        It is tried again when the module has clearly less to do than now, or after a while when
        it has nothing to do (spdk_bdev_io_complete with SPDK_BDEV_IO_STATUS_NOMEM).
        """
        cdef channel_state *s = &self.s
        cdef uint64_t in_module
        if s.gates & GATE_FROZEN or self.closed:
            io.status = IO_ABORTED
            return False
        io_restore(io)
        while io.bounce != NULL and io.bounce.depth == io.depth and not io.bounce.stays:
            self.engine.unbounce(io)
        io.status = IO_PENDING
        io.err = 0
        io.stage = STAGE_NOMEM
        io.state = IO_WAITING
        if self.nomem_last == NULL:
            io.next = s.nomem.head
            s.nomem.head = io
        else:
            io.next = self.nomem_last.next
            self.nomem_last.next = io
        if io.next == NULL:
            s.nomem.tail = io
        s.nomem.n += 1
        s.nomem_mixed = s.nomem_mixed or io_holds_memory(io)
        self.nomem_last = io
        self.nomem_in_queue += 1
        self.engine.count_waiting(s)
        s.retries += 1
        if not s.gates & GATE_NOMEM:
            s.gates |= GATE_NOMEM
            self._arm()
        in_module = s.outstanding - s.parked
        self.nomem_threshold = in_module // 2
        if in_module > 2 * NOMEM_THRESHOLD_COUNT:
            self.nomem_threshold = in_module - NOMEM_THRESHOLD_COUNT
        self.nomem_retry_ns = 0
        if in_module == 0:
            self.nomem_retry_ns = self.engine.turn_ns + NOMEM_RETRY_NS
            self.engine.wake_at(self.nomem_retry_ns)
        return True

    cdef bint _admit_rate(self, bdev_io *io) noexcept nogil:
        """Start an I/O within the bdev's rate limits; False: it waits, behind those of its kind."""
        cdef uint8_t kind = qos_kind(io)
        if kind == 0:
            return True
        if self.s.qos.n == 0:
            self.qos_blocked = 0
        if not kind & self.qos_blocked and self.qos.start(
                kind, qos_bytes(io, self.s.block_size), self.engine.turn_ns):
            return True
        self.qos_blocked |= kind
        self.qos.wait_more(1)
        self.qos_look_ns = self.qos.next_slice_ns()
        self.engine.wake_at(self.qos_look_ns)
        return self._park(&self.s.qos, io)

    cdef bint _to_control(self, bdev_io *io) noexcept nogil:
        if self.control is None:
            return self._end(io, IO_FAILED, ENOTSUP)
        if not io_list_reserve(&self.for_control, 1):
            abort()  # no memory for 8 bytes: an I/O must never be lost silently
        self.for_control.v[self.for_control.n] = io
        self.for_control.n += 1
        self.s.parked += 1
        io.state = IO_CONTROL
        return False

    cdef bint _is_locked(self, const bdev_io *io) noexcept nogil:
        cdef size_t i
        cdef locked_range *at
        if io.op == OP_ZCOPY and io.flags & FLAG_ZCOPY_END:
            return False
        for i in range(self.num_ranges):
            at = &self.ranges[i]
            if touches(io.op, io.offset_blocks, io.src_offset_blocks, io.num_blocks,
                       at.offset_blocks, at.num_blocks, at.quiesce):
                return True
        return False


cdef bint touches(uint8_t op, uint64_t offset, uint64_t src, uint64_t num, uint64_t start,
                  uint64_t length, bint quiesce) noexcept nogil:
    """Whether a lock of `length` blocks from `start` holds up an I/O like this."""
    if not ((QUIESCED_OPS if quiesce else LOCKED_OPS) >> op) & 1:
        return False
    if (OPAQUE_OPS >> op) & 1:
        return length > 0
    return overlap(offset, num, start, length) or (
        quiesce and op == OP_COPY and overlap(src, num, start, length))
