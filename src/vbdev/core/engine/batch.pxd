from libc.stdlib cimport abort

from vbdev.core.base.capi cimport Py_REFCNT
from vbdev.core.base.types cimport (
    IO_DONE,
    IO_SUBMITTED,
    bdev_io,
    channel_state,
    int32_t,
    int8_t,
    io_bounce,
    io_doubt,
    io_list,
    io_list_reserve,
    io_queue,
    size_t,
    uint64_t,
)
from vbdev.core.memory.buffers cimport BufferPool
from vbdev.core.memory.dif cimport dif_layout


# What a batch needs of the engine: where completed I/Os go, where buffers come from.
cdef class IoCore:
    cdef io_list done
    cdef readonly BufferPool buffers
    cdef unsigned long thread           # that drives it; 0 as long as none has
    cdef void *batches                  # every IOBatch with I/Os of this engine; see _link
    cdef readonly uint64_t waiting      # I/Os in queues of channels
    cdef io_list waiters                # states of these channels, and of some that had such I/Os
    cdef readonly uint64_t misused      # completions of an I/O that no layer held

    cdef bint push_done(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil
    cdef io_bounce *_new_bounce(self, bdev_io *io, uint64_t length, bint beyond) noexcept nogil
    cdef int add_metadata(self, bdev_io *io, const dif_layout *layout, bint beyond) noexcept nogil
    cdef bint bounce(self, bdev_io *io, bint copy_in, bint copy_back, bint beyond) noexcept nogil
    cdef void wait_in(self, io_queue *queue, bdev_io *io) noexcept nogil
    cdef void count_waiting(self, channel_state *s) noexcept nogil
    cdef void unbounce(self, bdev_io *io) noexcept nogil
    cdef void forget_done(self) noexcept


cdef class IOBatch:
    cdef bdev_io **v
    cdef Py_ssize_t n
    cdef Py_ssize_t cap
    cdef IoCore core
    cdef bdev_io *inline_v[32]
    cdef void *linked_before            # neighbours in core.batches, borrowed
    cdef void *linked_after

    cdef int reserve(self, Py_ssize_t more) except -1
    cdef int append(self, bdev_io *io) except -1
    cdef void _link(self) noexcept
    cdef IOBatch take_op_mask(self, uint64_t mask)
    cdef object _column(self, int which)
    cdef int finish_all(self, int8_t status, int32_t err) except -1


cdef IOBatch new_batch(IoCore core)
cdef int add_views(bdev_io *io, list views) except -1
cdef tuple status_parts(str who, status, int errno, nvme, scsi)


cdef inline int batch_add(IOBatch ios, bdev_io *io) except -1:
    # `IOBatch.append`, in the loop of whoever adds many.
    if ios.n == ios.cap:
        return ios.append(io)
    ios.v[ios.n] = io
    ios.n += 1
    return 0


cdef inline void finish_room(IoCore core, size_t n) noexcept nogil:
    if not io_list_reserve(&core.done, n):
        abort()  # no memory for 8 bytes: an I/O must never be lost silently


cdef inline bint finish_io(IoCore core, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
    # `IoCore.push_done`, in the loop of whoever completes many.
    if io.state != IO_SUBMITTED:
        core.misused += 1
        return False
    finish_room(core, 1)
    finish_held(core, io, status, err)
    return True


cdef inline void finish_held(IoCore core, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
    # The same of one that a layer holds, as its state says, and for which `done` has room.
    io.state = IO_DONE
    io.status = status
    io.err = err
    io_doubt(io)
    core.done.v[core.done.n] = io
    core.done.n += 1


cdef inline bint only_mine(IOBatch ios) noexcept:
    # Whether nobody but the caller's variable has the batch: it can be used again.
    return Py_REFCNT(ios) == 1
