"""What layers do with protection information: move its reference tags along with the blocks.

A layer that shifts offsets changes what the reference tags of types 1 and 2 have to say. It calls
`remap_down` before it shifts a batch, and `remap_up` from its `completed`:

    def submit(self, channel, ios):
        remap_down(ios, self.dif, self.offset_blocks)
        ios.shift(self.offset_blocks)
        channel.base.submit(ios)

    def completed(self, channel, ios):
        remap_up(ios, self.dif, self.offset_blocks)

Both do nothing where there are no reference tags (`dif` None, type 3, not checked), or where the
submitter leaves that check out: then they are its own. A tag that is not the block's fails the I/O
as an NVMe disk does, before it is moved.
"""

from libc.errno cimport EINVAL
from libc.stdint cimport int32_t, int64_t, int8_t, uint64_t

from vbdev.core.base.types cimport (
    IO_FAILED,
    IO_NVME_ERROR,
    IO_SUCCESS,
    OP_COMPARE,
    OP_READ,
    OP_WRITE,
    bdev_io,
)
from vbdev.core.engine.batch cimport IOBatch
from vbdev.core.memory.dif cimport (
    DIF_REFTAG,
    DIF_SHORT,
    Dif,
    dif_error,
    dif_layout,
    dif_remap,
    nvme_error_of,
)


cdef inline bint has_ref_tags(const dif_layout *layout, const bdev_io *io) noexcept nogil:
    return (layout.checks & DIF_REFTAG & ~io.dif_exclude and layout.type != 3
            and (layout.interleaved or io.md != NULL))


cdef int32_t move_tags(bdev_io *io, const dif_layout *layout, uint64_t old,
                       uint64_t new) noexcept nogil:
    """Return 0, or what is wrong: an errno, or sct and sc."""
    cdef dif_error error
    cdef int failed = dif_remap(
        layout, io.iovs, io.iovcnt, io.md, io.num_blocks, old, new, True, &error)
    if failed == DIF_SHORT:
        return EINVAL
    return nvme_error_of(failed) if failed else 0


def remap_down(IOBatch ios not None, Dif dif, int64_t delta_blocks):
    """Give the blocks that go down the reference tags of `delta_blocks` further on.

    Done on a private copy of data and metadata, which the way up undoes. I/Os for which there is
    no memory leave the batch and come to `submit` again; those whose tags are wrong leave it too,
    and complete.
    """
    cdef Py_ssize_t i, kept = 0
    cdef bdev_io *io
    cdef int32_t err
    if dif is None or not dif.layout.checks & DIF_REFTAG or dif.layout.type == 3:
        return
    ios.copy_data(OP_WRITE, OP_COMPARE)
    for i in range(ios.n):
        io = ios.v[i]
        if (io.op == OP_WRITE or io.op == OP_COMPARE) and has_ref_tags(&dif.layout, io):
            err = move_tags(
                io, &dif.layout, io.offset_blocks, io.offset_blocks + <uint64_t>delta_blocks)
            if err:
                ios.core.push_done(
                    io, <int8_t>(IO_NVME_ERROR if err > 0xff else IO_FAILED), err)
                continue
        ios.v[kept] = io
        kept += 1
    ios.n = kept


def remap_up(IOBatch ios not None, Dif dif, int64_t delta_blocks):
    """Give the blocks that were read the reference tags of where their reader finds them."""
    cdef Py_ssize_t i
    cdef bdev_io *io
    cdef int32_t err
    if dif is None:
        return
    for i in range(ios.n):
        io = ios.v[i]
        if io.op != OP_READ or io.status != IO_SUCCESS or not has_ref_tags(&dif.layout, io):
            continue
        err = move_tags(
            io, &dif.layout, io.offset_blocks + <uint64_t>delta_blocks, io.offset_blocks)
        if err:
            io.status = <int8_t>(IO_NVME_ERROR if err > 0xff else IO_FAILED)
            io.err = err
