"""The batch engine: the pool, the way up of completed I/Os, and who receives them.

One room: the pool, the list of what is done and the way up are touched for each I/O, by C calls
within one module; as rooms of their own they cost a call each, which is a layer's whole budget.

Down: `Channel.submit` (delivery.pyx) looks at each I/O once, pushes a frame, and calls the module
once for the batch. Up: whoever finishes an I/O appends it to the engine's `done` list and nothing
else happens; `Engine.drain`, called from the reactor's loop, pops the frames. Layers without a
`completed` of their own are popped without any Python. So completions that come back inside
`submit` never recurse, and a module never finds an I/O gone that it still looks at.

What must not be broken:
- an I/O is in one place: with its owner, in one batch, in one list of a layer, in one queue of a
  channel, with its children, or in `done`;
- every frame pushed is popped, by `_pop` or with its run, and `outstanding` counts the frames;
- nothing here blocks, and nothing here raises into a module's caller. What foreign code raises is
  caught where it is called, whatever it is, and handed to `report`: so no list is left half
  consumed. KeyboardInterrupt and SystemExit are nobody's failure: `drain` raises them when it has
  done its work, and the loop's owner ends in order.
"""

from collections import deque

cimport cython
from libc.errno cimport EIO
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport abort
from libc.string cimport memset

from vbdev.core.base.clocks cimport monotonic_ns, since_ns
from vbdev.core.base.mapping cimport MAP_NORESERVE, PROT_READ, PROT_WRITE, map_memory, munmap
from vbdev.core.base.types cimport (
    FLAG_ZCOPY_END,
    FLAG_ZCOPY_POPULATE,
    IO_IDLE,
    IO_FAILED,
    IO_NOMEM,
    IO_PENDING,
    IO_SUBMITTED,
    IO_SUCCESS,
    OP_COPY,
    OP_READ,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_ZCOPY,
    OP_ZONE_APPEND,
    SLOW_AWAITED,
    SLOW_RESULT,
    SLOW_UNCOUNTED,
    STAT_COPY,
    STAT_NONE,
    STAT_READ,
    STAT_UNMAP,
    STAT_WRITE,
    WATCH_COMPLETED,
    WATCH_HISTOGRAM,
    WATCH_READS,
    bdev_io,
    channel_state,
    io_block_bytes,
    io_bounce,
    io_data_bytes,
    io_frame,
    io_head,
    io_list,
    io_list_drop_front,
    io_list_free,
    io_list_reserve,
    io_kind,
    io_restore,
    io_restore_to,
    op_stat,
    owner_state,
    this_thread,
)
from vbdev.core.counts.histogram cimport histogram_data, histogram_tally
from vbdev.core.engine.batch cimport IoCore
from vbdev.core.engine.turn cimport CALL_NS, IO_NS, slice_begin, slice_over, slice_over_at
from vbdev.core.memory.buffers cimport class_bytes

from vbdev.vocab import OP_NAMES


cdef extern from *:
    """
    #include <stddef.h>

    #define VBDEV_SAME_PLACE(a, b, field)                                                     \\
        _Static_assert(offsetof(__typeof__(*(a)), field) == offsetof(__typeof__(*(b)), field), \\
                       "a bdev_io does not begin with an io_head: " #field)
    #define VBDEV_SAME_SIZE(a, b)                                                             \\
        _Static_assert(sizeof(__typeof__(*(a))) == sizeof(b), "an io_head has another size")
    """
    int field_op "op", field_depth "depth", field_flags "flags", field_status "status"
    int field_hooked_depth "hooked_depth", field_state "state", field_stage "stage"
    void same_place "VBDEV_SAME_PLACE"(io_head *a, bdev_io *b, int field) noexcept nogil
    void same_size "VBDEV_SAME_SIZE"(io_head *a, uint64_t b) noexcept nogil

cdef enum:
    # BdevIOs beyond the pool, for the one child without which a parent does not get on, when the
    # pool has none. Half of them are for children of such children: as deep as a stack may be.
    # One chain at a time would not do: it may wait for a lock or a RESET that waits for another.
    RESERVE = 4096
    LOWEST_STATUS = -8
    MAX_BROKEN = 64         # different ways to break a promise that one `drain` reports

cdef uint8_t stat_class[32]
memset(stat_class, STAT_NONE, 32)
stat_class[OP_READ] = STAT_READ
stat_class[OP_WRITE] = STAT_WRITE
stat_class[OP_UNMAP] = STAT_UNMAP
stat_class[OP_COPY] = STAT_COPY


cdef inline void check_layout(io_head *head, bdev_io *io) noexcept nogil:
    # Nothing but the compiler's judgement on what `io_kind` and `io_next_head` take for granted.
    cdef uint64_t packed = 0
    same_size(head, packed)
    same_place(head, io, field_op)
    same_place(head, io, field_depth)
    same_place(head, io, field_flags)
    same_place(head, io, field_status)
    same_place(head, io, field_hooked_depth)
    same_place(head, io, field_state)
    same_place(head, io, field_stage)


cdef inline void list_push(io_list *self, void *item) noexcept nogil:
    if not io_list_reserve(self, 1):
        abort()  # no memory for 8 bytes: an I/O must never be lost silently
    self.v[self.n] = <bdev_io *>item
    self.n += 1


cdef inline void *list_take(io_list *self, size_t *taken) noexcept nogil:
    # Take the first that is left; a list of which all are taken is empty.
    cdef void *item = <void *>self.v[taken[0]]
    taken[0] += 1
    if taken[0] == self.n:
        taken[0] = self.n = 0
    return item


cdef inline void tally(channel_state *state, op_stat *stat, uint8_t op, uint64_t count,
                       uint64_t latency) noexcept nogil:
    """Count I/Os of one latency."""
    if state.watch & WATCH_HISTOGRAM and ((<histogram_data *>state.histogram).ops >> op) & 1:
        histogram_tally(<histogram_data *>state.histogram, latency, count)
    stat.latency_ns += latency * count
    if latency > stat.max_latency_ns:
        stat.max_latency_ns = latency
    if latency < stat.min_latency_ns:
        stat.min_latency_ns = latency


cdef uint64_t leave_at(bdev_io **v, size_t n, size_t depth) noexcept nogil:
    """Let I/Os of a run go their own way from the frame at `depth` on; return their blocks."""
    cdef uint64_t blocks = 0
    cdef size_t i
    for i in range(n):
        v[i].depth = <uint8_t>depth
        blocks += v[i].num_blocks
    return blocks


class BrokenPromiseError(RuntimeError):
    """A module completed an I/O with what can not be: its I/O fails (EIO), and this is reported."""


cdef inline bint read_is_whole(const bdev_io *io) noexcept nogil:
    """Whether a READ that its module says has succeeded has as much data as it has blocks."""
    cdef uint64_t length = io.num_blocks * io_block_bytes(io.frames[io.depth - 1].channel, io)
    if io.iovcnt == 1:
        return io.iovs[0].iov_len == length
    return io_data_bytes(io) == length


cdef inline void clamp_result(bdev_io *io, const channel_state *state) noexcept nogil:
    """What the base found behind this layer's end is, here, the end or nothing."""
    if io.op >= OP_SEEK_HOLE and io.result >= state.num_blocks and io.result != <uint64_t>-1:
        io.result = <uint64_t>-1 if io.op == OP_SEEK_DATA else state.num_blocks


cdef int raise_pending() except -1:
    # What a bare C API call has raised becomes an exception of the caller.
    return -1


cdef int run_rounds(Engine self, Py_ssize_t *moved) except -1:
    """The rounds of `drain_all`. What an owner raises comes out of here; `serving` is that one.

    Lists in order; what there is no time for stays in front for the next turn.
    """
    cdef size_t i
    cdef io_list swap
    while True:
        if self.children.due:
            moved[0] += self.children.go_on()
        # The other two lists have something after an exception, and where the last turn had no
        # time left for them.
        if not (self.done.n or self.ready_channels.n or self.ready_owners.n):
            return 0
        swap = self.work
        self.work = self.done
        self.done = swap
        self.done.n = 0
        moved[0] += self.work.n
        self.turn_ns = self.now_ns()
        i = 0
        while i < self.work.n:
            i += self._unwind_run(self.work.v + i, self.work.n - i, self.turn_ns)
        self.work.n = 0
        while self.ready_channels.n:
            (<ChannelBase>(<channel_state *>list_take(
                &self.ready_channels, &self.channels_taken)).object).run_completed()
            if slice_over_at(&self.slice, self.turn_ns, CALL_NS):  # the time at its end
                break
        while self.ready_owners.n:
            # Held here: it may be closed, and forgotten, by what it calls.
            self.serving = <IoOwner>(<owner_state *>list_take(
                &self.ready_owners, &self.owners_taken)).object
            self.serving.o.ready_queued = False
            self.serving_ios = self.serving.o.ready.n
            self.serving.deliver()
            if self.serving.o.ready.n:
                self._deliver_rest(self.serving)
            self.serving = None
            if slice_over(&self.slice, IO_NS * self.serving_ios):
                break
        if self.slice.over:  # a round in which nobody gets anything is the last one anyway
            return 0


# Called as what it is in C: what Cython makes of `try` would save and restore the thread's
# exception state for each turn. -1: it has raised.
ctypedef int (*rounds_call)(Engine self, Py_ssize_t *moved) noexcept
cdef rounds_call rounds = <rounds_call><void *>run_rounds


cdef class Engine(IoCore):
    """One reactor's part of the core: the BdevIO pool, the buffers, the completion queue.

    Parameters
    ----------
    pool_size: BdevIOs at most (SPDK: bdev_io_pool_size). Memory is touched as they are used.
    buffer_limit_bytes: data buffers handed out at once, at most.
    virtual: take time stamps from `set_virtual_time` instead of CLOCK_MONOTONIC.

    Attributes to set
    -----------------
    on_module_error: called as (channel, exception, n) when a module raised and n I/Os failed
        for it; with an IoOwner in the channel's place when that raised.
    on_slow_module: called as (channel, ns) when a call of a module took that long, too long.
    reactor: whoever drives it; the core hands it on and does not look at it.

    """

    def __cinit__(self, *, uint32_t pool_size=65535, buffer_limit_bytes=256 << 20,
                  bint virtual=False):
        self.pool_size = pool_size
        self.virtual = virtual
        self.channels = set()
        self.owners = set()
        self.io_waiters = deque()
        self.when_left = set()
        self.workers = deque()
        self.slice.virtual = virtual
        self.pool = map_memory(
            (<size_t>pool_size + RESERVE) * sizeof(bdev_io), PROT_READ | PROT_WRITE, MAP_NORESERVE)
        if self.pool == NULL:
            raise MemoryError(f"no memory for a pool of {pool_size} BdevIOs")

    def __init__(self, **_kwargs):
        from vbdev.core.engine.children import Children
        from vbdev.core.engine.long_work import LongWork
        self.children = Children(self)
        self.long_work = LongWork(self)
        self.owners.discard(self.children)  # it never leaves

    def __dealloc__(self):
        if self.pool != NULL:
            munmap(self.pool, (<size_t>self.pool_size + RESERVE) * sizeof(bdev_io))
        io_list_free(&self.work)
        io_list_free(&self.waiters)
        io_list_free(&self.ready_channels)
        io_list_free(&self.ready_owners)

    cdef uint64_t now_ns(self) noexcept nogil:
        return self.virtual_ns if self.virtual else monotonic_ns()

    def set_virtual_time(self, uint64_t now_ns):
        """Stamp I/Os with `now_ns` from now on."""
        self.virtual_ns = now_ns

    cdef inline void wake_at(self, uint64_t when_ns) noexcept nogil:
        if self.deadline == 0 or when_ns < self.deadline:
            self.deadline = when_ns

    @property
    def deadline_ns(self):
        """When `drain` should be called next, even if nothing happens before; 0: no need."""
        return self.next_look_ns()

    cdef uint64_t next_look_ns(self) noexcept nogil:
        if self.check_ns and self.ios_in_use and not 0 < self.deadline < self.check_ns:
            return self.check_ns
        return self.deadline

    def clock_ns(self):
        """Return the time that I/Os are stamped with."""
        return self.now_ns()

    def is_calling(self, bdev):
        """Whether the caller is code of the bdev's module, which has I/Os of it in its hands."""
        return self.calling != NULL and (<object>self.calling).bdev is bdev

    def watch_outstanding(self, uint64_t period_ns, callback):
        """Call `callback(now_ns)` every so often, for as long as any I/O is in use.

        An engine without I/O is not woken for it.
        """
        self.check = callback
        self.check_period_ns = period_ns
        self.check_ns = self.now_ns() + period_ns

    cdef int _check_outstanding(self) except -1:
        self.check_ns = self.turn_ns + self.check_period_ns
        try:
            self.check(self.turn_ns)
        except BaseException as error:
            self.report(self.check, error, 0)
        return 0

    cdef int _tell_news(self) except -1:
        self.has_news = False
        if self.when_left:
            self._tell_left()
        if self.broken is not None:
            self._report_broken()
        if self.interruption is not None:
            self._raise_interruption()
        return 0

    cdef int _tell_left(self) except -1:
        """Call those who wait until an I/O leaves a channel; they ask for the next one anew."""
        callbacks, self.when_left = self.when_left, set()
        for callback in callbacks:
            try:
                callback()
            except BaseException as error:
                self.report(callback, error, 0)
        return 0

    # The pool

    cdef bdev_io *get_io(self) noexcept nogil:
        """Take a BdevIO out of the pool; NULL when all are in use. The caller sets its op."""
        cdef bdev_io *io
        if self.have_waiters:
            return NULL  # nobody overtakes those in `io_wait`
        io = self.get_child(False)
        return io

    cdef bint may_take_reserve(self, const bdev_io *parent) noexcept nogil:
        """Whether a parent without a child may have one of the reserve."""
        return parent.index >= self.pool_size or self.reserve_in_use < RESERVE // 2

    cdef bdev_io *get_beyond(self, bint remote) noexcept nogil:
        """Take a BdevIO, of the reserve if need be, for whoever has none; NULL: wait.

        Those who have all others may wait for the end of this one. remote: it may wait as well, so
        that some are left to those whose I/O does not.
        """
        return self.get_child(self.reserve_in_use < (RESERVE // 4 if remote else RESERVE // 2))

    cdef bdev_io *get_child(self, bint reserve) noexcept nogil:
        """Take a BdevIO, if need be one of the reserve."""
        cdef bdev_io *io = self.free_ios
        if io != NULL:
            self.free_ios = io.next
        elif self.pool_high_water < self.pool_size:
            io = <bdev_io *>(self.pool + <size_t>self.pool_high_water * sizeof(bdev_io))
            io.index = self.pool_high_water
            self.pool_high_water += 1
        elif not reserve:
            return NULL
        elif self.free_reserve != NULL:
            io = self.free_reserve
            self.free_reserve = io.next
            self.reserve_in_use += 1
        elif self.reserve_high_water < RESERVE:
            io = <bdev_io *>(self.pool + (
                <size_t>self.pool_size + self.reserve_high_water) * sizeof(bdev_io))
            io.index = self.pool_size + self.reserve_high_water
            self.reserve_high_water += 1
            self.reserve_in_use += 1
        else:
            return NULL
        self.ios_in_use += 1
        io.status = IO_PENDING
        io.state = IO_IDLE
        io.depth = 0
        io.hooked_depth = 0
        io.slow = 0
        io.privileged = 0
        io.flags = 0
        io.err = 0
        io.iovcnt = 0
        io.iovcnt2 = 0
        io.dif_exclude = 0
        io.cdw0 = 0
        io.arg = 0
        io.iovs = io.iov_inline
        io.src_offset_blocks = 0
        io.result = 0
        io.md = NULL
        io.cmd = NULL
        io.domain = NULL
        io.victim = NULL
        io.parent = NULL
        io.family = NULL
        io.own = NULL
        io.bounce = NULL
        io.owner_data = NULL
        io.buf.size_class = -1
        return io

    cdef void put_io(self, bdev_io *io) noexcept nogil:
        """Give a BdevIO back, with the buffer that belongs to it."""
        self.buffers.put(&io.buf)
        io.generation += 1
        self.ios_in_use -= 1
        if io.index >= self.pool_size:
            io.next = self.free_reserve
            self.free_reserve = io
            self.reserve_in_use -= 1
        else:
            io.next = self.free_ios
            self.free_ios = io

    cdef bdev_io *next_in_use(self, uint32_t *at) noexcept nogil:
        """Return the next BdevIO, from number `at` on, that its owner has given away, or NULL.

        `at` is then the number behind it: a walk over pool and reserve begins with 0.
        """
        cdef bdev_io *io
        while at[0] < self.pool_size + self.reserve_high_water:
            if self.pool_high_water <= at[0] < self.pool_size:
                at[0] = self.pool_size
                continue
            io = <bdev_io *>(self.pool + <size_t>at[0] * sizeof(bdev_io))
            at[0] += 1
            if io.state != IO_IDLE:
                return io
        return NULL

    def io_wait(self, callback):
        """Call `callback()` once, from the loop, when a BdevIO is free (SPDK: queue_io_wait).

        In the order of asking; until then nobody else gets one. Whoever does not take it leaves
        it to the next. Returns a token for `cancel_io_wait`.
        """
        token = [callback]
        self.io_waiters.append(token)
        self.have_waiters = True
        return token

    def cancel_io_wait(self, token):
        """Forget a callback that has not been called; afterwards nothing."""
        if token in self.io_waiters:
            self.io_waiters.remove(token)
            self.have_waiters = len(self.io_waiters) > 0

    cdef int _serve_io_waiters(self) except -1:
        cdef Py_ssize_t left = len(self.io_waiters)
        while left and self.io_waiters and (
                self.free_ios != NULL or self.pool_high_water < self.pool_size):
            left -= 1
            token = self.io_waiters.popleft()
            self.have_waiters = False
            try:
                token[0]()
            except BaseException as error:
                self.report(token[0], error, 0)
            finally:
                self.have_waiters = len(self.io_waiters) > 0
        return 0

    # The way up

    @property
    def pending(self):
        """Whether `drain` has something to do at once."""
        return self.has_done() or self.has_workers

    cdef bint has_done(self) noexcept nogil:
        return self.done.n > 0 or self.children.due or self.has_news

    def drain(self):
        """Complete what is done: pop frames, run `completed`, deliver to owners.

        Returns how many I/Os moved. What completes while this runs is handled too, and then long
        work goes on, all within slices of time, so that the rest of the reactor gets its turn.
        """
        return self.take_turn()

    cdef bint has_waiting(self) noexcept nogil:
        """Whether I/Os wait for something that the end of the last `drain` may have brought."""
        return (self.waiting > 0 or self.have_waiters
                or self.ready_channels.n > 0 or self.ready_owners.n > 0)

    cdef bint has_work(self) noexcept nogil:
        """Whether `drain` may have something to do, as far as can be said without the time."""
        return (self.has_done() or self.has_waiting() or self.has_workers or self.deadline > 0
                or (self.check_ns > 0 and self.ios_in_use > 0))

    cdef Py_ssize_t take_turn(self) except -1:
        """The engine's parts of a turn: completions, long work, and what came of that."""
        cdef Py_ssize_t moved
        slice_begin(&self.slice)
        moved = self.drain_all()
        if self.has_workers:
            slice_begin(&self.slice)
            moved += self._run_workers()
            slice_begin(&self.slice)
            moved += self.drain_all()
        slice_begin(&self.slice)  # of whoever submits outside of a turn
        if self.has_news and not self.draining:
            self._tell_news()
        return moved

    cdef int work_later(self, Worker worker) except -1:
        """Call `worker.work()` in the next turn, behind those that wait already."""
        if not worker.is_due:
            worker.is_due = True
            self.workers.append(worker)
            self.has_workers = True
        return 0

    cdef Py_ssize_t _run_workers(self) except -1:
        """Let each go on that is due, in turn, while there is time; return how many did.

        Who has more to do comes again behind the others; a slice ends between two of them.
        """
        cdef Py_ssize_t ran = 0, due = len(self.workers)
        cdef Worker worker
        if self.draining:
            return 0
        self.thread = this_thread()
        self.inside += 1
        self.working += 1
        try:
            while ran < due and self.workers:
                worker = self.workers.popleft()
                self.turn_ns = self.now_ns()
                worker.is_due = False
                ran += 1
                try:
                    worker.work()
                except BaseException as error:
                    self.report(worker, error, 0)
                if slice_over(&self.slice, IO_NS):
                    break
        finally:
            self.working -= 1
            self.inside -= 1
            self.has_workers = len(self.workers) > 0
        return ran

    cdef Py_ssize_t drain_all(self) except -1:
        """Deliver what is done, until nothing is or the slice of time is over. Not reentrant."""
        cdef Py_ssize_t moved = 0
        cdef size_t called = 0, left = self.ready_channels.n + self.ready_owners.n
        if self.draining:
            return 0
        self.draining = True
        self.thread = this_thread()
        self.inside += 1
        self.turn_ns = self.now_ns()
        try:
            if self.waiting:
                called = self._resume_waiting()
            elif self.deadline <= self.turn_ns:
                self.deadline = 0
            if self.check_ns and self.ios_in_use and self.turn_ns >= self.check_ns:
                self._check_outstanding()
            if self.have_waiters:
                self._serve_io_waiters()
            while rounds(self, &moved) < 0:
                self._failed_to_deliver()
                if slice_over(&self.slice, CALL_NS):
                    break
        finally:
            io_list_drop_front(&self.ready_channels, self.channels_taken)
            io_list_drop_front(&self.ready_owners, self.owners_taken)
            self.channels_taken = self.owners_taken = 0
            self.draining = False
            self.inside -= 1
        self.delivered += moved
        return moved or called or <Py_ssize_t>left  # what was left has moved before

    cdef int _failed_to_deliver(self) except -1:
        """Report an owner's exception; what it has left comes once more."""
        cdef IoOwner owner = self.serving
        self.serving = None
        try:
            raise_pending()
        except BaseException as error:
            if owner is None:
                raise
            self.report(owner, error, 0)
        self._deliver_rest(owner)
        return 0

    cdef void _deliver_rest(self, IoOwner owner) noexcept nogil:
        """Have an owner called once more that has taken some of what it was given."""
        if 0 < owner.o.ready.n < self.serving_ios and not owner.o.ready_queued:
            owner.o.ready_queued = True
            list_push(&self.ready_owners, &owner.o)

    cdef int _raise_interruption(self) except -1:
        error, self.interruption = self.interruption, None
        raise error

    cdef Py_ssize_t _resume_waiting(self) except -1:
        """Let channels with I/Os in queues look whether their wait is over. Others cost nothing.

        Returns whether any of the I/Os has gone.
        """
        cdef ChannelBase channel
        cdef channel_state *s
        cdef list channels = []
        cdef uint64_t before = self.waiting
        cdef Py_ssize_t i, first, n = <Py_ssize_t>self.waiters.n
        for i in range(n):
            channels.append(<ChannelBase>(<channel_state *>self.waiters.v[i]).object)
        first = self.turns % n if n else 0
        self.deadline = 0
        for i in range(n):
            channel = channels[(first + i) % n]
            if channel.s.parked:
                channel.resume()
        # Meanwhile some have come, and perhaps some were closed.
        n = 0
        for i in range(<Py_ssize_t>self.waiters.n):
            s = <channel_state *>self.waiters.v[i]
            s.waits = s.nomem.n + s.locked.n + s.qos.n > 0
            self.waiters.v[n] = <bdev_io *>s
            n += s.waits
        self.waiters.n = n
        return before != self.waiting

    cdef void forget_waiter(self, channel_state *s) noexcept nogil:
        """Take a channel that is closed out of those with I/Os in queues."""
        cdef size_t i, kept = 0
        if not s.waits:
            return
        s.waits = False
        for i in range(self.waiters.n):
            self.waiters.v[kept] = self.waiters.v[i]
            kept += self.waiters.v[i] != <bdev_io *>s
        self.waiters.n = kept

    cdef size_t _unwind_run(self, bdev_io **v, size_t n, uint64_t now) noexcept nogil:
        """Pop the frames of the I/Os at the front that have come the same way, layer by layer.

        Up to a layer that wants to see them, or to their owner. Returns how many they were; those
        whose ways part are left where they do. Budget: 1 ns an I/O and layer at queue depth 32: a
        layer's counters are touched once for the run, and what a run has in common is checked
        once.
        """
        # One piece: one loop over a run, within 1 ns for each I/O and layer.
        cdef bdev_io *first = v[0]
        cdef bdev_io *io
        cdef io_frame *frame
        cdef channel_state *state
        cdef op_stat *stat
        cdef owner_state *owner = first.owner
        cdef uint64_t stamp, blocks = first.num_blocks
        cdef uint32_t kind = io_kind(first)
        cdef uint8_t op = first.op, hooked = first.hooked_depth
        cdef size_t depth = first.depth, run = 1, since, i
        cdef bint popped = depth > 0
        cdef bdev_io **ready
        if first.status != IO_SUCCESS or first.slow or op == OP_ZCOPY:
            self._unwind(first, now)
            return 1
        while run < n:
            io = v[run]
            if (io_kind(io) != kind or io.status != IO_SUCCESS or io.slow or io.owner != owner
                    or io.hooked_depth != hooked):
                break
            blocks += io.num_blocks
            run += 1
        while depth:
            state = first.frames[depth - 1].channel
            if state.watch & WATCH_COMPLETED and hooked != depth:
                return self._hook_run(state, v, run, depth)
            stat = &state.stats[stat_class[op]]
            stamp = first.frames[depth - 1].submit_ns
            since = 0
            for i in range(run):
                io = v[i]
                frame = &io.frames[depth - 1]
                if frame.channel != state:
                    blocks -= leave_at(v + i, run - i, depth)
                    run = i
                    break
                if frame.submit_ns != stamp:
                    tally(state, stat, op, i - since, since_ns(stamp, now))
                    stamp = frame.submit_ns
                    since = i
            tally(state, stat, op, run - since, since_ns(stamp, now))
            state.outstanding -= run
            stat.ops += run
            stat.blocks += blocks
            depth -= 1
        if not io_list_reserve(&owner.ready, run):
            abort()
        ready = owner.ready.v + owner.ready.n
        for i in range(run):
            io = v[i]
            # What the layers added to the offset is taken off here, all at once.
            if popped and io.offset_blocks != io.frames[0].offset_blocks:
                io_restore_to(io, io.frames[0].offset_blocks)
            io.depth = 0
            io.state = IO_IDLE
            ready[i] = io
        owner.ready.n += run
        if not owner.ready_queued:
            owner.ready_queued = True
            list_push(&self.ready_owners, owner)
        return run

    cdef size_t _hook_run(
            self, channel_state *state, bdev_io **v, size_t run, size_t depth) noexcept nogil:
        """Put I/Os whose top frame is now at `depth` before the layer there; return how many."""
        cdef bdev_io **ready
        cdef bdev_io *io
        cdef size_t i
        if not io_list_reserve(&state.ready, run):
            abort()
        ready = state.ready.v + state.ready.n
        for i in range(run):
            io = v[i]
            if io.frames[depth - 1].channel != state:
                leave_at(v + i, run - i, depth)
                run = i
                break
            if io.offset_blocks != io.frames[depth - 1].offset_blocks:
                io_restore_to(io, io.frames[depth - 1].offset_blocks)
            io.depth = <uint8_t>depth
            io.hooked_depth = <uint8_t>depth
            io.state = IO_SUBMITTED
            ready[i] = io
        state.ready.n += run
        if not state.ready_queued:
            state.ready_queued = True
            list_push(&self.ready_channels, state)
        return run

    cdef void show_later(self, channel_state *state) noexcept nogil:
        """Show a channel's module once more what is ready: it was not shown all of it."""
        state.ready_queued = True
        list_push(&self.ready_channels, state)

    cdef bint _keeps_promise(self, const bdev_io *io) noexcept nogil:
        """Whether an I/O can have ended as its module says: status, data, result.

        For those that `_unwind` pops; of others only a READ's data can be wrong. All above may
        trust in it. Memory that the channel put in place of the data is right by itself.
        """
        cdef const channel_state *state
        cdef const io_frame *frame
        cdef uint64_t result
        if io.status != IO_SUCCESS:
            return LOWEST_STATUS <= io.status < IO_PENDING
        if io.depth == 0:
            return True
        frame = &io.frames[io.depth - 1]
        state = frame.channel
        if io.op == OP_READ:
            return (not state.watch & WATCH_READS or read_is_whole(io)
                    or (io.bounce != NULL and io.bounce.depth == io.depth))
        if io.op == OP_ZCOPY:
            # A bdev may lend nothing, and then there is nothing to trust in.
            return io.flags & FLAG_ZCOPY_END or io.iovcnt == 0 or read_is_whole(io)
        if not io.slow & SLOW_RESULT:
            return True
        result = io.result
        if io.op != OP_ZONE_APPEND and result == <uint64_t>-1:
            return True
        result -= io.offset_blocks - frame.offset_blocks
        if result < frame.offset_blocks:
            return False
        if io.op == OP_ZONE_APPEND:
            return result <= state.num_blocks - io.num_blocks
        return result < state.num_blocks + (io.op == OP_SEEK_HOLE)

    cdef void _break_promise(self, bdev_io *io) noexcept nogil:
        """Let an I/O fail that its module completed with what can not be."""
        cdef int status = io.status
        cdef int op = io.op
        cdef uint64_t result = io.result
        cdef channel_state *state = io.frames[io.depth - 1].channel if io.depth else NULL
        io.status = IO_FAILED
        io.err = EIO
        with gil:
            try:
                if status != IO_SUCCESS:
                    what = f"with status {status}"
                elif op == OP_READ or op == OP_ZCOPY:
                    what = (f"as SUCCESS with {io_data_bytes(io)} bytes of data for"
                            f" {io.num_blocks} blocks")
                else:
                    what = f"as SUCCESS with the result {result}"
                what = f"completed {OP_NAMES[op]} {what}"
                channel = <object>state.object if state != NULL else None
                if self.broken is None:
                    self.broken = {}
                self.has_news = True
                if len(self.broken) < MAX_BROKEN or (channel, what) in self.broken:
                    self.broken[channel, what] = self.broken.get((channel, what), 0) + 1
            except MemoryError:  # it fails without a word
                pass

    cdef int _report_broken(self) except -1:
        broken, self.broken = self.broken, None
        for (channel, what), n in broken.items():
            self.report(channel, BrokenPromiseError(what), n)
        return 0

    cdef void _unwind(self, bdev_io *io, uint64_t now) noexcept nogil:
        """Pop frames up to a layer that wants to see the I/O, or to the owner."""
        cdef channel_state *state
        cdef owner_state *owner
        if not self._keeps_promise(io):
            self._break_promise(io)
        while io.depth:
            state = io.frames[io.depth - 1].channel
            if io.status == IO_NOMEM and (<ChannelBase>state.object).take_back(io):
                return
            if state.watch & WATCH_COMPLETED and io.hooked_depth != io.depth:
                io.hooked_depth = io.depth
                io_restore(io)
                if io.slow & SLOW_RESULT:
                    clamp_result(io, state)
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
        if io.slow & SLOW_RESULT:
            clamp_result(io, state)
        while io.bounce != NULL and io.bounce.depth == io.depth:
            self.unbounce(io)
        state.outstanding -= 1
        self.has_news |= io.slow & SLOW_AWAITED != 0
        if io.slow & SLOW_UNCOUNTED and io.uncounted_depth == io.depth:
            io.depth -= 1
            return
        latency = since_ns(frame.submit_ns, now)
        if state.watch & WATCH_HISTOGRAM and (
                (<histogram_data *>state.histogram).ops >> io.op) & 1:
            histogram_tally(<histogram_data *>state.histogram, latency, 1)
        if io.status == IO_SUCCESS:
            stat = &state.stats[stat_class[io.op]]
            if io.op == OP_ZCOPY and not io.flags & FLAG_ZCOPY_END:
                stat = &state.stats[
                    STAT_READ if io.flags & FLAG_ZCOPY_POPULATE else STAT_WRITE]
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

    cdef void report(self, source, error, Py_ssize_t n) noexcept:
        """Tell what foreign code has raised; the first KeyboardInterrupt or SystemExit is kept."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            if self.interruption is None:
                self.interruption = error
                self.has_news = True
            return
        if self.on_module_error is None:
            return
        try:
            self.on_module_error(source, error, n)
        except (KeyboardInterrupt, SystemExit) as stop:
            self.interruption = stop
            self.has_news = True
        # What else the handler raises is printed, and takes no I/O with it.

    cdef void report_slow(self, channel, uint64_t ns) noexcept:
        if self.on_slow_module is None:
            return
        try:
            self.on_slow_module(channel, ns)
        except BaseException as error:
            self.report(self.on_slow_module, error, 0)

    def held_longer(self, uint64_t age_ns):
        """Return [(channel, number of I/Os, the oldest)] of modules that keep I/Os for that long.

        The oldest: (op, offset, blocks, age_ns). Those that wait in queues of the layer are not
        the module's.
        """
        cdef uint64_t now = self.now_ns(), age
        cdef uint32_t at = 0
        cdef bdev_io *io
        cdef io_frame *frame
        cdef dict found = {}
        while True:
            io = self.next_in_use(&at)
            if io == NULL:
                break
            if io.state != IO_SUBMITTED or io.depth == 0:
                continue
            frame = &io.frames[io.depth - 1]
            age = since_ns(frame.submit_ns, now)
            if age < age_ns:
                continue
            channel = <object>frame.channel.object
            count, oldest = found.get(channel, (0, (0, 0, 0, 0)))
            if count == 0 or age > oldest[3]:
                oldest = (io.op, frame.offset_blocks, io.num_blocks, age)
            found[channel] = (count + 1, oldest)
        return [(channel, count, oldest) for channel, (count, oldest) in found.items()]

    def buffer_bytes(self):
        """Return the bytes of buffers that BdevIOs have, their own and those of layers that bounce.

        Looks through all that were ever used: for tests, which hold it against the pool's count.
        """
        cdef uint64_t total = 0
        cdef uint32_t at
        cdef bdev_io *io
        cdef io_bounce *bounce
        for at in range(self.pool_size + self.reserve_high_water):
            if self.pool_high_water <= at < self.pool_size:
                continue
            io = <bdev_io *>(self.pool + <size_t>at * sizeof(bdev_io))
            if io.buf.size_class >= 0:
                total += class_bytes(io.buf.size_class)
            bounce = io.bounce
            while bounce != NULL:
                if bounce.buf.size_class >= 0:
                    total += class_bytes(bounce.buf.size_class)
                bounce = bounce.outer
        return total

    def held_by(self, ChannelBase channel not None):
        """Return how many I/Os the channel's own module holds now: neither below nor done."""
        cdef uint32_t at = 0
        cdef bdev_io *io
        cdef int count = 0
        while True:
            io = self.next_in_use(&at)
            if io == NULL:
                break
            if (io.state == IO_SUBMITTED and io.depth
                    and io.frames[io.depth - 1].channel == &channel.s):
                count += 1
        return count


cdef class ChannelBase:
    """What the engine asks of a `Channel`."""

    cdef int run_completed(self) except -1:
        """Show the module its completed I/Os in `s.ready`."""
        raise NotImplementedError

    cdef int resume(self) except -1:
        """Look whether I/Os in the queues can go on."""
        raise NotImplementedError

    cdef bint take_back(self, bdev_io *io) noexcept nogil:
        """Queue an I/O for which the module had no room; False to let it fail."""
        return False

    cdef int hurry_children(self, const bdev_io *io) except -1:
        """Give what a coroutine made of an I/O memory beyond the limit."""
        return 0


cdef class Worker:
    """Who may have more to do than fits into one turn (`Engine.work_later`)."""

    cdef int work(self) except -1:
        """Go on until it is done, which is for as long as `slice_over` says, and ask again."""
        raise NotImplementedError


@cython.no_gc_clear  # one that is forgotten unclosed gives I/Os and buffers back to its engine
cdef class IoOwner(Worker):
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


cdef class ChildOwner(IoOwner):
    """Who has the children of I/Os that became several."""

    cdef bint adopt(self, channel_state *s, bdev_io *io, int kind) noexcept nogil:
        """Make an I/O a parent; its children are made in the next `go_on`. False: no memory."""
        return False

    cdef size_t go_on(self) except? 0:
        """Make and submit the children that are due; return how many they were."""
        raise NotImplementedError

    cdef int run(self, channel_state *s, ios, callback) except -1:
        """Make the one I/O of a batch a parent; callback(ios, status, detail, cdw0) at its end."""
        raise NotImplementedError

    cdef void hurry(self, bdev_io *io) noexcept nogil:
        """Give an I/O, and what it became, memory beyond the limit: others wait for its end."""


assert sizeof(bdev_io) % 128 == 64, "a BdevIO is an odd number of cache lines"
