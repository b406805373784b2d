from libc.stdint cimport int32_t, int8_t, uint16_t, uint32_t, uint64_t, uint8_t

from vbdev.core.base.types cimport bdev_io, iovec, memory_domain
from vbdev.core.engine.batch cimport IOBatch
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.engine cimport IoOwner


# One I/O in the hands of its coroutine.
cdef class BdevIO:
    cdef bdev_io *io                    # NULL once it has ended
    cdef Coroutines coroutines
    cdef object coroutine               # None when it has returned
    cdef object awaits                  # this, one of its children or a Future; None: nothing
    cdef object answer                  # what awaiting this brings
    cdef uint32_t under_way             # its trip, and its children
    cdef uint8_t trip                   # TRIP_*
    cdef bint aborted                   # its coroutine is not run any more
    cdef bint running
    cdef public bint has_lock           # or has asked for one
    cdef bint resting                   # waits for it
    cdef int8_t final                   # how it is to end; PENDING: nobody has said
    cdef int32_t final_err
    cdef uint32_t final_cdw0
    cdef int8_t child_status            # the first failure of a child; PENDING: none
    cdef int32_t child_err
    cdef uint32_t child_cdw0
    cdef list children                  # that are under way
    cdef uint32_t made                  # of those, with a BdevIO
    cdef IOBatch aborts                 # that wait for its end

    cdef bdev_io *live(self) except NULL
    cdef bdev_io *held(self) except NULL
    cdef int _be_here(self) except -1


# An I/O that a coroutine makes for its own.
cdef class ChildIO:
    cdef bdev_io *io                    # NULL: not yet, or not any more
    cdef BdevIO parent
    cdef Channel channel
    cdef ChildIO victim                 # ABORT
    cdef Py_buffer *views
    cdef Py_ssize_t num_views
    cdef iovec *own_iovs
    cdef iovec *iovs
    cdef iovec *iovs2
    cdef void *md
    cdef void *cmd
    cdef memory_domain *domain
    cdef uint16_t iovcnt
    cdef uint16_t iovcnt2
    cdef uint16_t flags
    cdef uint16_t dif_exclude
    cdef uint32_t arg
    cdef uint8_t number                 # of its type
    cdef readonly uint64_t offset_blocks
    cdef readonly uint64_t num_blocks
    cdef readonly uint64_t src_offset_blocks
    cdef readonly uint64_t result
    cdef readonly uint32_t cdw0
    cdef readonly bint done
    cdef int8_t ended
    cdef int32_t err

    cdef int _attach(self, data, bint filled) except -1
    cdef uint64_t _length(self) noexcept
    cdef void _release(self) noexcept


cdef class Coroutines(IoOwner):
    cdef readonly Channel channel
    cdef object handle_function
    cdef object handle_self
    cdef object future_class
    cdef object send_msg
    cdef object make_lock
    cdef IOBatch base_out               # forwarded in this run, to the base
    cdef IOBatch base_spare             # the last such batch, if its module has not kept it
    cdef list outs                      # [channel, batch] of others
    cdef list woken                     # whose Future has come
    cdef set lingering                  # that go on behind the end of their I/O
    cdef object starved                 # children that wait for a BdevIO
    cdef object io_token
    cdef list failures                  # [exception, I/Os that failed of it] of this run
    cdef int running                    # runs, one inside another
    cdef bdev_io *unwinding             # goes up when this run of `completed` ends
    cdef bint closed

    cdef int _start(self, bdev_io *io) except -1
    cdef int _step(self, BdevIO one) except -1
    cdef int _paused(self, BdevIO one) except -1
    cdef bint _waits_for(self, BdevIO one, object awaited) except -1
    cdef int _refuse(self, BdevIO one, object awaited) except -1
    cdef int _returned(self, BdevIO one, object value) except -1
    cdef int _raised(self, BdevIO one, object error) except -1
    cdef int _failed(self, object error, Py_ssize_t n) except -1
    cdef int _finish(self, BdevIO one) except -1
    cdef int _stop(self, BdevIO one) except -1
    cdef int _abort(self, BdevIO one, bdev_io *abort) except -1
    cdef Channel _sent_to(self, const bdev_io *victim)
    cdef int _abort_child(self, ChildIO child) except -1
    cdef int _abort_victims(self, IOBatch aborts) except -1
    cdef int _hurry(self, BdevIO one) except -1
    cdef int _get_memory(self, BdevIO one) except -1
    cdef int _memory_came(self, BdevIO one) except -1
    cdef int _trip_ended(self, BdevIO one) except -1
    cdef int _send(self, Channel channel, bdev_io *io) except -1
    cdef int _send_child(self, ChildIO child) except -1
    cdef bint _make(self, ChildIO child) except -1
    cdef int _feed(self) except -1
    cdef int _child_ended(self, ChildIO child) except -1
    cdef int _flush(self) except -1
    cdef int _leave(self) except -1
