"""Edges: what a write in bytes reads, changes and writes back at its ends.

A WRITE or WRITE_ZEROES with IN_BYTES has `offset_blocks` and `num_blocks` of the blocks that it
touches, in `arg` how many bytes of them are in front of its data, and in `result` its length in
bytes. The blocks at its ends that it changes in part are read, get its bytes, and are written
with what is between them, while all of them are locked: so nobody else's bytes of these blocks are
lost. Where a bdev is written in units of several blocks, these are units. children.pyx drives it,
and bdev/control.py has the lock.

Memory: two units for each write that has its lock; one waits for no memory, because others may wait
for its lock with memory in their hands.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vbdev.core.base.types cimport OP_WRITE, io_block_bytes


cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **out, size_t alignment, size_t size)

cdef enum:
    ALIGNMENT = 4096            # what direct I/O asks for, so that nothing has to be moved


cdef io_edges *edges_new(const channel_state *s, const bdev_io *io) noexcept nogil:
    """Lay out the edges of a write in bytes; NULL without memory. `edges_free` is the caller's."""
    cdef io_edges *self = <io_edges *>calloc(1, sizeof(io_edges))
    cdef uint64_t last
    if self == NULL:
        return NULL
    self.unit = s.limits.write_unit if s.limits.write_unit else 1
    self.unit_bytes = self.unit * io_block_bytes(s, io)
    self.head = io.arg
    self.tail = (io.arg + io.result) % self.unit_bytes
    self.inner = io.offset_blocks
    self.num_inner = io.num_blocks
    last = io.offset_blocks + io.num_blocks - self.unit
    if self.head or (self.tail and io.num_blocks == self.unit):
        self.at[self.n] = io.offset_blocks
        self.n += 1
        self.inner += self.unit
        self.num_inner -= self.unit
    if self.tail and self.num_inner:
        self.at[self.n] = last
        self.n += 1
        self.num_inner -= self.unit
    self.iovs = <iovec *>calloc(io.iovcnt + MAX_EDGES, sizeof(iovec))
    if self.iovs == NULL or posix_memalign(
            <void **>&self.data, ALIGNMENT, self.n * self.unit_bytes):
        self.data = NULL
        edges_free(self)
        return NULL
    return self


cdef void edges_free(io_edges *self) noexcept nogil:
    if self != NULL:
        free(self.data)
        free(self.iovs)
        free(self)


cdef void edges_use(const io_edges *self, uint32_t index, bdev_io *child) noexcept nogil:
    """Let a child read, or write, one of the units."""
    child.offset_blocks = self.at[index]
    child.num_blocks = self.unit
    child.iov_inline[0].iov_base = self.data + index * self.unit_bytes
    child.iov_inline[0].iov_len = self.unit_bytes
    child.iovcnt = 1


cdef void edges_merge(io_edges *self, const bdev_io *io) noexcept nogil:
    """Put the write's bytes into the units that have been read; of a WRITE, make `iovs`."""
    cdef size_t first = 0, last = 0
    cdef uint32_t n = self.n
    cdef char *at_end
    if n == 0:
        return
    at_end = self.data + (n - 1) * self.unit_bytes
    # An edge is in front where the data does not begin with a whole unit, or is all in one.
    if self.at[0] == io.offset_blocks:
        first = self.unit_bytes - self.head
        if first > io.result:
            first = io.result
    if n == 2 or self.at[0] != io.offset_blocks:
        last = self.tail
    if io.op != OP_WRITE:
        memset(self.data + self.head, 0, first)
        memset(at_end, 0, last)
        return
    if first:
        copy_out(self.data + self.head, io, 0, first)
        add_piece(self, self.data, self.unit_bytes)
    add_data(self, io, first, io.result - first - last)
    if last:
        copy_out(at_end, io, io.result - last, last)
        add_piece(self, at_end, self.unit_bytes)


cdef inline void add_piece(io_edges *self, void *base, size_t length) noexcept nogil:
    self.iovs[self.iovcnt].iov_base = base
    self.iovs[self.iovcnt].iov_len = length
    self.iovcnt += 1


cdef void add_data(io_edges *self, const bdev_io *io, size_t skip, size_t length) noexcept nogil:
    """Add pieces of the write's own data, from byte `skip` on."""
    cdef uint32_t i
    cdef size_t n
    for i in range(io.iovcnt):
        if length == 0:
            return
        n = io.iovs[i].iov_len
        if skip >= n:
            skip -= n
            continue
        n -= skip
        if n > length:
            n = length
        add_piece(self, <char *>io.iovs[i].iov_base + skip, n)
        skip = 0
        length -= n


cdef void copy_out(char *to, const bdev_io *io, size_t skip, size_t length) noexcept nogil:
    """Copy bytes of the write's data, from byte `skip` on."""
    cdef uint32_t i
    cdef size_t n
    for i in range(io.iovcnt):
        if length == 0:
            return
        n = io.iovs[i].iov_len
        if skip >= n:
            skip -= n
            continue
        n -= skip
        if n > length:
            n = length
        memcpy(to, <char *>io.iovs[i].iov_base + skip, n)
        to += n
        skip = 0
        length -= n
