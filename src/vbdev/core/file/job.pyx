"""FileJob: I/Os carried out with blocking system calls, by a worker thread without the GIL.

What has no asynchronous form (fallocate, ioctl, lseek) goes this way, what the ring left half
done, and everything where the kernel forbids io_uring. A worker reads the I/Os and writes its
answers beside them, into the job; what they mean for the I/Os is decided on the reactor's thread.
"""

from libc.errno cimport (
    EACCES,
    EINTR,
    EINVAL,
    EIO,
    ENODEV,
    ENOSYS,
    ENOTTY,
    ENXIO,
    EOPNOTSUPP as ENOTSUP,
    EPERM,
    errno,
)
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strerror

from vbdev.core.base.atomics cimport __ATOMIC_ACQUIRE, atomic_load_64, atomic_load_int
from vbdev.core.base.calls cimport syscall
from vbdev.core.base.mapping cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, mmap
from vbdev.core.base.types cimport (
    FLAG_FAST_ZERO,
    FLAG_NO_HOLE,
    OP_READ,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    iovec,
)
from vbdev.core.file.uring_abi cimport (
    AT_EMPTY_PATH,
    BLKDISCARD,
    BLKZEROOUT,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
    RWF_DSYNC,
    SEEK_DATA,
    SEEK_HOLE,
    STATX_DIOALIGN,
    SYS_pwritev2,
    SYS_statx,
    fallocate as sys_fallocate,
    fdatasync,
    fstatfs,
    ioctl,
    lseek,
    preadv,
    pwritev,
    statfs_answer,
)

cdef enum:
    WINDOW = 64             # iovecs that one call of a transfer takes
    ZERO_BYTES = 1 << 20

# Read-only, private and never written: all of it is the kernel's one page of zeroes. Pages are
# aligned enough for O_DIRECT.
cdef char *zeroes = <char *>mmap(NULL, ZERO_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
if <void *>zeroes == MAP_FAILED:
    raise MemoryError("no address space for a region of zeroes")


cdef class FileJob:
    """Some I/Os for one worker. `execute` blocks; nothing else touches the job meanwhile."""

    def __cinit__(self, Py_ssize_t n):
        self.entries = <job_entry *>calloc(n, sizeof(job_entry))
        if self.entries == NULL:
            raise MemoryError
        self.n = n

    def __dealloc__(self):
        free(self.entries)

    def __len__(self):
        return self.n

    def execute(self):
        """Carry out every I/O. The answers are in the job; no I/O is completed."""
        with nogil:
            self.run()

    def refuse(self, int number):
        """Answer every I/O with an errno instead of carrying it out."""
        cdef Py_ssize_t i
        for i in range(self.n):
            self.entries[i].err = number
            self.entries[i].not_begun = 1

    cdef void run(self) noexcept nogil:
        cdef Py_ssize_t i
        cdef job_entry *entry
        for i in range(self.n):
            entry = &self.entries[i]
            if entry.sync:
                entry.err = sync_data(entry.file.sync_fd)
            elif entry.io.op == OP_READ or entry.io.op == OP_WRITE:
                entry.err = transfer(entry)
            elif entry.io.op == OP_WRITE_ZEROES:
                entry.err = write_zeroes(entry)
            elif entry.io.op == OP_UNMAP:
                entry.err = unmap(entry)
            elif entry.io.op == OP_SEEK_DATA or entry.io.op == OP_SEEK_HOLE:
                entry.err = seek(entry)
            else:
                entry.err = ENOTSUP


cdef int sync_data(int fd) noexcept nogil:
    while fdatasync(fd) < 0:
        if errno != EINTR:
            return errno
    return 0


cdef int transfer(job_entry *entry) noexcept nogil:
    """Move what is left of a READ or WRITE; a call that stops short is followed by another."""
    cdef iovec window[WINDOW]
    cdef bdev_io *io = entry.io
    cdef uint64_t at = io.offset_blocks * entry.file.block_size
    cdef uint64_t skip = entry.done
    cdef uint64_t done = entry.done
    cdef uint32_t i = 0
    cdef int count
    cdef int64_t moved
    while True:
        while i < io.iovcnt and skip >= io.iovs[i].iov_len:
            skip -= io.iovs[i].iov_len
            i += 1
        if i == io.iovcnt:
            return 0
        count = 0
        while count < WINDOW and i + count < io.iovcnt:
            window[count] = io.iovs[i + count]
            count += 1
        window[0].iov_base = <char *>window[0].iov_base + skip
        window[0].iov_len -= skip
        if io.op == OP_READ:
            moved = preadv(entry.file.fd, window, count, at + done)
        elif entry.dsync:
            moved = syscall(SYS_pwritev2, entry.file.fd, <void *>window, <long>count,
                            <long>(at + done), <long>0, <long>RWF_DSYNC)
            if moved < 0 and (
                    errno == ENOTSUP or errno == ENOSYS or errno == EINVAL and done == 0):
                # A file system without RWF_DSYNC, or a kernel or sandbox without the call: an
                # fdatasync follows. One that objects to something else says so again.
                entry.dsync = 0
                continue
        else:
            moved = pwritev(entry.file.fd, window, count, at + done)
        if moved < 0:
            if errno == EINTR:
                continue
            # O_DIRECT refuses to go on in the middle of a block, where a file that was cut
            # short ends.
            return EIO if errno == EINVAL and done else errno
        if moved == 0:
            return EIO  # the file has been cut short under us
        done += moved
        skip += moved


cdef int allocate(const file_params *file, int mode, uint64_t at, uint64_t length) noexcept nogil:
    while sys_fallocate(file.fd, mode | FALLOC_KEEP_SIZE, at, length) < 0:
        if errno != EINTR:
            return errno
    return 0


cdef int device_range(
        const file_params *file, unsigned long request, uint64_t at, uint64_t length
) noexcept nogil:
    cdef uint64_t span[2]
    span[0] = at
    span[1] = length
    return errno if ioctl(file.fd, request, span) < 0 else 0


# What a file system, a driver or a filter in front of them answers to a call that it does not have
# is its own affair: all of these are common. Such a call is not made again.
cdef inline bint is_missing(int err) noexcept nogil:
    return err == ENOTSUP or err == ENOSYS or err == ENOTTY or err == ENODEV


# Of these the range may be the reason, or who asks (a sandbox): another way is tried, this time.
cdef inline bint is_declined(int err) noexcept nogil:
    return is_missing(err) or err == EINVAL or err == EPERM or err == EACCES


cdef inline bint known_refused(const job_entry *entry, int what) noexcept nogil:
    return (atomic_load_int(entry.file.refusals, __ATOMIC_ACQUIRE) | entry.refusals) & what != 0


cdef inline int noted(job_entry *entry, int what, int err) noexcept nogil:
    if is_missing(err):
        entry.refusals |= what
    return err


cdef int punch(job_entry *entry, uint64_t at, uint64_t length) noexcept nogil:
    if known_refused(entry, REFUSES_PUNCH):
        return ENOTSUP
    return noted(entry, REFUSES_PUNCH, allocate(entry.file, FALLOC_PUNCH_HOLE, at, length))


cdef int unmap(job_entry *entry) noexcept nogil:
    """Give blocks back. Where that is not to be had nothing is done: what they hold is undefined.

    (SPDK: spdk_bdev_unmap; nothing is written, because clients trim whole disks.)
    """
    cdef uint64_t at = entry.io.offset_blocks * entry.file.block_size
    cdef uint64_t length = entry.io.num_blocks * entry.file.block_size
    cdef int err = ENOTSUP
    if not entry.file.is_device:
        err = punch(entry, at, length)
    elif not known_refused(entry, REFUSES_DISCARD):
        err = noted(entry, REFUSES_DISCARD, device_range(entry.file, BLKDISCARD, at, length))
    return 0 if is_missing(err) or err == EINVAL else err


cdef int write_zeroes(job_entry *entry) noexcept nogil:
    """Zero a range the cheapest way that its flags allow, and that is to be had.

    A hole reads as zeroes and costs nothing, but a later write may find no space: NO_HOLE forbids
    it. On a device, punching is the zeroing that deallocates and never falls back to writing.
    FAST_ZERO is refused where zeroes would have to be written, or might be.
    """
    cdef const file_params *file = entry.file
    cdef uint64_t at = entry.io.offset_blocks * file.block_size
    cdef uint64_t length = entry.io.num_blocks * file.block_size
    cdef int err = ENOTSUP
    if not entry.io.flags & FLAG_NO_HOLE:
        err = punch(entry, at, length)
    if is_declined(err) and not file.is_device and not known_refused(entry, REFUSES_ZERO_RANGE):
        err = noted(entry, REFUSES_ZERO_RANGE, allocate(file, FALLOC_ZERO_RANGE, at, length))
    if not is_declined(err):
        return err
    if entry.io.flags & FLAG_FAST_ZERO:
        return ENOTSUP
    if file.is_device and not known_refused(entry, REFUSES_ZEROOUT):
        err = noted(entry, REFUSES_ZEROOUT, device_range(file, BLKZEROOUT, at, length))
        if not is_declined(err):
            return err
    return write_plain_zeroes(file.fd, at, length)


cdef int write_plain_zeroes(int fd, uint64_t at, uint64_t length) noexcept nogil:
    cdef iovec piece
    cdef int64_t moved
    piece.iov_base = zeroes
    while length:
        piece.iov_len = length if length < ZERO_BYTES else ZERO_BYTES
        moved = pwritev(fd, &piece, 1, at)
        if moved < 0:
            if errno == EINTR:
                continue
            return errno
        if moved == 0:
            return EIO
        at += moved
        length -= moved
    return 0


cdef int seek(job_entry *entry) noexcept nogil:
    """Find data, or a hole, in whole blocks: a block with any data in it is data."""
    cdef const file_params *file = entry.file
    cdef uint64_t block = entry.io.offset_blocks
    cdef uint64_t num_blocks = atomic_load_64(file.num_blocks, __ATOMIC_ACQUIRE)
    cdef bint data = entry.io.op == OP_SEEK_DATA
    cdef int64_t found = -1
    while True:
        if block >= num_blocks:
            break
        found = lseek(file.fd, block * file.block_size, SEEK_DATA if data else SEEK_HOLE)
        if found < 0:
            if errno == ENXIO:
                break
            if not is_declined(errno):
                return errno
            entry.result = block if data else num_blocks  # all is data, then
            return 0
        if data:
            block = <uint64_t>found // file.block_size
            break
        if <uint64_t>found <= block * file.block_size:
            break
        # A hole that begins inside a block: does it last until the next one?
        block = (<uint64_t>found + file.block_size - 1) // file.block_size
        if block * file.block_size == <uint64_t>found:
            break
    # No data behind: there is none. No hole behind: the end counts as one.
    if data and (found < 0 or block >= num_blocks):
        entry.result = <uint64_t>-1
    else:
        entry.result = block if block < num_blocks else num_blocks
    return 0


# Probes, for whoever opens a file

def dio_alignment(int fd):
    """Return (memory, offset) alignment in bytes that O_DIRECT needs, (0, 0) where it is refused.

    None where the kernel or the file system does not say (before Linux 6.1; tmpfs).
    """
    cdef char answer[256]
    cdef uint32_t mask, memory, offset
    cdef long done
    with nogil:  # here as below: a mount that hangs must not keep the interpreter
        done = syscall(SYS_statx, <long>fd, "", <long>AT_EMPTY_PATH,
                       <long>STATX_DIOALIGN, <void *>answer)
    if done < 0:
        return None
    memcpy(&mask, answer, 4)
    if not mask & STATX_DIOALIGN:
        return None
    memcpy(&memory, answer + 0x98, 4)  # stx_dio_mem_align
    memcpy(&offset, answer + 0x9c, 4)  # stx_dio_offset_align
    return memory, offset


def file_system_type(int fd):
    """Return the magic number of the file system that `fd` is on (f_type of statfs(2))."""
    cdef statfs_answer answer
    cdef int failed = 0
    with nogil:
        while fstatfs(fd, &answer) < 0:
            if errno != EINTR:
                failed = errno
                break
    if failed:
        raise OSError(failed, strerror(failed).decode())
    return <uint32_t>answer.f_type


def can_punch(int fd, uint64_t size):
    """Say whether the file system can punch holes in the regular file `fd` of `size` bytes.

    Tried a good way beyond its end, with KEEP_SIZE: there is nothing there to change.
    """
    cdef bint done
    with nogil:
        done = sys_fallocate(
            fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, size + (1 << 20), 4096) == 0
    return done
