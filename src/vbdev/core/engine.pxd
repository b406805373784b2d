from vbdev.core.batch cimport IOBatch, IoCore
from vbdev.core.types cimport (
    bdev_io,
    channel_state,
    io_list,
    owner_state,
    size_t,
    uint32_t,
    uint64_t,
)


cdef class Engine(IoCore):
    cdef io_list work
    cdef io_list ready_channels         # of channel_state *, drained each round
    cdef io_list ready_owners           # of owner_state *
    cdef char *pool
    cdef bdev_io *free_ios
    cdef readonly uint32_t pool_size
    cdef readonly uint32_t pool_high_water
    cdef readonly uint32_t ios_in_use
    cdef bint virtual
    cdef uint64_t virtual_ns
    cdef readonly uint64_t delivered
    cdef set channels
    cdef set owners
    cdef public object on_module_error
    cdef bint draining
    cdef int inside                     # of `drain` or a module's `submit`, how deep
    cdef uint64_t turn_ns               # the time, while inside; read once, however deep

    cdef uint64_t now_ns(self) noexcept nogil
    cdef bdev_io *get_io(self) noexcept nogil
    cdef void put_io(self, bdev_io *io) noexcept nogil
    cdef size_t _unwind_run(self, bdev_io **v, size_t n, uint64_t now) noexcept nogil
    cdef void _unwind(self, bdev_io *io, uint64_t now) noexcept nogil
    cdef void _pop(self, bdev_io *io, uint64_t now) noexcept nogil
    cdef int _run_completed(self, channel_state *state) except -1
    cdef int _retry_waiting(self) except -1
    cdef bint _abort_waiting(self, bdev_io *io) noexcept nogil
    cdef void _report(self, source, error, Py_ssize_t n) noexcept


cdef class Channel:
    cdef channel_state s
    cdef readonly Engine engine
    cdef readonly object bdev
    cdef readonly object descriptor
    cdef object base                    # a member of the type: see engine.pyx
    cdef public object context
    cdef object submit_function         # what `configure` got, taken apart if it was bound
    cdef object submit_self
    cdef object module_completed
    cdef readonly bint closed
    cdef uint64_t supported_mask

    cdef int submit_batch(self, IOBatch ios) except -1
    cdef int _admit(self, bdev_io *io, bint first) noexcept nogil
    cdef int _admit_other(self, bdev_io *io) noexcept nogil
    cdef int _no_memory(self, uint64_t length, bint held) noexcept nogil
    cdef int _refusal(self, bdev_io *io) noexcept nogil
    cdef int _deliver(self, IOBatch ios) except -1
    cdef int _module_failed(self, bdev_io **copy, Py_ssize_t n, IOBatch ios) except -1
    cdef Py_ssize_t _fail_held(self, bdev_io **v, Py_ssize_t n, IOBatch ios) noexcept nogil
    cdef bint _holds(self, const bdev_io *io) noexcept nogil


cdef class IoOwner:
    cdef owner_state o
    cdef readonly Engine engine
    cdef int deliver(self) except -1
    cdef bdev_io *new_io(self) noexcept nogil
    cdef void free_io(self, bdev_io *io) noexcept nogil
