from vbdev.core.base.types cimport (
    bdev_io,
    channel_state,
    io_list,
    owner_state,
    size_t,
    uint32_t,
    uint64_t,
)
from vbdev.core.engine.batch cimport IoCore
from vbdev.core.engine.turn cimport time_slice


cdef class Engine(IoCore):
    cdef io_list work
    cdef io_list ready_channels         # of channel_state *, drained each round
    cdef io_list ready_owners           # of owner_state *
    cdef char *pool
    cdef bdev_io *free_ios
    cdef bdev_io *free_reserve
    cdef readonly uint32_t pool_size
    cdef readonly uint32_t pool_high_water
    cdef readonly uint32_t reserve_high_water
    cdef readonly uint32_t reserve_in_use
    cdef readonly uint32_t ios_in_use
    cdef bint virtual
    cdef uint64_t virtual_ns
    cdef readonly uint64_t delivered
    cdef set channels
    cdef set owners
    cdef readonly ChildOwner children   # of I/Os that became several
    cdef readonly Worker long_work      # I/Os that leaves carry out in steps
    cdef object io_waiters
    cdef bint have_waiters
    cdef public object on_module_error
    cdef dict broken                    # {(channel, what): I/Os}, until `drain` reports it
    cdef object interruption             # KeyboardInterrupt or SystemExit, until `drain` raises it
    cdef public object on_slow_module
    cdef public object reactor
    cdef bint draining
    cdef int working                    # in `_run_workers`, how deep
    cdef size_t channels_taken          # of `ready_channels`, from the front
    cdef size_t owners_taken
    cdef IoOwner serving                # whose `deliver` runs
    cdef size_t serving_ios             # that it has been given
    cdef time_slice slice               # of the part of a turn that runs
    cdef object workers                 # who has more to do, in turn
    cdef bint has_workers
    cdef void *calling                  # the Channel whose module is being called, borrowed
    cdef int inside                     # of `drain` or a module's `submit`, how deep
    cdef uint64_t turn_ns               # the time, while inside; read once, however deep
    cdef uint64_t deadline
    cdef uint64_t blocked_ns            # that modules took, of those that took too long
    cdef uint64_t sample_ns             # when the thread's run delay is to be sampled again
    cdef uint64_t walks                 # through what channels have under way
    cdef uint64_t turns                 # which channel with I/Os that wait comes first
    cdef set when_left                  # callbacks, see `call_when_left`
    cdef bint has_news                  # for `_tell_news`, at the end of `drain`
    cdef object check                   # see `watch_outstanding`
    cdef uint64_t check_period_ns
    cdef uint64_t check_ns

    cdef uint64_t now_ns(self) noexcept nogil
    cdef uint64_t next_look_ns(self) noexcept nogil
    cdef bint has_done(self) noexcept nogil
    cdef bint has_waiting(self) noexcept nogil
    cdef bint has_work(self) noexcept nogil
    cdef Py_ssize_t drain_all(self) except -1
    cdef Py_ssize_t take_turn(self) except -1
    cdef int work_later(self, Worker worker) except -1
    cdef Py_ssize_t _run_workers(self) except -1
    cdef void wake_at(self, uint64_t when_ns) noexcept nogil
    cdef bdev_io *get_io(self) noexcept nogil
    cdef bint may_take_reserve(self, const bdev_io *parent) noexcept nogil
    cdef bdev_io *get_beyond(self, bint remote) noexcept nogil
    cdef bdev_io *get_child(self, bint reserve) noexcept nogil
    cdef void put_io(self, bdev_io *io) noexcept nogil
    cdef bdev_io *next_in_use(self, uint32_t *at) noexcept nogil
    cdef size_t _unwind_run(self, bdev_io **v, size_t n, uint64_t now) noexcept nogil
    cdef size_t _hook_run(
        self, channel_state *state, bdev_io **v, size_t run, size_t depth) noexcept nogil
    cdef bint _keeps_promise(self, const bdev_io *io) noexcept nogil
    cdef void _break_promise(self, bdev_io *io) noexcept nogil
    cdef int _report_broken(self) except -1
    cdef void _unwind(self, bdev_io *io, uint64_t now) noexcept nogil
    cdef void _pop(self, bdev_io *io, uint64_t now) noexcept nogil
    cdef void show_later(self, channel_state *state) noexcept nogil
    cdef Py_ssize_t _resume_waiting(self) except -1
    cdef void forget_waiter(self, channel_state *s) noexcept nogil
    cdef int _check_outstanding(self) except -1
    cdef int _serve_io_waiters(self) except -1
    cdef int _tell_left(self) except -1
    cdef int _tell_news(self) except -1
    cdef int _failed_to_deliver(self) except -1
    cdef void _deliver_rest(self, IoOwner owner) noexcept nogil
    cdef int _raise_interruption(self) except -1
    cdef void report(self, source, error, Py_ssize_t n) noexcept
    cdef void report_slow(self, channel, uint64_t ns) noexcept


# What the engine asks of a channel; `Channel` builds on it.
cdef class ChannelBase:
    cdef channel_state s
    cdef readonly Engine engine

    cdef int run_completed(self) except -1
    cdef int resume(self) except -1
    cdef bint take_back(self, bdev_io *io) noexcept nogil
    cdef int hurry_children(self, const bdev_io *io) except -1


# Who may have more to do than fits into one turn; see `Engine.work_later`.
cdef class Worker:
    cdef readonly Engine engine
    cdef bint is_due                    # for `work`

    cdef int work(self) except -1


cdef class IoOwner(Worker):
    cdef owner_state o
    cdef int deliver(self) except -1
    cdef bdev_io *new_io(self) noexcept nogil
    cdef void free_io(self, bdev_io *io) noexcept nogil


# Who has the children of I/Os that became several; `Children` builds on it.
cdef class ChildOwner(IoOwner):
    cdef readonly bint due              # some parent can have more children made
    cdef bint adopt(self, channel_state *s, bdev_io *io, int kind) noexcept nogil
    cdef size_t go_on(self) except? 0
    cdef int run(self, channel_state *s, ios, callback) except -1
    cdef void hurry(self, bdev_io *io) noexcept nogil
