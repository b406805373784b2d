from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from vbdev.core.base.types cimport bdev_io, channel_state, iovec


cdef enum:
    MAX_EDGES = 2

# What a write that begins or ends inside a block needs beside its own data.
cdef struct io_edges:
    uint64_t unit               # blocks that are written at once, at the least
    size_t unit_bytes
    uint64_t at[MAX_EDGES]      # the first block of each unit that is written in part
    uint32_t n                  # of these, 1 or 2
    size_t head                 # bytes of the first unit in front of the data
    size_t tail                 # bytes of the last unit up to the data's end
    uint64_t inner              # the first of the blocks that are written as a whole
    uint64_t num_inner
    char *data                  # n units
    iovec *iovs                 # WRITE: the units, and the caller's data between them
    uint32_t iovcnt

cdef io_edges *edges_new(const channel_state *s, const bdev_io *io) noexcept nogil
cdef void edges_merge(io_edges *self, const bdev_io *io) noexcept nogil
cdef void edges_use(const io_edges *self, uint32_t index, bdev_io *child) noexcept nogil
cdef void edges_free(io_edges *self) noexcept nogil
