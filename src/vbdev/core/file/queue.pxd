from vbdev.core.base.types cimport bdev_io, int32_t, int8_t, io_list, uint32_t, uint64_t
from vbdev.core.engine.batch cimport IoCore
from vbdev.core.file.job cimport FileJob, file_params, job_entry
from vbdev.core.file.uring cimport Ring


cdef enum:
    NUM_EPOCHS = 64

# One reactor's way to one file.
cdef struct file_state:
    file_params file
    int slot                    # in the ring's file table, or -1
    bint dsync                  # FUA writes carry RWF_DSYNC; less than `file.dsync` once refused
    int *sync_errno             # the OpenFile's, shared by all reactors
    int *refusals               # likewise
    uint64_t counts[NUM_EPOCHS]  # I/Os under way, by the number of RESETs that came before them
    uint64_t epoch
    uint64_t oldest_epoch       # of a RESET that waits
    bdev_io *reset_head         # RESETs, in order
    bdev_io *reset_tail
    bint syncing                # an fdatasync is under way
    bdev_io *sync_group         # I/Os that it answers, besides the one that carries it
    bdev_io *sync_head          # I/Os that need the next one
    bdev_io *sync_tail


# Reactors change what they share by atomic operations alone.
cdef class OpenFile:
    cdef file_params file       # as it was opened; `num_blocks` points below
    cdef uint64_t num_blocks
    cdef int sync_errno         # of the first sync that failed; set once
    cdef int sync_reported
    cdef int refusals           # REFUSES_*: what it has shown that it does not do
    cdef int num_paths          # FilePaths that are open


cdef class FileEngine:
    cdef IoCore core
    cdef readonly Ring ring
    cdef object host
    cdef uint32_t limit
    cdef readonly uint32_t under_way    # entries in the ring or with the kernel
    cdef readonly uint64_t queued       # I/Os that wait for room in the ring
    cdef bdev_io *queue_head
    cdef bdev_io *queue_tail
    cdef io_list offload                # I/Os for the workers, until the pass ends
    cdef bint stuck
    cdef bint for_disk                  # what is filled in goes past the page cache
    cdef bint sync_failed
    cdef set paths

    cdef void start(self, file_state *s, bdev_io *io) noexcept nogil
    cdef void start_reset(self, file_state *s, bdev_io *io) noexcept nogil
    cdef void start_abort(self, file_state *s, bdev_io *io) noexcept nogil
    cdef void to_ring(self, bdev_io *io) noexcept nogil
    cdef void to_worker(self, bdev_io *io) noexcept nogil
    cdef bint fill(self, bdev_io *io) noexcept nogil
    cdef void turn(self) noexcept nogil
    cdef void reap_all(self) noexcept nogil
    cdef void reaped(self, bdev_io *io, int32_t res) noexcept nogil
    cdef void worked(self, const job_entry *entry) noexcept nogil
    cdef void succeeded(self, bdev_io *io, bint durable) noexcept nogil
    cdef void failed(self, bdev_io *io, int err, bint dsync) noexcept nogil
    cdef void join_sync(self, file_state *s, bdev_io *io) noexcept nogil
    cdef void start_sync(self, file_state *s) noexcept nogil
    cdef void withdrawn(self, bdev_io *io) noexcept nogil
    cdef void synced(self, bdev_io *leader, int err, bint began) noexcept nogil
    cdef void answer(self, bdev_io *io, int err) noexcept nogil
    cdef void latch(self, file_state *s, int err) noexcept nogil
    cdef void finish(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil
    cdef int after_pass(self) except -1


cdef class FilePath:
    cdef file_state s
    cdef readonly FileEngine engine
    cdef readonly OpenFile open_file
    cdef bint open
