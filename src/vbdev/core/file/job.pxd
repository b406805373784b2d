from vbdev.core.base.types cimport bdev_io, uint32_t, uint64_t, uint8_t


# Calls that a file or device does not have, whatever their range.
cdef enum:
    REFUSES_PUNCH = 1       # FALLOC_FL_PUNCH_HOLE
    REFUSES_ZERO_RANGE = 2  # FALLOC_FL_ZERO_RANGE
    REFUSES_DISCARD = 4     # BLKDISCARD
    REFUSES_ZEROOUT = 8     # BLKZEROOUT

# What carrying out an I/O needs to know of its file.
cdef struct file_params:
    int fd
    int sync_fd             # the same file, opened once more: see file/queue.pyx
    uint32_t block_size
    const uint64_t *num_blocks  # the OpenFile's, which changes when the file is resized
    const int *refusals     # REFUSES_* that are known, the OpenFile's
    bint is_device
    bint direct
    bint dsync              # a direct write with RWF_DSYNC is stable when it returns

# One I/O of a FileJob: what a worker is told, and what it answers.
cdef struct job_entry:
    bdev_io *io             # read only, for a worker
    const file_params *file
    uint64_t done           # READ, WRITE: bytes already moved
    uint64_t result         # SEEK_*: a block offset
    int err                 # errno, 0 for success
    uint8_t sync            # make the file's data stable instead of what the I/O says
    uint8_t dsync           # WRITE: asked to be stable on return. Still set afterwards: it is.
    uint8_t not_begun       # no worker has had it
    int refusals            # REFUSES_*: what the file has shown that it does not do


cdef class FileJob:
    cdef job_entry *entries
    cdef readonly Py_ssize_t n

    cdef void run(self) noexcept nogil
