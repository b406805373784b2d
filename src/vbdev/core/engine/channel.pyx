"""Channels: one thread's path to one bdev.

One room: the part of a channel that Python sees is one class, and all that it does is to set and to
read the state that `admission` and `delivery` work with.

How I/Os get to the module is in delivery.pyx, what some of them wait for in admission.pyx; here is
what takes them out of its queues again, what locks and RESETs need, and the counters.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

from vbdev.core.base.clocks cimport since_ns
from vbdev.core.base.types cimport (
    FLAG_PRACT,
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
    HAS_BARE_DATA,
    HAS_DOMAIN,
    HAS_METADATA,
    IN_BYTES,
    IO_ABORTED,
    IO_CONTROL,
    IO_DONE,
    IO_FAILED,
    IO_PENDING,
    IO_SUCCESS,
    IO_WAITING,
    NUM_ERROR_STATUSES,
    OP_READ,
    OP_WRITE,
    SLOW_AWAITED,
    STAGE_ENTER,
    STAGE_MEMORY,
    STAGE_NOMEM,
    STAT_CLASSES,
    STAT_COPY,
    STAT_READ,
    STAT_UNMAP,
    STAT_WRITE,
    WATCH_COMPLETED,
    WATCH_HISTOGRAM,
    WATCH_READS,
    bdev_io,
    channel_state,
    io_frame,
    io_holds_memory,
    io_limits,
    io_list_free,
    io_queue,
    io_queue_join_front,
    io_queue_pop,
    io_queue_push,
    locked_range,
)
from vbdev.core.counts.histogram cimport Histogram
from vbdev.core.counts.rates cimport QOS_READS, QOS_WRITES, RateLimits, qos_bytes, qos_kind
from vbdev.core.engine.admission cimport MAX_DOMAIN_TYPES, touches
from vbdev.core.engine.batch cimport IOBatch, new_batch
from vbdev.core.engine.delivery cimport Delivery
from vbdev.core.engine.engine cimport Engine
from vbdev.core.engine.turn cimport BYTES_PER_NS, IO_NS, SLICE_NS, slice_over
from vbdev.core.memory.dif cimport Dif


cdef extern from *:
    """
    #include <stddef.h>
    #include <structmember.h>

    /* A property of a cdef class is a call; an attribute at a fixed offset is what the
       interpreter's LOAD_ATTR specializes for, and `channel.base` is in every vbdev's submit. */
    static PyMemberDef vbdev_base_member = {"base", T_OBJECT_EX, 0, 0, "Channel to the base bdev."};

    static int vbdev_add_base_member(PyTypeObject *type, Py_ssize_t offset) {
        PyObject *descriptor;
        int failed;
        vbdev_base_member.offset = offset;
        descriptor = PyDescr_NewMember(type, &vbdev_base_member);
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItemString(type->tp_dict, "base", descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(type);
        return failed;
    }
    #define VBDEV_BASE_OFFSET \\
        ((Py_ssize_t)offsetof(struct __pyx_obj_5vbdev_4core_6engine_7channel_Channel, base))
    """
    int vbdev_add_base_member(type cls, Py_ssize_t offset) except -1
    Py_ssize_t VBDEV_BASE_OFFSET


cdef enum:
    LOWEST_STATUS = -8
    AT_ONCE = 32                # I/Os that leave a queue in one batch, if there is time


def age_of(overdue):
    return overdue[3]


cdef class Channel(Delivery):
    """One thread's path to one bdev, through one descriptor: `submit`, counters, context.

    `base` is the channel to the base bdev (of a vbdev), `context` what the module's
    `create_channel` returned, `coroutines` what runs the module's `handle`, if it has one.
    Belongs to its engine's thread.
    """

    def __cinit__(self, Engine engine not None, bdev, descriptor=None):
        cdef int i
        self.engine = engine
        self.bdev = bdev
        self.descriptor = descriptor
        self.s.object = <void *>self
        for i in range(STAT_CLASSES):
            self.s.stats[i].min_latency_ns = <uint64_t>-1
        engine.channels.add(self)

    def __dealloc__(self):
        io_list_free(&self.s.ready)
        io_list_free(&self.for_control)
        free(self.ranges)
        free(<void *>self.s.in_hand)

    @property
    def block_size(self):
        return self.s.block_size

    @property
    def reactor(self):
        """Whose thread it belongs to."""
        return self.engine.reactor

    def configure(self, *, submit, completed, uint64_t supported_mask, uint64_t ops_mask,
                  uint64_t num_blocks, uint32_t block_size, uint32_t required_alignment,
                  unsigned int refused_flags, bint gives_read_buffers, native_mask=None,
                  limits=None, uint32_t md_len=0, control=None, Dif dif=None,
                  bint hide_metadata=False, memory_domains=()):
        """Set what the checks compare with; again after a resize.

        supported_mask: a bit for each op that the bdev carries out, native_mask: for those of
        them that its module does, where others are emulated here (all when absent); ops_mask: of
        the supported ones, what the descriptor may submit. required_alignment: of data in memory,
        in bytes, a power of two. gives_read_buffers: a READ may arrive at the module without a
        buffer, and the module supplies one. limits: {name of io_limits' field: value}. md_len:
        bytes of separate metadata of a block. dif: the layout of the metadata, where there is any;
        hide_metadata: the submitter's blocks have no interleaved metadata. memory_domains: types
        of those that the module uses itself. control: called as (channel, ios) with RESETs, with
        COMPARE_AND_WRITEs that have to be emulated and with ABORTs of those; without, RESETs go
        to the module.
        """
        self._set_module(submit, completed)
        self.control = control
        self.supported_mask = supported_mask
        self.s.watch &= ~WATCH_COMPLETED
        self.s.watch &= ~WATCH_READS
        if completed is not None:
            self.s.watch |= WATCH_COMPLETED
        if gives_read_buffers:
            self.s.watch |= WATCH_READS
        self.s.native_mask = supported_mask if native_mask is None else <uint64_t>native_mask
        self.s.ops_mask = ops_mask
        self.s.num_blocks = num_blocks
        self.s.block_size = block_size
        self.s.md_len = md_len
        self._configure_metadata(dif, hide_metadata)
        memory_domains = tuple(memory_domains)  # whose length stays what it is
        if len(memory_domains) > MAX_DOMAIN_TYPES:
            raise ValueError(f"{len(memory_domains)} memory domains; {MAX_DOMAIN_TYPES} at most")
        self.num_domain_types = 0
        for domain_type in memory_domains:
            self.domain_types[self.num_domain_types] = domain_type
            self.num_domain_types += 1
        self.s.align_mask = required_alignment - 1
        self.s.refused_flags |= refused_flags
        memset(&self.s.limits, 0, sizeof(io_limits))
        if limits:
            self.s.limits = limits
        self.s.gates &= ~(GATE_BUFFER | GATE_ALIGN | GATE_SPLIT)
        if not gives_read_buffers:
            self.s.gates |= GATE_BUFFER
        if required_alignment > 1:
            self.s.gates |= GATE_ALIGN
        if limits and any(value for name, value in limits.items() if name != "acwu"):
            self.s.gates |= GATE_SPLIT
        self._arm()

    def check_lengths(self):
        """Refuse I/O whose data is not as long as its blocks: the layer above has others."""
        self.s.gates |= GATE_LENGTH
        self._arm()

    cdef int _configure_metadata(self, Dif dif, bint hide) except -1:
        self.s.refused_flags = 0
        self.s.special_flags = HAS_DOMAIN | IN_BYTES
        self.s.data_block_size = self.s.block_size
        self.s.hides_metadata = False
        self.s.gates &= ~GATE_METADATA
        self.s.layout = NULL
        if dif is None:
            self.s.refused_flags = HAS_METADATA
            return 0
        self.layout = dif.layout
        self.s.layout = &self.layout
        if not self.layout.interleaved:
            if hide:
                raise ValueError("separate metadata can not be hidden")
            self.s.refused_flags = FLAG_PRACT
            return 0
        self.s.refused_flags = HAS_METADATA
        self.s.data_block_size = self.layout.data_size
        self.s.hides_metadata = hide
        self.s.special_flags |= HAS_BARE_DATA
        if self.layout.type and self.layout.pi_size == self.layout.md_size:
            self.s.special_flags |= FLAG_PRACT
        elif self.layout.type and not hide:
            self.s.refused_flags |= FLAG_PRACT  # other metadata would have to come from somewhere
        if hide:
            self.s.gates |= GATE_METADATA
        return 0

    # The way down

    @cython.binding(False)  # so that the interpreter calls it without a detour
    def submit(self, IOBatch ios not None, /):
        """Hand a batch to the bdev. It belongs to the callee then. Never blocks.

        Raises RuntimeError, and takes nothing, where the caller is not on the channel's thread
        or the I/Os are another reactor's: a mistake of the module that calls.
        """
        self.submit_batch(ios)

    # Out of the queues

    cdef int resume(self) except -1:
        """Let I/Os go on whose wait is over: for memory, for the module, for their rate."""
        cdef channel_state *s = &self.s
        cdef uint64_t in_module = s.outstanding - s.parked
        cdef bdev_io *io
        while s.qos.n and self._resume_qos():
            pass
        io = s.nomem.head
        if io == NULL:
            return 0
        if io.stage == STAGE_NOMEM:
            if in_module > self.nomem_threshold:
                return 0
            if in_module == 0 and self.engine.turn_ns < self.nomem_retry_ns:
                self.engine.wake_at(self.nomem_retry_ns)
                return 0
        while self._resume_nomem():
            pass
        return 0

    cdef uint64_t _guess(self, const bdev_io *io) noexcept nogil:
        """Guess what an I/O costs that goes on: its way, and its data's."""
        if io.op == OP_READ or io.op == OP_WRITE:
            return IO_NS + io.num_blocks * self.s.block_size // BYTES_PER_NS
        return IO_NS

    cdef bint _goes_on(self, bint more, uint64_t took_ns) noexcept nogil:
        """Whether more is to leave a queue now; without time for it, it does in the next turn."""
        if slice_over(&self.engine.slice, took_ns) and more:
            self.engine.wake_at(self.engine.turn_ns)
            return False
        return more

    cdef int _resume_qos(self) except -1:
        """Let I/Os go on that the rate limits allow now, or all, when there are none any more.

        AT_ONCE at most; returns whether to call again.
        """
        cdef channel_state *s = &self.s
        cdef Engine engine = self.engine
        cdef bint limited = s.gates & GATE_QOS
        cdef io_queue rest = s.qos
        cdef IOBatch ios
        cdef bdev_io *io
        cdef uint8_t kind
        cdef uint64_t started = 0, took_ns = 0
        cdef bint more
        if limited and engine.turn_ns < self.qos_look_ns:
            engine.wake_at(self.qos_look_ns)
            return 0
        ios = new_batch(engine)
        ios.reserve(min(rest.n, <uint64_t>AT_ONCE))
        s.qos.head = s.qos.tail = NULL
        s.qos.n = 0
        self.qos_blocked = 0
        while (rest.head != NULL and self.qos_blocked != QOS_READS | QOS_WRITES
                and started < AT_ONCE and took_ns < SLICE_NS):
            io = io_queue_pop(&rest)
            kind = qos_kind(io)
            if limited and (kind & self.qos_blocked or not self.qos.start(
                    kind, qos_bytes(io, s.block_size), engine.turn_ns)):
                self.qos_blocked |= kind
                io_queue_push(&s.qos, io)
                continue
            started += 1
            self._unpark(&s.qos, io)
            io.stage = STAGE_MEMORY
            took_ns += self._guess(io)
            if self._admit(io, False):
                ios.append(io)
        more = rest.head != NULL and self.qos_blocked != QOS_READS | QOS_WRITES
        io_queue_join_front(&rest, &s.qos)
        s.qos = rest
        if more:
            self.qos_look_ns = 0
        elif s.qos.n:
            self.qos_look_ns = self.qos.next_slice_ns()
            engine.wake_at(self.qos_look_ns)
        if started:
            engine.turns += 1  # another channel is the first to draw from the next timeslice
        if not limited and not more:
            self.qos = None
        if ios.n:
            self._deliver(ios)
        return self._goes_on(more, took_ns)

    def set_qos(self, RateLimits limits=None):
        """Let I/O in within these limits from now on, or without any.

        What waits goes on, from the loop, as the new limits allow. (SPDK: bdev_enable_qos_msg.)
        """
        cdef uint64_t waiting = self.s.qos.n
        if limits is self.qos and limits is not None:
            pass
        elif limits is None:
            self.s.gates &= ~GATE_QOS
            if not waiting:  # who waits is still counted with the limits it waits for
                self.qos = None
        else:
            if waiting:
                self.qos.wait_less(waiting)
                limits.wait_more(waiting)
            self.qos = limits
        if limits is not None:
            self.s.gates |= GATE_QOS
        self._arm()
        if waiting:
            self.qos_look_ns = 0
            self.engine.wake_at(self.engine.now_ns())

    def set_histogram(self, Histogram histogram=None):
        """Count latencies in `histogram`, which is the channel's from now on; or no more."""
        self.histogram = histogram
        self.s.histogram = NULL
        self.s.watch &= ~WATCH_HISTOGRAM
        if histogram is not None:
            self.s.histogram = &histogram.h
            self.s.watch |= WATCH_HISTOGRAM

    def histogram_copy(self):
        """Return what has been counted so far, as an object of the caller's; None where nothing is.

        On the channel's thread, as everything here.
        """
        if self.histogram is None:
            return None
        counted = self.histogram.like()
        counted.add(self.histogram)
        return counted

    def overdue(self, uint64_t age_ns):
        """Return [(op, offset, blocks, age_ns, number)] of I/Os under way that long, oldest first.

        As they were submitted here; `number` is the BdevIO's in its pool. Not the pieces of one
        that was split here. (SPDK: bdev_channel_poll_timeout_io.)
        """
        cdef Engine engine = self.engine
        cdef uint64_t now = engine.now_ns(), age
        cdef size_t i = 0
        cdef io_frame *frame
        cdef bdev_io *io
        found = []
        if self.s.outstanding == 0:
            return found
        if not self._gather():
            raise MemoryError
        while i < self.num_entered:
            io = self.entered[i].io
            frame = &io.frames[self.entered[i].depth]
            age = since_ns(frame.submit_ns, now)
            if io.state != IO_DONE and age >= age_ns and not (
                    self.entered[i].depth == 0 and io.owner == &engine.children.o):
                found.append((io.op, frame.offset_blocks, io.num_blocks, age, io.index))
            i += 1
        found.sort(key=age_of, reverse=True)
        return found

    cdef int _resume_nomem(self) except -1:
        """Admit the I/Os of `nomem` again, in order, until one has to wait again.

        Those behind it go on all the same if they hold memory: it may be theirs it waits for.
        AT_ONCE at most; returns whether to call again.
        """
        cdef IOBatch ios = new_batch(self.engine)
        cdef io_queue *queue = &self.s.nomem
        cdef io_queue rest = queue[0]
        cdef io_queue behind, blocked
        cdef bdev_io *io
        cdef bint mixed = self.s.nomem_mixed, more
        cdef uint64_t took_ns = 0
        memset(&behind, 0, sizeof(io_queue))
        ios.reserve(min(rest.n, <uint64_t>AT_ONCE))  # before the queue is taken apart: it may raise
        queue.head = queue.tail = NULL
        queue.n = 0
        self.s.nomem_mixed = False
        self.nomem_last = NULL
        while (rest.head != NULL and (queue.head == NULL or mixed)
                and ios.n < AT_ONCE and took_ns < SLICE_NS):
            io = io_queue_pop(&rest)
            if queue.head != NULL and not io_holds_memory(io):
                io_queue_push(&behind, io)
                continue
            self._unpark(queue, io)
            if io.stage == STAGE_NOMEM:
                io.stage = STAGE_MEMORY
            io.status = IO_PENDING
            if self._admit(io, True):
                io.hooked_depth = 0
                took_ns += self._guess(io)
                ios.append(io)
        more = rest.head != NULL and (queue.head == NULL or mixed)  # so some went
        self.s.nomem_mixed = self.s.nomem_mixed or (mixed and rest.head != NULL)
        io_queue_join_front(&rest, &behind)
        # Those for which the module's `copy_data` finds no memory stay in front.
        blocked = queue[0]
        queue.head = queue.tail = NULL
        queue.n = 0
        try:
            if ios.n:
                self._deliver(ios)
        finally:
            io_queue_join_front(&rest, &blocked)
            io_queue_join_front(&rest, queue)
            queue[0] = rest
        if self.for_control.n:
            self._hand_to_control()
        return self._goes_on(more, took_ns)

    def abort_waiting(self):
        """End the I/Os that wait for memory or for the module as ABORTED."""
        self._end_queue(&self.s.nomem, IO_ABORTED)

    # The control path

    cdef int _hand_to_control(self) except -1:
        cdef IOBatch ios = new_batch(self.engine)
        cdef Py_ssize_t n = self.for_control.n
        ios.reserve(n)
        memcpy(<void *>ios.v, <void *>self.for_control.v, n * sizeof(void *))
        ios.n = n
        self.for_control.n = 0
        try:
            self.control(self, ios)
        except BaseException as error:
            self.engine.report(self, error, ios.n)
            self.finish(ios, IO_FAILED)
        return 0

    def finish(self, IOBatch ios not None, int status, int detail=0, uint32_t cdw0=0):
        """Complete I/Os that `control` was given."""
        cdef Py_ssize_t i
        if not LOWEST_STATUS <= status <= IO_SUCCESS or status == IO_PENDING:
            raise ValueError(f"{self.bdev!r}: {status} is no final status")
        for i in range(ios.n):
            if ios.v[i].state != IO_CONTROL:
                raise RuntimeError(f"{self.bdev!r}: an I/O that is not with its control path ends")
        for i in range(ios.n):
            self.s.parked -= 1
            ios.v[i].cdw0 = cdw0
            self._end(ios.v[i], <int8_t>status, detail)
        ios.n = 0

    def run_children(self, IOBatch ios not None, callback):
        """Carry out one I/O that `control` was given: RESET by the module, COMPARE_AND_WRITE by a
        COMPARE and a WRITE, a write in bytes by READs and WRITEs. callback(ios, status, detail,
        cdw0) when it has; `finish` is the caller's.
        """
        if ios.n != 1 or ios.v[0].state != IO_CONTROL:
            raise RuntimeError(f"{self.bdev!r}: run_children takes one I/O of the control path")
        self.engine.children.run(&self.s, ios, callback)

    def freeze(self):
        """Let nothing in but RESET, and end what waits (SPDK: BDEV_CH_RESET_IN_PROGRESS)."""
        self.s.gates |= GATE_FROZEN
        self._arm()
        self._end_queue(&self.s.nomem, IO_ABORTED)
        self._end_queue(&self.s.qos, IO_ABORTED)

    def unfreeze(self):
        """Let I/O in again."""
        self.s.gates &= ~GATE_FROZEN
        self._arm()

    def hold(self):
        """Let what comes from now on wait, until `release` or `refuse`: whether this is closed is
        about to be decided. Parts and ends of what is under way go on. Returns what is under way.
        """
        self.refuses = False
        self.s.gates |= GATE_CLOSING
        self._arm()
        return self.s.outstanding

    def release(self):
        """Undo `hold`; what waited goes on, in order."""
        self.s.gates &= ~GATE_CLOSING
        self._arm()
        if self.s.locked.head != NULL:
            self._resume_locked()

    def refuse(self):
        """End what waits since `hold`, and what comes from now on, as FAILED with ENODEV."""
        cdef io_queue held = self.s.locked
        cdef bdev_io *io
        self.refuses = True
        self.s.gates |= GATE_CLOSING
        self._arm()
        self.s.locked.head = self.s.locked.tail = NULL
        self.s.locked.n = 0
        io = io_queue_pop(&held)
        while io != NULL:
            self._unpark(&self.s.locked, io)
            self._admit(io, False)  # which ends it
            io = io_queue_pop(&held)

    def lock_range(self, uint64_t number, uint64_t offset_blocks, uint64_t num_blocks,
                   bint quiesce):
        """Hold up I/O that changes these blocks; with `quiesce` what reads them too.

        A lock that is here already changes nothing: a channel that is made while it is taken is
        told twice.
        """
        cdef void *grown
        cdef size_t i
        for i in range(self.num_ranges):
            if self.ranges[i].number == number:
                return
        grown = realloc(self.ranges, (self.num_ranges + 1) * sizeof(locked_range))
        if grown == NULL:
            raise MemoryError
        self.ranges = <locked_range *>grown
        self.ranges[self.num_ranges].number = number
        self.ranges[self.num_ranges].offset_blocks = offset_blocks
        self.ranges[self.num_ranges].num_blocks = num_blocks
        self.ranges[self.num_ranges].quiesce = quiesce
        self.num_ranges += 1
        self.s.gates |= GATE_LOCKED
        self._arm()

    def unlock_range(self, uint64_t number):
        """Undo `lock_range`; what it held up goes on, in order."""
        cdef size_t i
        for i in range(self.num_ranges):
            if self.ranges[i].number == number:
                self.num_ranges -= 1
                memmove(&self.ranges[i], &self.ranges[i + 1],
                        (self.num_ranges - i) * sizeof(locked_range))
                break
        if self.num_ranges == 0:
            self.s.gates &= ~GATE_LOCKED
            self._arm()
        if self.s.locked.head != NULL:
            self._resume_locked()

    cdef int _resume_locked(self) except -1:
        """Admit all that no lock holds any more; those that one does stay, in order.

        AT_ONCE at most. For the others there is time when there is some for those that wait for
        memory: in front of these, and behind those for which the module had no room.
        """
        cdef IOBatch ios = new_batch(self.engine)
        cdef io_queue rest = self.s.locked
        cdef bdev_io *io
        cdef uint64_t took_ns = 0
        ios.reserve(min(rest.n, <uint64_t>AT_ONCE))  # before the queue is taken apart: it may raise
        self.s.locked.head = self.s.locked.tail = NULL
        self.s.locked.n = 0
        while rest.head != NULL and ios.n < AT_ONCE and took_ns < SLICE_NS:
            io = io_queue_pop(&rest)
            self._unpark(&self.s.locked, io)
            if self._admit(io, False):
                took_ns += self._guess(io)
                ios.append(io)
        slice_over(&self.engine.slice, took_ns)
        if rest.head != NULL:
            if self.s.gates & GATE_NOMEM:
                io_queue_join_front(&rest, &self.s.nomem)
                self.s.nomem = rest
            else:
                io_queue_join_front(&self.s.nomem, &rest)
            self.s.nomem_mixed = True  # as far as is known
            self.engine.wake_at(self.engine.now_ns())
        if ios.n:
            self._deliver(ios)
        if self.for_control.n:
            self._hand_to_control()
        return 0

    def call_when_left(self, callback):
        """Call `callback()` once, from `drain`, when one of the I/Os under way here has left.

        It may come for those of another channel of the engine too. Nothing under way: nobody calls.
        The same callback is kept once. Costs what this channel has under way; those I/Os end one by
        one, and others cost nothing.
        """
        cdef size_t i
        if not self._gather():
            raise MemoryError
        for i in range(self.num_entered):
            self.entered[i].io.slow |= SLOW_AWAITED
        self.engine.when_left.add(callback)

    def outstanding_in(self, uint64_t offset_blocks, uint64_t num_blocks, bint quiesce, callback):
        """Return how many I/Os are under way here that a lock of this range would hold up.

        The lock waits for them, so they wait for no memory any more: what holds it may wait for
        the lock. callback: called as by `call_when_left` for these I/Os, where there are any.
        Costs what this channel has under way: see entered.pyx.
        """
        cdef uint32_t d
        cdef bdev_io *io
        cdef io_frame *frame
        cdef uint64_t src
        cdef size_t i = 0
        cdef int count = 0
        if self.s.outstanding == self.s.locked.n:
            return 0
        if not self._gather():
            raise MemoryError
        while i < self.num_entered:
            io = self.entered[i].io
            d = self.entered[i].depth
            i += 1
            frame = &io.frames[d]
            if d + 1 == io.depth and (
                    io.state == IO_CONTROL
                    or io.state == IO_WAITING and io.stage == STAGE_ENTER):
                continue
            if (io.index < self.s.in_hand_size and self.s.in_hand[io.index] != NULL
                    and self.coroutines.rests(io.index)):
                continue  # it waits for a lock itself, and changes nothing meanwhile
            src = io.src_offset_blocks + frame.offset_blocks - io.offset_blocks
            if touches(io.op, frame.offset_blocks, src, io.num_blocks,
                       offset_blocks, num_blocks, quiesce):
                count += 1
                io.slow |= SLOW_AWAITED
                self.engine.children.hurry(io)
        if count:
            self.engine.when_left.add(callback)
        return count

    cdef int hurry_children(self, const bdev_io *io) except -1:
        self.coroutines.hurry(io.index)
        return 0

    # Counters

    @property
    def outstanding(self):
        """I/Os that have entered and not left."""
        return self.s.outstanding

    @property
    def waiting(self):
        """I/Os in its queues: for memory or room in the module, for a range, for their rate."""
        return self.s.nomem.n + self.s.locked.n + self.s.qos.n

    @property
    def in_module(self):
        """I/Os that its module has, or a layer below."""
        return self.s.outstanding - self.s.parked

    @property
    def retries(self):
        """I/Os that the module had no room for (SPDK: num_retries)."""
        return self.s.retries

    @property
    def mean_batch(self):
        """I/Os a module's `submit` received at once, on average."""
        return self.s.batched_ios / self.s.batches if self.s.batches else 0.0

    def stats(self):
        """Return {"read"|"write"|"unmap"|"copy": (ops, blocks, latency_ns, longest, shortest)}.

        Times are ns; min is 0 without a sample. Only I/Os that succeeded count, as in SPDK.
        """
        out = {}
        for name, index in (("read", STAT_READ), ("write", STAT_WRITE),
                            ("unmap", STAT_UNMAP), ("copy", STAT_COPY)):
            stat = self.s.stats[<int>index]
            out[name] = (stat.ops, stat.blocks, stat.latency_ns, stat.max_latency_ns,
                         stat.min_latency_ns if stat.min_latency_ns != <uint64_t>-1 else 0)
        return out

    def errors(self):
        """Return {status: count} of I/Os that failed."""
        cdef int i
        return {-i: self.s.errors[i] for i in range(1, NUM_ERROR_STATUSES) if self.s.errors[i]}

    def reset_stats(self, bint counts, bint extremes, bint errors):
        """Set counters back to nothing: sums, longest and shortest, errors."""
        cdef int i
        for i in range(STAT_CLASSES):
            if counts:
                self.s.stats[i].ops = self.s.stats[i].blocks = self.s.stats[i].latency_ns = 0
            if extremes:
                self.s.stats[i].max_latency_ns = 0
                self.s.stats[i].min_latency_ns = <uint64_t>-1
        if errors:
            memset(self.s.errors, 0, sizeof(self.s.errors))

    def close(self):
        """Leave the engine. Only without outstanding I/O."""
        if self.s.outstanding:
            raise RuntimeError(
                f"channel of {self.bdev!r} has {self.s.outstanding} I/Os outstanding")
        if self.coroutines is not None:
            self.coroutines.close()
            self.coroutines = None
        self.engine.channels.discard(self)
        self.engine.forget_waiter(&self.s)
        self._forget_entered()
        self.closed = True
        self.s.ops_mask = self.supported_mask = 0
        self.base = None
        self.context = None
        self._set_module(None, None)
        self.completed_ios = None
        self.control = None


vbdev_add_base_member(Channel, VBDEV_BASE_OFFSET)
