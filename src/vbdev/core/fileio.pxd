from vbdev.core.types cimport bdev_io, uint32_t, uint64_t, uint8_t


# What carrying out an I/O needs to know of its file.
cdef struct file_params:
    int fd
    int sync_fd             # the same file, opened once more: see filequeue.pyx
    uint32_t block_size
    const uint64_t *num_blocks  # the OpenFile's, which changes when the file is resized
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


cdef class FileJob:
    cdef job_entry *entries
    cdef readonly Py_ssize_t n

    cdef void run(self) noexcept nogil
