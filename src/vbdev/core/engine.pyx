"""The batch engine: channels check and count, the engine completes, owners receive.

Down: `Channel.submit` looks at each I/O once (may it pass, is it in range, does its data need a
buffer), pushes a frame, and calls the module once for the batch. Budget: 6 ns an I/O and layer
at queue depth 32, of which the module's own Python is one call for the batch.

Up: whoever finishes an I/O appends it to the engine's `done` list and nothing else happens;
`Engine.drain`, called from the reactor's loop, pops the frames. Layers without a `completed` of
their own are popped without any Python. So completions that come back inside `submit` never
recurse, and a module never finds an I/O gone that it still looks at.

What must not be broken:
- an I/O is in one place: with its owner, in one batch, in one list of a layer, in the list of a
  channel that has no buffer for it, or in `done`;
- every frame pushed is popped, by `_pop` alone, and `outstanding` counts the frames;
- nothing here blocks, and nothing here raises into a module's caller.
"""

cimport cython
from libc.errno cimport EBADF, EINVAL, ELOOP, ENOMEM, EOPNOTSUPP as ENOTSUP
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vbdev.core.batch cimport IOBatch, IoCore, new_batch
from vbdev.core.types cimport (
    IO_ABORTED,
    IO_DONE,
    IO_FAILED,
    IO_IDLE,
    IO_NOMEM,
    IO_PENDING,
    IO_SUBMITTED,
    IO_SUCCESS,
    IO_WAITING,
    MAX_STACK_DEPTH,
    NUM_ERROR_STATUSES,
    OP_ABORT,
    OP_COMPARE,
    OP_COPY,
    OP_READ,
    OP_RESET,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    STAT_CLASSES,
    STAT_COPY,
    STAT_NONE,
    STAT_READ,
    STAT_UNMAP,
    STAT_WRITE,
    bdev_io,
    channel_state,
    io_data_bytes,
    io_frame,
    io_holds_memory,
    io_list,
    io_list_free,
    io_list_reserve,
    io_restore,
    op_stat,
    owner_state,
)


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
        ((Py_ssize_t)offsetof(struct __pyx_obj_5vbdev_4core_6engine_Channel, base))
    """
    int vbdev_add_base_member(type cls, Py_ssize_t offset) except -1
    Py_ssize_t VBDEV_BASE_OFFSET

cdef extern from "stdlib.h" nogil:
    void abort()

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *out)
    int CLOCK_MONOTONIC

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *PyObject_Vectorcall(
        PyObject *function, PyObject **args, size_t num_args, PyObject *names) noexcept
    void Py_DECREF(PyObject *object) noexcept

cdef enum:
    ADMIT = 0
    REFUSE = 1
    WAIT = 2
    FINISH = 3
    SNAPSHOT = 128
    # One `drain` ends after this many rounds, or once it moved this many I/Os, about 50 us.
    DRAIN_ROUNDS = 64
    DRAIN_IOS = 1024

cdef uint8_t stat_class[32]
memset(stat_class, STAT_NONE, 32)
stat_class[OP_READ] = STAT_READ
stat_class[OP_WRITE] = STAT_WRITE
stat_class[OP_UNMAP] = STAT_UNMAP
stat_class[OP_COPY] = STAT_COPY


cdef inline void list_push(io_list *self, void *item) noexcept nogil:
    if not io_list_reserve(self, 1):
        abort()  # no memory for 8 bytes: an I/O must never be lost silently
    self.v[self.n] = <bdev_io *>item
    self.n += 1


cdef int raise_pending() except -1:
    # What a bare C API call has raised becomes an exception of the caller.
    return -1


cdef class Engine(IoCore):
    """One reactor's part of the core: the BdevIO pool, the buffers, the completion queue.

    Parameters
    ----------
    pool_size: BdevIOs at most (SPDK: bdev_io_pool_size). Memory is touched as they are used.
    buffer_limit_bytes: data buffers handed out at once, at most.
    virtual: take time stamps from `set_virtual_time` instead of CLOCK_MONOTONIC.
    on_module_error: called as (channel, exception, n) when a module raised and n I/Os failed
        for it; with an IoOwner in the channel's place when that raised.

    """

    def __cinit__(self, *, uint32_t pool_size=65535, buffer_limit_bytes=256 << 20,
                  bint virtual=False):
        self.pool_size = pool_size
        self.virtual = virtual
        self.channels = set()
        self.owners = set()
        self.pool = <char *>mmap(
            NULL, <size_t>pool_size * sizeof(bdev_io), PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if <void *>self.pool == MAP_FAILED:
            self.pool = NULL
            raise MemoryError(f"no memory for a pool of {pool_size} BdevIOs")

    def __dealloc__(self):
        if self.pool != NULL:
            munmap(self.pool, <size_t>self.pool_size * sizeof(bdev_io))
        io_list_free(&self.work)
        io_list_free(&self.ready_channels)
        io_list_free(&self.ready_owners)

    cdef uint64_t now_ns(self) noexcept nogil:
        cdef timespec now
        if self.virtual:
            return self.virtual_ns
        clock_gettime(CLOCK_MONOTONIC, &now)
        return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec

    def set_virtual_time(self, uint64_t now_ns):
        """Stamp I/Os with `now_ns` from now on."""
        self.virtual_ns = now_ns

    cdef bdev_io *get_io(self) noexcept nogil:
        """Take a BdevIO out of the pool; NULL when all are in use. The caller sets its op."""
        cdef bdev_io *io = self.free_ios
        if io != NULL:
            self.free_ios = io.next
        elif self.pool_high_water < self.pool_size:
            io = <bdev_io *>(self.pool + <size_t>self.pool_high_water * sizeof(bdev_io))
            io.index = self.pool_high_water
            self.pool_high_water += 1
        else:
            return NULL
        self.ios_in_use += 1
        io.status = IO_PENDING
        io.state = IO_IDLE
        io.depth = 0
        io.hooked_depth = 0
        io.flags = 0
        io.err = 0
        io.iovcnt = 0
        io.iovs = io.iov_inline
        io.src_offset_blocks = 0
        io.result = 0
        io.victim = NULL
        io.bounce = NULL
        io.owner_data = NULL
        io.buf.size_class = -1
        return io

    cdef void put_io(self, bdev_io *io) noexcept nogil:
        """Give a BdevIO back, with the buffer that belongs to it."""
        self.buffers.put(&io.buf)
        io.generation += 1
        io.next = self.free_ios
        self.free_ios = io
        self.ios_in_use -= 1

    @property
    def pending(self):
        """Whether `drain` has something to do at once."""
        return self.done.n > 0

    def drain(self):
        """Complete what is done: pop frames, run `completed`, deliver to owners.

        Returns how many I/Os moved. What completes while this runs is handled too, up to a
        bound, so that the rest of the reactor gets its turn.
        """
        cdef size_t i, moved = 0
        cdef int _round
        cdef io_list swap
        cdef IoOwner owner
        if self.draining:
            return 0
        self.draining = True
        self.inside += 1
        self.turn_ns = self.now_ns()
        try:
            if self.waiting:
                self._retry_waiting()
            for _round in range(DRAIN_ROUNDS):
                # The other two lists have something only after an exception that is nobody's.
                if moved >= DRAIN_IOS or not (
                        self.done.n or self.ready_channels.n or self.ready_owners.n):
                    break
                swap = self.work
                self.work = self.done
                self.done = swap
                self.done.n = 0
                moved += self.work.n
                self.turn_ns = self.now_ns()
                i = 0
                while i < self.work.n:
                    i += self._unwind_run(self.work.v + i, self.work.n - i, self.turn_ns)
                self.work.n = 0
                while self.ready_channels.n:
                    self.ready_channels.n -= 1
                    self._run_completed(
                        <channel_state *>self.ready_channels.v[self.ready_channels.n])
                while self.ready_owners.n:
                    self.ready_owners.n -= 1
                    # Held here: it may be closed, and forgotten, by what it calls.
                    owner = <IoOwner>(
                        <owner_state *>self.ready_owners.v[self.ready_owners.n]).object
                    owner.o.ready_queued = False
                    try:
                        owner.deliver()
                    except Exception as error:
                        self._report(owner, error, 0)
        finally:
            self.draining = False
            self.inside -= 1
        self.delivered += moved
        return moved

    cdef size_t _unwind_run(self, bdev_io **v, size_t n, uint64_t now) noexcept nogil:
        """Pop the frames of the I/Os at the front that came down together, layer by layer.

        Returns how many they were. Budget: 2 ns an I/O and layer at queue depth 32: a layer's
        counters are touched once for the run, and what a run has in common is checked once.
        """
        cdef bdev_io *first = v[0]
        cdef bdev_io *io
        cdef io_frame *frame
        cdef channel_state *state
        cdef op_stat *stat
        cdef owner_state *owner = first.owner
        cdef uint64_t latency, sum_ns, blocks, longest, shortest
        cdef size_t depth = first.depth, run = 0, i
        if first.op != OP_SEEK_DATA and first.op != OP_SEEK_HOLE:  # their results are looked at
            while (run < n and v[run].depth == depth and v[run].op == first.op
                    and v[run].status == IO_SUCCESS and v[run].owner == owner
                    and v[run].bounce == NULL):
                run += 1
        if run < 2:
            self._unwind(first, now)
            return 1
        while depth:
            state = first.frames[depth - 1].channel
            i = 0
            sum_ns = blocks = longest = 0
            shortest = <uint64_t>-1
            if not state.wants_completed:
                while i < run:
                    io = v[i]
                    frame = &io.frames[depth - 1]
                    if frame.channel != state:
                        break
                    if io.offset_blocks != frame.offset_blocks:
                        io_restore(io)
                    latency = now - frame.submit_ns
                    sum_ns += latency
                    longest = latency if latency > longest else longest
                    shortest = latency if latency < shortest else shortest
                    blocks += io.num_blocks
                    io.depth = <uint8_t>(depth - 1)
                    i += 1
                if i:
                    state.outstanding -= i
                    stat = &state.stats[stat_class[first.op]]
                    stat.ops += i
                    stat.blocks += blocks
                    stat.latency_ns += sum_ns
                    if longest > stat.max_latency_ns:
                        stat.max_latency_ns = longest
                    if shortest < stat.min_latency_ns:
                        stat.min_latency_ns = shortest
            if i < run:
                # They part here, or a layer wants to see them: one at a time, in order.
                for i in range(run):
                    self._unwind(v[i], now)
                return run
            depth -= 1
        if not io_list_reserve(&owner.ready, run):
            abort()
        for i in range(run):
            v[i].state = IO_IDLE
            owner.ready.v[owner.ready.n + i] = v[i]
        owner.ready.n += run
        if not owner.ready_queued:
            owner.ready_queued = True
            list_push(&self.ready_owners, owner)
        return run

    cdef void _unwind(self, bdev_io *io, uint64_t now) noexcept nogil:
        """Pop frames up to a layer that wants to see the I/O, or to the owner."""
        cdef channel_state *state
        cdef owner_state *owner
        while io.depth:
            state = io.frames[io.depth - 1].channel
            if state.wants_completed and io.hooked_depth != io.depth:
                io.hooked_depth = io.depth
                io_restore(io)
                io.state = IO_SUBMITTED
                list_push(&state.ready, io)
                if not state.ready_queued:
                    state.ready_queued = True
                    list_push(&self.ready_channels, state)
                return
            self._pop(io, now)
        io.state = IO_IDLE
        owner = io.owner
        list_push(&owner.ready, io)
        if not owner.ready_queued:
            owner.ready_queued = True
            list_push(&self.ready_owners, owner)

    cdef inline void _pop(self, bdev_io *io, uint64_t now) noexcept nogil:
        cdef io_frame *frame = &io.frames[io.depth - 1]
        cdef channel_state *state = frame.channel
        cdef op_stat *stat
        cdef uint64_t latency
        if io.offset_blocks != frame.offset_blocks:
            io_restore(io)
        if (io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE) and io.result >= state.num_blocks:
            # What the base found lies behind this layer's end.
            io.result = <uint64_t>-1 if io.op == OP_SEEK_DATA else state.num_blocks
        while io.bounce != NULL and io.bounce.depth == io.depth:
            self.unbounce(io)
        state.outstanding -= 1
        if io.status == IO_SUCCESS:
            stat = &state.stats[stat_class[io.op]]
            latency = now - frame.submit_ns
            stat.ops += 1
            stat.blocks += io.num_blocks
            stat.latency_ns += latency
            if latency > stat.max_latency_ns:
                stat.max_latency_ns = latency
            if latency < stat.min_latency_ns:
                stat.min_latency_ns = latency
        else:
            state.errors[-io.status] += 1
        io.depth -= 1

    cdef int _run_completed(self, channel_state *state) except -1:
        """Show a layer its completed I/Os; send up those that it left in the batch.

        The batch may be another's by then: a module that tries again gives it to its base.
        """
        cdef Channel channel = <Channel>state.object
        cdef IOBatch ios = new_batch(self)
        cdef bdev_io *io
        cdef Py_ssize_t i, failed, kept = 0
        cdef uint64_t now
        ios.reserve(state.ready.n)
        memcpy(<void *>ios.v, <void *>state.ready.v, state.ready.n * sizeof(void *))
        ios.n = state.ready.n
        state.ready_queued = False
        try:
            channel.module_completed(channel, ios)
        except BaseException as error:
            # Nothing is added to `ready` meanwhile, since `drain` alone does that.
            failed = channel._fail_held(state.ready.v, state.ready.n, ios)
            state.ready.n = 0
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt is nobody's failure
            self._report(channel, error, failed)
            return 0
        state.ready.n = 0
        now = self.now_ns()
        for i in range(ios.n):
            io = ios.v[i]
            if not channel._holds(io):
                ios.v[kept] = io
                kept += 1
                continue
            if io.status == IO_PENDING:  # held since `submit`, and put into the batch
                io.status = IO_SUCCESS
            io.hooked_depth = io.depth
            self._unwind(io, now)
        ios.n = kept
        return 0

    cdef int _retry_waiting(self) except -1:
        """Give waiting I/Os, in order, the buffers that have come back."""
        cdef Channel channel
        cdef channel_state *s
        cdef bdev_io *io
        cdef bdev_io *rest
        cdef bdev_io *rest_tail
        cdef IOBatch ios
        for channel in list(self.channels):
            s = &channel.s
            if s.nomem_head == NULL:
                continue
            ios = new_batch(self)
            while s.nomem_head != NULL:
                io = s.nomem_head
                ios.reserve(1)
                if channel._admit(io, True) == WAIT:
                    break
                s.nomem_head = io.next
                self.waiting -= 1
                io.state = IO_SUBMITTED
                ios.append(io)
            if ios.n == 0:
                continue
            # Those for which the module's `copy_data` finds no memory either stay in front.
            rest = s.nomem_head
            rest_tail = s.nomem_tail
            s.nomem_head = s.nomem_tail = NULL
            try:
                channel._deliver(ios)
            finally:
                if rest != NULL:
                    if s.nomem_head == NULL:
                        s.nomem_head = rest
                    else:
                        s.nomem_tail.next = rest
                    s.nomem_tail = rest_tail
        return 0

    cdef bint _abort_waiting(self, bdev_io *io) noexcept nogil:
        """Complete an I/O that waits for a buffer as ABORTED; False if its channel has it not."""
        cdef channel_state *s = io.frames[io.depth - 1].channel
        cdef bdev_io *before = NULL
        cdef bdev_io *at = s.nomem_head
        while at != NULL and at != io:
            before = at
            at = at.next
        if at == NULL:
            return False
        if before == NULL:
            s.nomem_head = io.next
        else:
            before.next = io.next
        if s.nomem_tail == io:
            s.nomem_tail = before
        self.waiting -= 1
        io.state = IO_SUBMITTED
        self.push_done(io, IO_ABORTED, 0)
        return True

    cdef void _report(self, source, error, Py_ssize_t n) noexcept:
        # What the handler itself raises is printed, and takes no I/O with it.
        if self.on_module_error is not None:
            self.on_module_error(source, error, n)

    def held_by(self, Channel channel not None):
        """Return how many I/Os the channel's own module holds now: neither below nor done."""
        cdef uint32_t i
        cdef bdev_io *io
        cdef int count = 0
        for i in range(self.pool_high_water):
            io = <bdev_io *>(self.pool + <size_t>i * sizeof(bdev_io))
            if (io.state == IO_SUBMITTED and io.depth
                    and io.frames[io.depth - 1].channel == &channel.s):
                count += 1
        return count


cdef class Channel:
    """One thread's path to one bdev, through one descriptor: `submit`, counters, context.

    `base` is the channel to the base bdev (of a vbdev), `context` what the module's
    `create_channel` returned. Belongs to its engine's thread.
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

    def configure(self, *, submit, completed, uint64_t supported_mask, uint64_t ops_mask,
                  uint64_t num_blocks, uint32_t block_size, uint32_t required_alignment,
                  unsigned int refused_flags, bint gives_read_buffers):
        """Set what the checks compare with; again after a resize.

        supported_mask: a bit for each op of the bdev; ops_mask: of those, what the descriptor
        may submit. required_alignment: of data in memory, in bytes, a power of two.
        gives_read_buffers: a READ may arrive at the module without a buffer, and the module
        supplies one.
        """
        # A bound method is taken apart here, so that no call has to.
        self.submit_function = getattr(submit, "__func__", submit)
        self.submit_self = getattr(submit, "__self__", None)
        if self.submit_function is submit:
            self.submit_self = None
        self.module_completed = completed
        self.s.wants_completed = completed is not None
        self.supported_mask = supported_mask
        self.s.ops_mask = ops_mask
        self.s.num_blocks = num_blocks
        self.s.block_size = block_size
        self.s.align_mask = required_alignment - 1
        self.s.refused_flags = refused_flags
        self.s.gives_read_buffers = gives_read_buffers
        self.s.special_mask = (
            (1 << OP_COPY) | (1 << OP_ABORT) | (1 << OP_RESET) | (1 << OP_SEEK_DATA)
            | (1 << OP_SEEK_HOLE))
        if not gives_read_buffers:
            self.s.special_mask |= 1 << OP_READ
        if required_alignment > 1:
            self.s.special_mask |= (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE)

    def submit(self, IOBatch ios not None, /):
        """Hand a batch to the bdev. It belongs to the callee then. Never raises, never blocks."""
        self.submit_batch(ios)

    cdef int submit_batch(self, IOBatch ios) except -1:
        cdef Py_ssize_t i, n = ios.n, kept = 0, entered = 0
        cdef Engine engine = self.engine
        cdef bdev_io **v = ios.v
        cdef channel_state *s = &self.s
        cdef uint64_t ops_mask = s.ops_mask, special = s.special_mask, num_blocks = s.num_blocks
        cdef uint32_t refused = s.refused_flags
        cdef uint64_t now
        cdef bdev_io *io
        cdef io_frame *frame
        cdef int verdict
        if n == 0:
            return 0
        if not engine.inside:
            engine.turn_ns = engine.now_ns()
        now = engine.turn_ns
        for i in range(n):
            io = v[i]
            if (not ((ops_mask >> io.op) & 1) or io.num_blocks > num_blocks
                    or io.offset_blocks > num_blocks - io.num_blocks
                    or io.flags & refused or io.depth >= MAX_STACK_DEPTH):
                io.state = IO_SUBMITTED
                io.hooked_depth = 0  # one more trip of the layer above has ended
                engine.push_done(io, IO_FAILED, self._refusal(io))
                continue
            frame = &io.frames[io.depth]
            frame.channel = s
            frame.offset_blocks = io.offset_blocks
            frame.submit_ns = now
            io.depth += 1
            io.hooked_depth = 0
            io.status = IO_PENDING
            io.state = IO_SUBMITTED
            entered += 1
            if (special >> io.op) & 1:
                verdict = self._admit(io, False)
                if verdict == WAIT:
                    engine.wait_for_buffer(io)
                    continue
                if verdict != ADMIT:
                    io.hooked_depth = io.depth  # the module never sees it
                    if verdict == FINISH:
                        engine.push_done(io, IO_SUCCESS, 0)
                    else:
                        engine.push_done(io, IO_FAILED, EINVAL)
                    continue
            if kept != i:
                v[kept] = io
            kept += 1
        ios.n = kept
        s.outstanding += entered
        if kept == 0:
            return 0
        s.batches += 1
        s.batched_ios += kept
        return self._deliver(ios)

    cdef int _refusal(self, bdev_io *io) noexcept nogil:
        if self.closed:
            return EBADF
        if not (self.s.ops_mask >> io.op) & 1:
            # The write bits are missing where the descriptor may only read.
            return EBADF if (self.supported_mask >> io.op) & 1 else ENOTSUP
        if io.depth >= MAX_STACK_DEPTH:
            return ELOOP
        if io.flags & self.s.refused_flags:
            return ENOTSUP
        return EINVAL

    cdef int _admit(self, bdev_io *io, bint first) noexcept nogil:
        """Look at what range and type do not say; get data where a module needs other data.

        `first`: nobody waits for memory in front of it.
        """
        cdef uint64_t length
        cdef uint32_t i
        cdef bint held
        if io.op != OP_READ and io.op != OP_WRITE and io.op != OP_COMPARE:
            return self._admit_other(io)
        if self.s.nomem_head == NULL:
            first = True
        held = io_holds_memory(io)
        if io.op == OP_READ and io.iovcnt == 0:
            if self.s.gives_read_buffers:
                return ADMIT
            length = io.num_blocks * self.s.block_size
            if length == 0:
                return ADMIT
            if not (held or first) or not self.engine.buffers.get(length, held, &io.buf):
                return self._no_memory(length, held)
            io.iovs = io.iov_inline
            io.iov_inline[0].iov_base = io.buf.base
            io.iov_inline[0].iov_len = length
            io.iovcnt = 1
            return ADMIT
        if self.s.align_mask:
            if io.bounce != NULL and io.bounce.depth == io.depth:
                return ADMIT  # it got aligned memory before it waited
            for i in range(io.iovcnt):
                if (<size_t>io.iovs[i].iov_base | io.iovs[i].iov_len) & self.s.align_mask:
                    break
            else:
                return ADMIT
            if (not (held or first)
                    or not self.engine.bounce(io, io.op != OP_READ, io.op == OP_READ, held)):
                return self._no_memory(io_data_bytes(io), held)
        return ADMIT

    cdef int _no_memory(self, uint64_t length, bint held) noexcept nogil:
        return WAIT if self.engine.buffers.can_ever_get(length, held) else REFUSE

    cdef int _admit_other(self, bdev_io *io) noexcept nogil:
        cdef bdev_io *victim = io.victim
        if io.op == OP_COPY:
            if io.src_offset_blocks > self.s.num_blocks - io.num_blocks:
                return REFUSE
        elif io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            if io.offset_blocks >= self.s.num_blocks:
                return REFUSE
        elif io.op == OP_RESET:
            while self.s.nomem_head != NULL:
                self.engine._abort_waiting(self.s.nomem_head)
        elif io.op == OP_ABORT:
            # Once its victim has ended, the BdevIO may be somebody else's.
            if victim == NULL or victim.generation != <uint32_t>io.result:
                return REFUSE
            if victim.state == IO_WAITING and self.engine._abort_waiting(victim):
                return FINISH
        return ADMIT

    cdef bint _holds(self, const bdev_io *io) noexcept nogil:
        """Whether this channel's module has the I/O: it is neither below, nor done, nor waiting."""
        return (io.state == IO_SUBMITTED and io.depth > 0
                and io.frames[io.depth - 1].channel == &self.s)

    cdef int _deliver(self, IOBatch ios) except -1:
        """Call the module; what it still holds when it raises is failed."""
        cdef bdev_io *snapshot[SNAPSHOT]
        cdef bdev_io **copy = snapshot
        cdef Py_ssize_t i, n = ios.n
        cdef Engine engine = self.engine
        cdef object function = self.submit_function
        cdef object owner = self.submit_self
        cdef PyObject *args[3]
        cdef PyObject *result
        if n > SNAPSHOT:
            copy = <bdev_io **>malloc(n * sizeof(void *))
            if copy == NULL:
                ios.finish_all(IO_NOMEM, ENOMEM)
                return 0
        for i in range(n):
            copy[i] = ios.v[i]
        args[0] = <PyObject *>owner
        args[1] = <PyObject *>self
        args[2] = <PyObject *>ios
        engine.inside += 1
        # The call itself, where `try` would save and restore the thread's exception state.
        if owner is None:
            result = PyObject_Vectorcall(<PyObject *>function, args + 1, 2, NULL)
        else:
            result = PyObject_Vectorcall(<PyObject *>function, args, 3, NULL)
        engine.inside -= 1
        if result == NULL:
            try:
                self._module_failed(copy, n, ios)
            finally:
                if copy != snapshot:
                    free(<void *>copy)
            return 0
        Py_DECREF(result)
        if copy != snapshot:
            free(<void *>copy)
        return 0

    cdef int _module_failed(self, bdev_io **copy, Py_ssize_t n, IOBatch ios) except -1:
        """Fail what the module that has just raised still holds, and report what it raised."""
        cdef Py_ssize_t failed
        try:
            raise_pending()
        except BaseException as error:
            failed = self._fail_held(copy, n, ios)
            if not isinstance(error, Exception):
                raise  # KeyboardInterrupt is nobody's failure
            self.engine._report(self, error, failed)
        return 0

    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n, IOBatch ios) noexcept nogil:
        """Fail those of the n I/Os that the module holds; return how many they were.

        They leave the batch. Others stay: it may have been given to a base, which holds it.
        """
        cdef Py_ssize_t i, kept = 0, failed = 0
        for i in range(n):
            if self._holds(v[i]):
                self.engine.push_done(v[i], IO_FAILED, 0)
                failed += 1
        for i in range(ios.n):
            if ios.v[i].state != IO_DONE:
                ios.v[kept] = ios.v[i]
                kept += 1
        ios.n = kept
        return failed

    # Counters

    @property
    def outstanding(self):
        """I/Os that have entered and not left."""
        return self.s.outstanding

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

    def abort_waiting(self):
        """End the I/Os that wait for a buffer as ABORTED, as when the bdev goes away."""
        while self.s.nomem_head != NULL:
            self.engine._abort_waiting(self.s.nomem_head)

    def close(self):
        """Leave the engine. Only without outstanding I/O."""
        if self.s.outstanding:
            raise RuntimeError(
                f"channel of {self.bdev!r} has {self.s.outstanding} I/Os outstanding")
        self.engine.channels.discard(self)
        self.closed = True
        self.s.ops_mask = self.supported_mask = 0
        self.base = None
        self.context = None
        self.submit_function = None
        self.submit_self = None
        self.module_completed = None


@cython.no_gc_clear  # one that is forgotten unclosed gives I/Os and buffers back to its engine
cdef class IoOwner:
    """Who gets I/Os back. Compiled targets override `deliver`; `PyOwner` is for Python callers."""

    def __cinit__(self, Engine engine not None, *args, **kwargs):
        self.engine = engine
        self.o.object = <void *>self
        engine.owners.add(self)  # I/Os in flight point here

    def __dealloc__(self):
        io_list_free(&self.o.ready)

    def close(self):
        """Leave the engine. Only when every I/O has been given back."""
        if self.o.in_flight:
            raise RuntimeError(f"{self!r} has {self.o.in_flight} I/Os in flight")
        self.engine.owners.discard(self)

    cdef int deliver(self) except -1:
        """Take over `o.ready`, and free each I/O with `free_io` when done with it."""
        raise NotImplementedError

    cdef bdev_io *new_io(self) noexcept nogil:
        cdef bdev_io *io = self.engine.get_io()
        if io != NULL:
            io.owner = &self.o
            self.o.in_flight += 1
        return io

    cdef void free_io(self, bdev_io *io) noexcept nogil:
        self.o.in_flight -= 1
        self.engine.put_io(io)

    @property
    def in_flight(self):
        """I/Os taken and not yet given back."""
        return self.o.in_flight


vbdev_add_base_member(Channel, VBDEV_BASE_OFFSET)
