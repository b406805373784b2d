"""Delivery: how I/Os get to a module, on their way down and on their way up.

`submit_batch` looks at each I/O once (may it pass, is it in range), pushes a frame, and calls the
module's `submit` once for the batch; `run_completed` shows a module what has completed. What else
there is to look at on the way down is in admission.pyx, which sees only I/Os that some gate is
closed for. Budget: 3 ns an I/O and layer at queue depth 32, both ways, of which the module's own
Python is one call for the batch.

Modules are called in C, by their functions' own entry: what Cython makes of `try` would save and
restore the thread's exception state for each call.
"""

from libc.errno cimport EBADF, EINVAL, ELOOP, ENOMEM, EOPNOTSUPP as ENOTSUP
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from vbdev.core.base.capi cimport (
    PY_VECTORCALL_ARGUMENTS_OFFSET,
    PyObject,
    PyObject_Vectorcall,
    PyVectorcall_Function,
    Py_DECREF,
    Py_INCREF,
)
from vbdev.core.base.clocks cimport coarse_ns, monotonic_ns, since_ns
from vbdev.core.base.types cimport (
    HAS_METADATA,
    IO_FAILED,
    IO_NOMEM,
    IO_PENDING,
    IO_SUBMITTED,
    IO_SUCCESS,
    MAX_STACK_DEPTH,
    STAGE_ENTER,
    bdev_io,
    channel_state,
    io_doubt,
    io_frame,
    io_kind,
    io_list_drop_front,
    io_next_head,
    io_set_head,
    this_thread,
)
from vbdev.core.engine.admission cimport Admission, passes_plainly
from vbdev.core.engine.batch cimport IOBatch, new_batch, only_mine
from vbdev.core.engine.engine cimport Engine
from vbdev.core.engine.turn cimport MOST_AT_ONCE


cdef extern from *:
    """
    #include <fcntl.h>
    #include <stdint.h>
    #include <unistd.h>

    /* How long this thread has been ready to run and did not: the scheduler's doing, and not a
       module's. 0 where the kernel does not say (proc(5), schedstat). */
    static uint64_t vbdev_run_delay_ns(void)
    {
        char text[96], *at;
        uint64_t delay = 0;
        ssize_t n;
        int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return 0;
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
        if (n <= 0)
            return 0;
        text[n] = 0;
        for (at = text; *at && *at != ' '; at++)    /* the time that it ran */
            ;
        while (*++at >= '0' && *at <= '9')
            delay = delay * 10 + (*at - '0');
        return delay;
    }

    #define VBDEV_SAMPLE_NS 20000000        /* so old is what a call's delay is measured from */
    static __thread uint64_t vbdev_sampled_at, vbdev_sampled;

    /* Returns when it is time for the next sample. */
    static __attribute__((noinline, cold)) uint64_t vbdev_sample_delay(uint64_t now)
    {
        vbdev_sampled_at = now;
        vbdev_sampled = vbdev_run_delay_ns();
        return now + VBDEV_SAMPLE_NS;
    }

    /* What the scheduler took from a call of `took` ns that ends now, as far as it is known. */
    static uint64_t vbdev_delay_in(uint64_t took, uint64_t now)
    {
        uint64_t delay;
        if (now > vbdev_sampled_at + took + 2 * VBDEV_SAMPLE_NS)
            return 0;
        delay = vbdev_run_delay_ns();
        return delay > vbdev_sampled ? delay - vbdev_sampled : 0;
    }
    """
    uint64_t sample_delay "vbdev_sample_delay"(uint64_t now) noexcept nogil
    uint64_t delay_in "vbdev_delay_in"(uint64_t took, uint64_t now) noexcept nogil

cdef enum:
    SNAPSHOT = 128
    SLOW_CALL_NS = 100000000            # a module's call that takes longer is reported


cdef int raise_pending() except -1:
    # What a bare C API call has raised becomes an exception of the caller.
    return -1


cdef module_call callable_parts(function, owner) noexcept:
    cdef module_call out
    out.function = <PyObject *>function
    out.owner = <PyObject *>owner if owner is not None else NULL
    out.call = PyVectorcall_Function(out.function) if function is not None else NULL
    if out.call == NULL:
        out.call = PyObject_Vectorcall
    return out


cdef inline PyObject *call_module(
        const module_call *module, PyObject *channel, PyObject *ios) noexcept:
    """Call a module's function; NULL when it raises. What it returns is the caller's."""
    cdef PyObject *args[4]
    cdef PyObject *function = module.function
    cdef PyObject *owner = module.owner
    cdef PyObject *result
    args[1] = owner
    args[2] = channel
    args[3] = ios
    # It may close the channel, which forgets both.
    Py_INCREF(function)
    if owner == NULL:
        result = module.call(function, args + 2, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
    else:
        Py_INCREF(owner)
        result = module.call(function, args + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
        Py_DECREF(owner)
    Py_DECREF(function)
    return result


cdef inline bint held_at(const bdev_io *io, uint8_t depth, channel_state *state) noexcept nogil:
    # Whether the module of a channel has the I/O, whose depth this is.
    return io.state == IO_SUBMITTED and depth > 0 and io.frames[depth - 1].channel == state


cdef inline void deliver(Delivery self, Engine engine, IOBatch ios, bdev_io **copy) noexcept:
    """Call the module; what it still holds when it raises is failed. `copy`: room for the batch."""
    cdef Py_ssize_t i, n = ios.n
    cdef bdev_io **v = ios.v
    cdef PyObject *result
    cdef uint64_t took_ns, blocked_ns = engine.blocked_ns
    cdef void *before = engine.calling
    for i in range(n):
        copy[i] = v[i]
    took_ns = coarse_ns()
    # Of calls one inside another the outermost measures for all.
    if took_ns >= engine.sample_ns and engine.inside == engine.draining + engine.working:
        engine.sample_ns = sample_delay(took_ns)
    engine.inside += 1
    engine.calling = <void *>self
    result = call_module(&self.module_submit, <PyObject *>self, <PyObject *>ios)
    engine.calling = before
    engine.inside -= 1
    if result == NULL:
        self._module_failed(copy, n)
    else:
        Py_DECREF(result)
    took_ns = since_ns(took_ns, coarse_ns())
    if took_ns >= SLOW_CALL_NS:
        self._was_slow(took_ns, blocked_ns)


cdef class Delivery(Admission):
    """The part of a `Channel` that calls the module."""

    cdef int _set_module(self, submit, completed) except -1:
        """Take bound methods apart here, so that no call has to. None: no such method."""
        self.submit_function = getattr(submit, "__func__", submit)
        self.submit_owner = getattr(submit, "__self__", None)
        if self.submit_function is submit:
            self.submit_owner = None
        self.module_submit = callable_parts(self.submit_function, self.submit_owner)
        self.completed_function = getattr(completed, "__func__", completed)
        self.completed_owner = getattr(completed, "__self__", None)
        if self.completed_function is completed:
            self.completed_owner = None
        self.module_completed = callable_parts(self.completed_function, self.completed_owner)
        return 0

    # The way down

    cdef int submit_batch(self, IOBatch ios) except -1:
        # One piece: one loop over a batch, within 3 ns for each I/O.
        cdef Py_ssize_t i, n = ios.n, kept = 0, special = 0
        cdef Engine engine = self.engine
        cdef bdev_io **v = ios.v
        cdef channel_state *s = &self.s
        cdef uint64_t num_blocks = s.num_blocks
        cdef uint64_t now
        cdef uint32_t kind
        cdef uint64_t head = 0
        cdef size_t depth = 0
        cdef bdev_io *io
        cdef io_frame *frame
        cdef bdev_io *snapshot[SNAPSHOT]
        if n == 0:
            return 0
        if ios.core is not engine or (engine.thread and engine.thread != this_thread()):
            self._refuse_thread()
        if not engine.inside:
            engine.turn_ns = engine.now_ns()
        now = engine.turn_ns
        kind = ~io_kind(v[0])
        for i in range(n):
            io = v[i]
            if io_kind(io) != kind:
                # What those of one kind have in common is looked at once.
                if (not (((s.ops_mask & ~s.special_mask) >> io.op) & 1)
                        or io.flags & (s.refused_flags | s.special_flags)
                        or io.depth >= MAX_STACK_DEPTH):
                    if self._enter(io, now):
                        v[kept] = io
                        kept += 1
                        special += 1
                    continue
                kind = io_kind(io)
                depth = io.depth
                head = io_next_head(io)
            if io.num_blocks > num_blocks or io.offset_blocks > num_blocks - io.num_blocks:
                self._enter(io, now)
                continue
            frame = &io.frames[depth]
            frame.channel = s
            frame.offset_blocks = io.offset_blocks
            frame.submit_ns = now
            io_set_head(io, head)
            if kept != i:
                v[kept] = io
            kept += 1
        ios.n = kept
        s.outstanding += kept - special
        if kept:
            s.batches += 1
            s.batched_ios += kept
            if self.notes:
                self._note(v, kept)
            if kept <= SNAPSHOT:
                deliver(self, engine, ios, snapshot)
            else:
                self._deliver(ios)
        if self.for_control.n:
            self._hand_to_control()
        return 0

    cdef bint _enter(self, bdev_io *io, uint64_t now) noexcept nogil:
        """Take one I/O that is no plain one; False: it is refused, or parked, or has ended."""
        cdef channel_state *s = &self.s
        cdef io_frame *frame
        if (not ((s.ops_mask >> io.op) & 1) or io.num_blocks > s.num_blocks
                or io.offset_blocks > s.num_blocks - io.num_blocks
                or io.flags & s.refused_flags or io.depth >= MAX_STACK_DEPTH):
            io.state = IO_SUBMITTED
            io.hooked_depth = 0  # one more trip of the layer above has ended
            self.engine.push_done(io, IO_FAILED, self._refusal(io))
            return False
        frame = &io.frames[io.depth]
        frame.channel = s
        frame.offset_blocks = io.offset_blocks
        frame.submit_ns = now
        io.depth += 1
        io.status = IO_PENDING
        io.hooked_depth = 0
        io.state = IO_SUBMITTED
        io.stage = STAGE_ENTER
        s.outstanding += 1
        if self.notes:
            self._note(&io, 1)
        return passes_plainly(s, io) or self._admit(io, False)

    cdef int _refusal(self, bdev_io *io) noexcept nogil:
        if self.closed:
            return EBADF
        if not (self.s.ops_mask >> io.op) & 1:
            # The write bits are missing where the descriptor may only read.
            return EBADF if (self.supported_mask >> io.op) & 1 else ENOTSUP
        if io.depth >= MAX_STACK_DEPTH:
            return ELOOP
        if io.flags & self.s.refused_flags:
            return EINVAL if io.flags & self.s.refused_flags == HAS_METADATA else ENOTSUP
        return EINVAL

    cdef int _refuse_thread(self) except -1:
        raise RuntimeError(
            f"I/Os of one reactor given to {self.bdev!r} on another's thread")

    cdef int _hand_to_control(self) except -1:
        raise NotImplementedError

    cdef int _deliver(self, IOBatch ios) except -1:
        """Call the module with a batch of any length."""
        cdef bdev_io *snapshot[SNAPSHOT]
        cdef bdev_io **copy
        if ios.n <= SNAPSHOT:
            deliver(self, self.engine, ios, snapshot)
            return 0
        copy = <bdev_io **>malloc(ios.n * sizeof(void *))
        if copy == NULL:
            ios.finish_all(IO_NOMEM, ENOMEM)
            return 0
        deliver(self, self.engine, ios, copy)
        free(<void *>copy)
        return 0

    cdef void _module_failed(self, bdev_io **copy, Py_ssize_t n) noexcept:
        """Fail what the module that has just raised still holds, and report what it raised."""
        cdef Py_ssize_t failed
        try:
            raise_pending()
        except BaseException as error:
            failed = self._fail_held(copy, n)
            self.engine.report(self, error, failed)

    cdef void _was_slow(self, uint64_t took_ns, uint64_t blocked_ns) noexcept:
        """Report a call that took long, unless it was one further down that did."""
        cdef Engine engine = self.engine
        cdef uint64_t below_ns = engine.blocked_ns - blocked_ns
        if took_ns < SLOW_CALL_NS:
            return
        # What this thread waited for a CPU is nobody's; what a system call slept is the module's.
        took_ns -= min(took_ns, delay_in(took_ns, coarse_ns()))
        # Two clocks: a coarse one may have seen less of a call than a fine one of what it called.
        if below_ns < took_ns and took_ns - below_ns >= SLOW_CALL_NS:
            took_ns -= below_ns
            engine.blocked_ns += took_ns
            engine.report_slow(self, took_ns)

    cdef inline bint _holds(self, const bdev_io *io) noexcept nogil:
        """Whether this channel's module has the I/O: it is neither below, nor done, nor waiting."""
        return held_at(io, io.depth, &self.s)

    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n) noexcept nogil:
        """Fail those of the n I/Os that the module holds; return how many they were.

        Not what it gave to coroutines of its own: those end by themselves.
        """
        cdef Py_ssize_t i, failed = 0
        for i in range(n):
            if self._holds(v[i]) and not (
                    v[i].index < self.s.in_hand_size and self.s.in_hand[v[i].index] != NULL):
                self.engine.push_done(v[i], IO_FAILED, 0)
                failed += 1
        if failed:
            with gil:
                self.engine.forget_done()
        return failed

    # The way up

    cdef bint _make_room(self, IOBatch ios, size_t shown) except -1:
        """Make room for what `completed` is to be shown; without memory all that came fails."""
        cdef Py_ssize_t n
        try:
            ios.reserve(shown)
        except MemoryError as error:
            n = self.s.ready.n
            self.s.ready.n = 0
            self.engine.report(self, error, self._fail_held(self.s.ready.v, n))
            return False
        return True

    cdef int run_completed(self) except -1:
        """Show the module its completed I/Os, MOST_AT_ONCE; send up what it left in the batch.

        The batch may be another's by then: a module that tries again gives it to its base.
        """
        # One piece: one pass over a batch, within 3 ns for each I/O.
        cdef channel_state *state = &self.s
        cdef Engine engine = self.engine
        cdef IOBatch ios = self.completed_ios
        cdef PyObject *result
        cdef bdev_io **v
        cdef bdev_io *io
        cdef Py_ssize_t i = 0, n, end, kept = 0
        cdef size_t shown
        cdef uint8_t depth
        cdef uint64_t now, blocked_ns = engine.blocked_ns, began_ns, took_ns
        cdef void *before
        if ios is None:
            ios = new_batch(engine)
        else:
            self.completed_ios = None
        ios.n = 0
        state.ready_queued = False
        shown = min(state.ready.n, <size_t>MOST_AT_ONCE)
        if <size_t>ios.cap < shown and not self._make_room(ios, shown):
            return 0
        memcpy(<void *>ios.v, <void *>state.ready.v, shown * sizeof(void *))
        ios.n = shown
        # The end of one module's work is taken for the next one's beginning.
        began_ns = coarse_ns() if engine.virtual else engine.turn_ns
        before = engine.calling
        engine.calling = <void *>self
        result = call_module(&self.module_completed, <PyObject *>self, <PyObject *>ios)
        engine.calling = before
        # Nothing was added to `ready` meanwhile, since `drain` alone does that.
        if engine.virtual:
            now = engine.virtual_ns
            took_ns = since_ns(began_ns, coarse_ns())
        else:
            now = monotonic_ns()
            took_ns = since_ns(began_ns, now)
        engine.turn_ns = now
        if result == NULL:
            self._module_failed(state.ready.v, shown)
        else:
            Py_DECREF(result)
        if state.ready.n == shown:
            state.ready.n = 0
        else:
            io_list_drop_front(&state.ready, shown)
            engine.show_later(state)
        if took_ns >= SLOW_CALL_NS:
            self._was_slow(took_ns, blocked_ns)
        if result == NULL:
            return 0
        v = ios.v
        n = ios.n
        while i < n:
            # As many as possible go up together.
            end = i
            while end < n:
                io = v[end]
                depth = io.depth
                if not held_at(io, depth, state):
                    break
                if io.status == IO_PENDING:  # held since `submit`, and put into the batch
                    io.status = IO_SUCCESS
                    io_doubt(io)
                io.hooked_depth = depth
                end += 1
            while i < end:
                i += engine._unwind_run(v + i, end - i, now)
            if i < n:
                v[kept] = v[i]
                kept += 1
                i += 1
        ios.n = kept
        if only_mine(ios):
            ios.n = 0
            self.completed_ios = ios
        return 0
