from cpython.ref cimport PyObject

from vbdev.core.base.types cimport (
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    int8_t,
    int32_t,
    io_queue,
    uint32_t,
    uint64_t,
)
from vbdev.core.engine.engine cimport Engine


cdef enum:
    # Where an I/O of this reactor is: its `leaf_value`.
    IN_QUEUE = 0
    IN_SLOT = 1
    IN_GROUP = 2

# What a server offers, and has refused: it is not asked for again.
cdef enum:
    REFUSES_ZEROES = 1          # WRITE_ZEROES
    REFUSES_NO_HOLE = 2         # the same with NO_HOLE
    REFUSES_FAST_ZERO = 4       # the same with FAST_ZERO, for another reason than its cost
    REFUSES_TRIM = 8
    REFUSES_FUA = 16

# A FLUSH of several links, for an I/O or for somebody in Python.
cdef struct flush_group:
    bdev_io *io
    PyObject *callback          # referenced; called with an errno, or 0
    uint32_t left               # slots that belong to it, and one for whoever makes it
    int32_t err
    bint again                  # a link was lost on the way, and nothing with it
    bint proven                 # some link has answered with success
    bint last                   # nobody asks again: what is not proven is an error
    uint64_t owed               # of the path, when it was made


cdef class RemoteDisk:
    cdef readonly uint32_t block_size
    cdef readonly bint keeps_writes
    cdef readonly uint32_t max_bytes
    cdef int lost_
    cdef int num_paths
    cdef int refusals_

    cdef bint has_lost(self) noexcept nogil
    cdef void lose(self) noexcept nogil
    cdef bint refuses(self, int what) noexcept nogil
    cdef bint note_refusal(self, int what) noexcept nogil


cdef class NbdQueue:
    cdef readonly Engine engine
    cdef readonly RemoteDisk disk
    cdef object host
    cdef io_queue waiting
    cdef public bint resend
    cdef readonly uint64_t outstanding
    cdef readonly uint64_t resent
    cdef uint64_t owed          # links that went with writes that the server keeps, and no FLUSH
    cdef uint64_t paid          # of those, covered by a FLUSH on another link since

    cdef void finish(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil
    cdef flush_group *new_group(self, bdev_io *io, callback) except? NULL
    cdef int part_ended(self, flush_group *group, int err, bint again) except -1
    cdef int start_flush(self, bdev_io *io) except -1
    cdef int pump_(self) except -1
    cdef int left_by(self, link) except -1


cdef inline bint changes_data(const bdev_io *io) noexcept nogil:
    return io.op == OP_WRITE or io.op == OP_UNMAP or io.op == OP_WRITE_ZEROES
