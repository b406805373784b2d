# The system calls of the file-backed bdevs. The io_uring structures and numbers are the kernel's
# ABI, written out here so that a build needs neither liburing nor recent kernel headers.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uint8_t

from vbdev.core.base.types cimport iovec


cdef extern from "unistd.h" nogil:
    int fdatasync(int fd)
    int64_t lseek(int fd, int64_t offset, int whence)
    int SEEK_DATA, SEEK_HOLE

cdef extern from "sys/syscall.h" nogil:
    long SYS_pwritev2, SYS_statx

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv(int fd, const iovec *iov, int count, int64_t offset)
    ssize_t pwritev(int fd, const iovec *iov, int count, int64_t offset)

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, int64_t offset, int64_t length)

cdef extern from "sys/vfs.h" nogil:
    ctypedef struct statfs_answer "struct statfs":
        long f_type
    int fstatfs(int fd, statfs_answer *answer)

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef enum:
    RWF_DSYNC = 2
    FALLOC_KEEP_SIZE = 1
    FALLOC_PUNCH_HOLE = 2
    FALLOC_ZERO_RANGE = 16
    BLKDISCARD = 0x1277
    BLKZEROOUT = 0x127f
    STATX_DIOALIGN = 0x2000
    AT_EMPTY_PATH = 0x1000
    IOV_LIMIT = 1024            # iovecs that one system call takes

# io_uring

cdef enum:
    SYS_IO_URING_SETUP = 425    # the same on every architecture that Linux has added since
    SYS_IO_URING_ENTER = 426
    SYS_IO_URING_REGISTER = 427

cdef enum:
    OFF_SQ_RING = 0
    OFF_SQES = 0x10000000

cdef enum:
    SETUP_CQSIZE = 1 << 3
    SETUP_CLAMP = 1 << 4
    SETUP_SUBMIT_ALL = 1 << 7
    SETUP_COOP_TASKRUN = 1 << 8
    SETUP_SINGLE_ISSUER = 1 << 12

cdef enum:
    FEAT_SINGLE_MMAP = 1 << 0
    FEAT_NODROP = 1 << 1
    FEAT_FAST_POLL = 1 << 5

cdef enum:
    REGISTER_FILES = 2
    REGISTER_FILES_UPDATE = 6
    REGISTER_BUFFERS2 = 15
    REGISTER_BUFFERS_UPDATE = 16
    RSRC_REGISTER_SPARSE = 1

cdef enum:
    RING_READV = 1
    RING_WRITEV = 2
    RING_FSYNC = 3
    RING_READ_FIXED = 4
    RING_WRITE_FIXED = 5
    RING_ASYNC_CANCEL = 14
    RING_READ = 22
    RING_WRITE = 23

cdef enum:
    SQE_FIXED_FILE = 1
    FSYNC_DATASYNC = 1

cdef struct sq_offsets:
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1
    uint64_t user_addr

cdef struct cq_offsets:
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1
    uint64_t user_addr

cdef struct uring_params:
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd
    uint32_t resv[3]
    sq_offsets sq_off
    cq_offsets cq_off

cdef struct uring_sqe:
    uint8_t opcode
    uint8_t flags
    uint16_t ioprio
    int32_t fd
    uint64_t off
    uint64_t addr
    uint32_t len
    uint32_t op_flags           # rw_flags, fsync_flags, cancel_flags
    uint64_t user_data
    uint16_t buf_index
    uint16_t personality
    int32_t file_index
    uint64_t addr3
    uint64_t pad

cdef struct uring_cqe:
    uint64_t user_data
    int32_t res
    uint32_t flags

cdef struct rsrc_register:
    uint32_t nr, flags
    uint64_t resv2, data, tags

cdef struct rsrc_update:
    uint32_t offset, resv
    uint64_t data, tags
    uint32_t nr, resv2

cdef struct files_update:
    uint32_t offset, resv
    uint64_t fds
