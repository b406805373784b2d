from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint32_t, uint64_t, uint8_t

from vbdev.core.base.types cimport bdev_io, channel_state, io_parent, iovec, owner_state
from vbdev.core.engine.batch cimport IOBatch
from vbdev.core.engine.channel cimport Channel
from vbdev.core.engine.edges cimport io_edges
from vbdev.core.engine.engine cimport ChildOwner
from vbdev.core.engine.turn cimport fair_queue


# An I/O that became several, from its admission to its end.
cdef struct io_parent:
    bdev_io *io
    channel_state *channel
    bdev_io *children           # a list through `cookie` (next) and `tag` (previous)
    void *callback              # for CHILDREN_CONTROL, referenced
    void *ios                   # the batch that goes with it, referenced
    io_edges *edges             # of a write in bytes
    iovec *iovs                 # whose pieces the children get
    uint32_t iovcnt
    uint32_t iov                # how far that is: the piece, and bytes of it
    size_t iov_bytes
    uint64_t done               # blocks that children were made for
    uint64_t left               # blocks still to do
    uint64_t piece              # blocks of one child, at most
    uint32_t outstanding
    uint32_t at_most            # children at once
    int32_t err
    uint32_t cdw0
    int8_t status
    uint8_t kind
    uint8_t child_op
    uint8_t phase
    bint backward               # a COPY onto itself, from the end
    bint stop                   # no more children
    bint is_due


cdef inline owner_state *client_of(const bdev_io *io) noexcept nogil:
    # Who wants an I/O, or what it is a part of.
    while io.parent != NULL:
        io = io.parent.io
    return io.owner


cdef class Children(ChildOwner):
    cdef fair_queue parents             # that are due, through their I/Os
    cdef void *zeroes

    cdef void _now_due(self, io_parent *parent) noexcept nogil
    cdef void _prepare(self, io_parent *parent) noexcept nogil
    cdef bint _has_room(self, IOBatch ios) noexcept
    cdef int _take(self, bdev_io *child) except -1
    cdef int _make_all(self, io_parent *parent, IOBatch ios) except -1
    cdef int _make_one(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef void _make_edge(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef bint _next_phase(self, io_parent *parent) noexcept nogil
    cdef bint _give_metadata(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef int _make_zeroes(self, io_parent *parent, bdev_io *child, uint64_t blocks) noexcept nogil
    cdef bint _move_tags(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef bint _cut_data(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef int _make_aborts(self, io_parent *parent, IOBatch ios) except -1
    cdef void _link(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef bint _child_ended(self, bdev_io *child) noexcept nogil
    cdef bint _differs(self, io_parent *parent, bdev_io *child) noexcept nogil
    cdef int _end(self, io_parent *parent) except -1
