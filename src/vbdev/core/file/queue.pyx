"""FileEngine: how one reactor carries out I/O on files, through its ring or its workers.

One room: an I/O goes from the ring to a worker and back, at any step of it, and whoever has it has
to know both.

READ, WRITE and the data sync ride the ring: a batch becomes entries, and one system call hands
them all to the kernel; or a few calls do, the first with one I/O, where a disk would have nothing
to do until all are prepared (O_DIRECT, nothing under way). What the ring has no room for waits in
order. What may block (fallocate, ioctl, lseek), what the ring left half done, and everything where
there is no ring, goes to worker threads as FileJobs.

Durability. A FLUSH is an fdatasync that begins after the FLUSH arrived, so it covers all that was
acknowledged before. One fdatasync runs at a time for each file, and the next one answers everybody
who came meanwhile. A FUA write carries RWF_DSYNC where the file is opened with O_DIRECT and its
file system is known to keep what the flag says (`dsync` of OpenFile: many do not). Any other FUA
(other writes, zeroes, unmaps) is carried out and then joins the next fdatasync.

The reason for both rules is how Linux reports a failed write-back: once to each open file
description, to whichever caller asks first, and the pages count as clean afterwards. Of two
concurrent syncs through one description the second may succeed although data is lost. So the
syncs of each reactor have a description of their own (`sync_fd`), and go through it one at a
time. O_DIRECT writes learn of their own errors directly.

And when a sync has failed once, the data that it was about is gone, and no later fdatasync will
say so. The failure is therefore kept with the OpenFile: every later FLUSH and FUA fails with EIO,
until somebody who knows what was lost makes the bdev anew.

A write that failed is no sync that failed: nothing acknowledged is in question; FLUSH goes on to
be true. With RWF_DSYNC one call is both, and one errno has to say which (`blame`). What never
began (no thread to be had, a ring that the kernel closed) has not failed either.

What must not be broken:
- an I/O is in one place: the queue, the ring, a job, or a sync list; `leaf_value` says which;
- every I/O leaves through `finish`, which counts it out of its epoch;
- workers see FileJobs and change nothing else.
"""

from libc.errno cimport (
    EACCES,
    EAGAIN,
    EBADF,
    EBUSY,
    EFAULT,
    EFBIG,
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP as ENOTSUP,
    EPERM,
    EROFS,
    ETXTBSY,
)
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint32_t, uint64_t
from libc.stdlib cimport abort

from vbdev.core.base.atomics cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_RELEASE,
    __ATOMIC_SEQ_CST,
    atomic_add_int,
    atomic_exchange_int,
    atomic_load_int,
    atomic_or_int,
    atomic_replace_int,
    atomic_store_32,
    atomic_store_64,
)
from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.types cimport (
    FLAG_FUA,
    IO_ABORTED,
    IO_AIO_ERROR,
    IO_FAILED,
    IO_SUBMITTED,
    IO_SUCCESS,
    OP_ABORT,
    OP_FLUSH,
    OP_READ,
    OP_RESET,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    bdev_io,
    buffer_ref,
    io_data_bytes,
    io_list_free,
    io_list_reserve,
)
from vbdev.core.engine.batch cimport IOBatch, IoCore
from vbdev.core.file.uring cimport next_cqe
from vbdev.core.file.uring_abi cimport (
    FSYNC_DATASYNC,
    IOV_LIMIT,
    RING_ASYNC_CANCEL,
    RING_FSYNC,
    RING_READ,
    RING_READV,
    RING_READ_FIXED,
    RING_WRITE,
    RING_WRITEV,
    RING_WRITE_FIXED,
    RWF_DSYNC,
    SQE_FIXED_FILE,
    uring_cqe,
    uring_sqe,
)
from vbdev.core.memory.buffers cimport SLAB_BYTES


cdef extern from "errno.h" nogil:
    int ECANCELED, EDQUOT

# `leaf_value` of an I/O that is held here: bytes done below, then these, then its epoch's number.
# With DOUBT_BIT it is a write that failed, whose errno stands where the bytes done were: it waits
# for a sync to tell whether more has failed than it.
cdef enum:
    DOUBT_BIT = 51
    PLACE_SHIFT = 52
    DSYNC_BIT = 55
    EPOCH_SHIFT = 56
    # Places
    IN_QUEUE = 0        # waits for room in the ring
    IN_RING = 1
    IN_JOB = 2
    IN_SYNC = 3         # waits for the next fdatasync
    SYNCING = 4         # carries an fdatasync, or waits for the one under way

cdef enum:
    MAX_ROUNDS = 4      # of one pass through submission and completion
    RESERVED_CQES = 2   # for aborts, which can not wait: their victims may be gone by then

cdef enum Blame:
    THE_WRITE = 0
    THE_SYNC = 1
    EITHER = 2

cdef uint64_t DONE_MASK = (<uint64_t>1 << DOUBT_BIT) - 1
cdef uint64_t DOUBT_MASK = <uint64_t>1 << DOUBT_BIT
cdef uint64_t PLACE_MASK = <uint64_t>7 << PLACE_SHIFT
cdef uint64_t DSYNC_MASK = <uint64_t>1 << DSYNC_BIT


cdef inline int place(const bdev_io *io) noexcept nogil:
    return <int>((io.leaf_value >> PLACE_SHIFT) & 7)


cdef inline void set_place(bdev_io *io, uint64_t where) noexcept nogil:
    io.leaf_value = (io.leaf_value & ~PLACE_MASK) | where << PLACE_SHIFT


cdef inline uint64_t wanted_bytes(const bdev_io *io) noexcept nogil:
    return io.num_blocks * (<file_state *>io.leaf).file.block_size


cdef inline bint has_failed(const file_state *s) noexcept nogil:
    # Whether a sync of the file has failed, on any reactor.
    return atomic_load_int(s.sync_errno, __ATOMIC_ACQUIRE) != 0


cdef inline bint wants_fua(const bdev_io *io) noexcept nogil:
    return io.flags & FLAG_FUA and (
        io.op == OP_WRITE or io.op == OP_WRITE_ZEROES or io.op == OP_UNMAP)


cdef inline Blame blame(int err) noexcept nogil:
    """Say what has failed of a write with RWF_DSYNC: the write before its sync, or the sync."""
    # The checks at the entrance (generic_write_checks, RLIMIT_FSIZE, seals, read-only devices), or
    # a job that no worker took: nothing was synced yet.
    if (err == EINVAL or err == EBADF or err == EFAULT or err == ENOTSUP or err == EFBIG
            or err == EPERM or err == EACCES or err == ETXTBSY or err == EAGAIN or err == ENOSYS):
        return THE_WRITE
    # No room for the write's own blocks; or for those of earlier ones, which were to be written
    # now. The next fdatasync knows: it has a description of its own, to which nobody has said it.
    if err == ENOSPC or err == EDQUOT or err == EROFS or err == ENOMEM:
        return EITHER
    return THE_SYNC


cdef bint list_remove(bdev_io **head, bdev_io **tail, bdev_io *io) noexcept nogil:
    cdef bdev_io *before = NULL
    cdef bdev_io *at = head[0]
    while at != NULL and at != io:
        before = at
        at = at.next
    if at == NULL:
        return False
    if before == NULL:
        head[0] = io.next
    else:
        before.next = io.next
    if tail[0] == io:
        tail[0] = before
    return True


cdef inline void list_append(bdev_io **head, bdev_io **tail, bdev_io *io) noexcept nogil:
    io.next = NULL
    if head[0] == NULL:
        head[0] = io
    else:
        tail[0].next = io
    tail[0] = io


cdef class OpenFile:
    """A file that a bdev has open, as all reactors share it. The descriptors stay the opener's.

    Parameters
    ----------
    fd: for data. direct: it has O_DIRECT.
    dsync: a direct write with RWF_DSYNC is stable when it returns, in the ring too. Without it
        an fdatasync follows each FUA write.

    """

    def __cinit__(self, int fd, *, uint32_t block_size, uint64_t num_blocks,
                  bint is_device, bint direct, bint dsync=False):
        self.file.fd = fd
        self.file.sync_fd = -1
        self.file.block_size = block_size
        self.num_blocks = num_blocks
        self.file.num_blocks = &self.num_blocks
        self.file.refusals = &self.refusals
        self.file.is_device = is_device
        self.file.direct = direct
        self.file.dsync = direct and dsync

    @property
    def fd(self):
        """The descriptor for data."""
        return self.file.fd

    @property
    def dsync(self):
        """Whether FUA writes carry RWF_DSYNC."""
        return bool(self.file.dsync)

    @property
    def failed_sync_errno(self):
        """The errno of the first sync that failed, 0 as long as none has."""
        return atomic_load_int(&self.sync_errno, __ATOMIC_ACQUIRE)

    def resize(self, uint64_t num_blocks):
        """Follow the file's size, on all reactors."""
        atomic_store_64(&self.num_blocks, num_blocks, __ATOMIC_RELEASE)


cdef class FileEngine:
    """One reactor's I/O on files. Belongs to that reactor's thread.

    Parameters
    ----------
    core: the reactor's Engine. ring: None to carry out everything on workers.
    host: has `start_jobs(jobs)`, which executes each FileJob on a worker and then calls
        `finish_job` here; `sync_failed(open_file)`, called once for each file; `stuck()`,
        called when the kernel has no room and nothing is under way whose end would make
        some: call `retry` a little later; and `reset(path, ios)`, called with RESETs of a file
        that other reactors use too: call `path.reset(ios)` when what they had is done.

    """

    def __init__(self, IoCore core not None, Ring ring, host):
        self.core = core
        self.ring = ring
        self.host = host
        self.paths = set()
        if ring is not None:
            # A completion always finds room: no more may be under way than fit.
            self.limit = ring.cq_entries - RESERVED_CQES

    def __dealloc__(self):
        io_list_free(&self.offload)

    # Going in

    cdef void start(self, file_state *s, bdev_io *io) noexcept nogil:
        if io.op == OP_RESET:
            self.start_reset(s, io)
            return
        io.leaf = s
        io.leaf_value = (s.epoch % NUM_EPOCHS) << EPOCH_SHIFT
        s.counts[s.epoch % NUM_EPOCHS] += 1
        if io.op == OP_ABORT:
            self.start_abort(s, io)
        elif (io.op == OP_FLUSH or wants_fua(io)) and has_failed(s):
            self.finish(io, IO_AIO_ERROR, EIO)
        elif io.op == OP_READ or io.op == OP_WRITE:
            if io_data_bytes(io) != wanted_bytes(io):
                self.finish(io, IO_FAILED, EINVAL)  # it would leave its range, or the file
            elif io.num_blocks == 0:
                self.succeeded(io, True)
            elif self.ring is not None and io.iovcnt <= IOV_LIMIT:
                self.to_ring(io)
            else:
                self.to_worker(io)
        elif io.op == OP_FLUSH:
            self.join_sync(s, io)
        elif io.num_blocks == 0 and io.op != OP_SEEK_DATA and io.op != OP_SEEK_HOLE:
            self.succeeded(io, True)
        else:
            self.to_worker(io)

    cdef void to_worker(self, bdev_io *io) noexcept nogil:
        if not io_list_reserve(&self.offload, 1):
            abort()  # no memory for 8 bytes: an I/O must never be lost silently
        if place(io) != SYNCING:
            set_place(io, IN_JOB)
        self.offload.v[self.offload.n] = io
        self.offload.n += 1

    cdef void to_ring(self, bdev_io *io) noexcept nogil:
        # Behind those that wait already, so that none waits for ever.
        if self.queue_head == NULL and self.under_way < self.limit and self.fill(io):
            return
        list_append(&self.queue_head, &self.queue_tail, io)
        self.queued += 1

    cdef bint fill(self, bdev_io *io) noexcept nogil:
        """Make an I/O a ring entry; False when the submission queue stays full."""
        cdef file_state *s = <file_state *>io.leaf
        cdef uring_sqe *sqe = self.ring.next_sqe()
        cdef buffer_ref *buf
        cdef char *slab
        cdef char *base
        cdef size_t length
        cdef bint read = io.op == OP_READ
        if sqe == NULL:
            self.ring.enter(False)
            sqe = self.ring.next_sqe()
            if sqe == NULL:
                return False
        self.under_way += 1
        sqe.user_data = <uint64_t>io
        if io.op == OP_ABORT:
            sqe.opcode = RING_ASYNC_CANCEL
            sqe.fd = -1
            sqe.addr = <uint64_t>io.victim
            set_place(io, IN_RING)
            return True
        if place(io) == SYNCING:
            sqe.opcode = RING_FSYNC
            sqe.fd = s.file.sync_fd
            sqe.op_flags = FSYNC_DATASYNC
            return True
        set_place(io, IN_RING)
        self.for_disk |= s.file.direct
        sqe.off = io.offset_blocks * s.file.block_size
        if s.slot >= 0:
            sqe.fd = s.slot
            sqe.flags = SQE_FIXED_FILE
        else:
            sqe.fd = s.file.fd
        if not read and s.dsync and io.flags & FLAG_FUA:
            sqe.op_flags = RWF_DSYNC
            io.leaf_value |= DSYNC_MASK
        if io.iovcnt != 1 or io.iovs[0].iov_len > 0x7ffff000:
            sqe.opcode = RING_READV if read else RING_WRITEV
            sqe.addr = <uint64_t>io.iovs
            sqe.len = io.iovcnt
            return True
        base = <char *>io.iovs[0].iov_base
        length = io.iovs[0].iov_len
        sqe.opcode = RING_READ if read else RING_WRITE
        sqe.addr = <uint64_t>base
        sqe.len = <uint32_t>length
        # A pinned buffer spares O_DIRECT a walk of the page tables. The I/O's own buffer says
        # which slab to look at; its data may still be elsewhere.
        buf = &io.buf if io.bounce == NULL else &io.bounce.buf
        if (s.file.direct and buf.size_class >= 0 and 0 <= buf.slab
                and buf.slab < self.ring.registered_slabs):
            slab = self.core.buffers.slabs[buf.slab]
            if slab <= base and base + length <= slab + SLAB_BYTES:
                sqe.opcode = RING_READ_FIXED if read else RING_WRITE_FIXED
                sqe.buf_index = buf.slab
        return True

    cdef void turn(self) noexcept nogil:
        """Hand over what is filled, take what has completed, fill from the queue; again."""
        cdef int round, err
        cdef bdev_io *io
        cdef uring_sqe *sqe
        if self.ring is None:
            return
        for round in range(MAX_ROUNDS):
            if self.ring.to_submit:
                err = self.ring.enter(self.for_disk and self.under_way == self.ring.to_submit)
                self.for_disk = False
                if err == EAGAIN or err == EBUSY or err == ENOMEM:
                    # The kernel is short of memory. Completions free some; without any to
                    # come, time has to.
                    self.reap_all()
                    self.stuck = self.under_way == self.ring.to_submit
                    return
                while err:
                    # It takes nothing from this ring any more. What it never saw is ours again.
                    sqe = self.ring.withdraw()
                    if sqe == NULL:
                        break
                    self.withdrawn(<bdev_io *>sqe.user_data)
            if round == MAX_ROUNDS - 1:
                break  # what was handed over just now calls us again
            self.reap_all()
            while self.queue_head != NULL and self.under_way < self.limit:
                io = self.queue_head
                if not self.fill(io):
                    break
                self.queue_head = io.next
                self.queued -= 1
            if self.ring.to_submit == 0:
                break
        self.stuck = self.queue_head != NULL and self.under_way == 0

    # Coming out

    cdef void reap_all(self) noexcept nogil:
        cdef uring_cqe *cqe = next_cqe(self.ring)
        cdef bdev_io *io
        cdef int32_t res
        while cqe != NULL:
            io = <bdev_io *>cqe.user_data
            res = cqe.res
            # Given back before anything else: what follows may submit, and completions need room.
            atomic_store_32(self.ring.cq_head, self.ring.cq_head[0] + 1, __ATOMIC_RELEASE)
            self.reaped(io, res)
            cqe = next_cqe(self.ring)

    cdef void withdrawn(self, bdev_io *io) noexcept nogil:
        """Take back an I/O that the kernel has not seen. A worker carries it out instead."""
        self.under_way -= 1
        io.leaf_value &= ~DSYNC_MASK
        if io.op == OP_ABORT:
            self.finish(io, IO_FAILED, 0)
        else:
            self.to_worker(io)

    cdef void reaped(self, bdev_io *io, int32_t res) noexcept nogil:
        """Take an I/O out of the ring, with what the kernel said of it."""
        cdef file_state *s = <file_state *>io.leaf
        cdef bint dsync = io.leaf_value & DSYNC_MASK != 0
        self.under_way -= 1
        if io.op == OP_ABORT:
            # Anything but 0: its victim was not there, or too far on to be called back.
            self.finish(io, IO_SUCCESS if res == 0 else IO_FAILED, 0)
        elif res == -EAGAIN or res == -EINTR:
            # A blocking call makes progress where asking the ring again might not.
            self.to_worker(io)
        elif place(io) == SYNCING:
            self.synced(io, -res if res < 0 else 0, True)
        elif res == -ECANCELED:
            self.finish(io, IO_ABORTED, 0)
        elif res == -ENOTSUP and dsync:
            s.dsync = False
            self.to_worker(io)
        elif res < 0:
            self.failed(io, -res, dsync)
        elif <uint64_t>res == wanted_bytes(io):
            self.succeeded(io, dsync)
        elif res == 0:
            self.failed(io, EIO, False)  # the file has been cut short under us
        else:
            io.leaf_value += <uint64_t>res
            self.to_worker(io)

    cdef void worked(self, const job_entry *entry) noexcept nogil:
        """Take an I/O back from a worker."""
        cdef bdev_io *io = entry.io
        if entry.refusals:
            atomic_or_int((<file_state *>io.leaf).refusals, entry.refusals, __ATOMIC_SEQ_CST)
        if entry.sync:
            self.synced(io, entry.err, not entry.not_begun)
        elif entry.err:
            self.failed(io, entry.err, entry.dsync)
        else:
            if io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
                io.result = entry.result
            elif io.leaf_value & DSYNC_MASK and not entry.dsync:
                (<file_state *>io.leaf).dsync = False
            self.succeeded(io, entry.dsync)

    cdef void succeeded(self, bdev_io *io, bint durable) noexcept nogil:
        cdef file_state *s = <file_state *>io.leaf
        if not wants_fua(io):
            self.finish(io, IO_SUCCESS, 0)
        elif has_failed(s):
            self.finish(io, IO_AIO_ERROR, EIO)
        elif durable:
            self.finish(io, IO_SUCCESS, 0)
        else:
            self.join_sync(s, io)

    cdef void failed(self, bdev_io *io, int err, bint dsync) noexcept nogil:
        cdef file_state *s = <file_state *>io.leaf
        cdef Blame who
        if dsync:
            who = blame(err)
            if who == EITHER and not has_failed(s):
                io.leaf_value = (io.leaf_value & ~DONE_MASK) | DOUBT_MASK | <uint64_t>err
                self.join_sync(s, io)
                return
            if who == THE_SYNC:
                self.latch(s, err)
        self.finish(io, IO_AIO_ERROR, err)

    cdef void finish(self, bdev_io *io, int8_t status, int32_t err) noexcept nogil:
        """Complete an I/O, and the RESETs that waited for it."""
        cdef file_state *s = <file_state *>io.leaf
        cdef bdev_io *reset
        s.counts[io.leaf_value >> EPOCH_SHIFT] -= 1
        io.leaf = NULL
        self.core.push_done(io, status, err)
        while s.reset_head != NULL and s.counts[s.oldest_epoch % NUM_EPOCHS] == 0:
            s.oldest_epoch += 1
            while s.reset_head != NULL and s.reset_head.leaf_value < s.oldest_epoch:
                reset = s.reset_head
                s.reset_head = reset.next
                self.core.push_done(reset, IO_SUCCESS, 0)

    # Syncs: one at a time, each for all that came before it

    cdef void join_sync(self, file_state *s, bdev_io *io) noexcept nogil:
        set_place(io, IN_SYNC)
        list_append(&s.sync_head, &s.sync_tail, io)
        if not s.syncing and s.file.sync_fd >= 0:
            self.start_sync(s)

    cdef void start_sync(self, file_state *s) noexcept nogil:
        cdef bdev_io *leader = s.sync_head
        cdef bdev_io *io = leader
        while io != NULL:
            set_place(io, SYNCING)
            io = io.next
        s.syncing = True
        s.sync_group = leader.next
        s.sync_head = s.sync_tail = NULL
        if self.ring is not None:
            self.to_ring(leader)
        else:
            self.to_worker(leader)

    cdef void synced(self, bdev_io *leader, int err, bint began) noexcept nogil:
        """Answer everybody whom a sync was for. Not began: nothing was asked of the disk."""
        cdef file_state *s = <file_state *>leader.leaf
        cdef bdev_io *group = s.sync_group
        cdef bdev_io *waiting
        if err and began:
            self.latch(s, err)
        # Whatever it says: after a failure elsewhere its success means nothing.
        if has_failed(s):
            err = EIO
        s.sync_group = NULL
        s.syncing = False
        leader.next = group
        self.answer(leader, err)
        if s.sync_head == NULL:
            return
        if not has_failed(s):
            self.start_sync(s)
            return
        waiting = s.sync_head
        s.sync_head = s.sync_tail = NULL
        self.answer(waiting, EIO)

    cdef void answer(self, bdev_io *io, int err) noexcept nogil:
        """Complete a list of I/Os with what a sync said. A write that failed before has failed."""
        cdef bdev_io *next_io
        cdef int own
        while io != NULL:
            next_io = io.next
            own = <int>(io.leaf_value & DONE_MASK) if io.leaf_value & DOUBT_MASK else err
            self.finish(io, IO_AIO_ERROR if own else IO_SUCCESS, own)
            io = next_io

    cdef void latch(self, file_state *s, int err) noexcept nogil:
        cdef int none = 0
        if atomic_replace_int(
                s.sync_errno, &none, err, False, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST):
            self.sync_failed = True

    # RESET and ABORT

    cdef void start_reset(self, file_state *s, bdev_io *io) noexcept nogil:
        """Complete once all I/Os that came before it have.

        The I/Os behind it are counted in the next epoch. A RESET that finds all epochs in use
        shares the newest one, and waits for a few I/Os too many.
        """
        if s.reset_head == NULL:
            if s.counts[s.epoch % NUM_EPOCHS] == 0:
                self.core.push_done(io, IO_SUCCESS, 0)
                return
            s.oldest_epoch = s.epoch
        io.leaf_value = s.epoch
        list_append(&s.reset_head, &s.reset_tail, io)
        if s.epoch - s.oldest_epoch < NUM_EPOCHS - 1:
            s.epoch += 1

    cdef void start_abort(self, file_state *s, bdev_io *io) noexcept nogil:
        """Take a victim that waits out of its list; ask the kernel for one in the ring."""
        cdef bdev_io *victim = io.victim
        cdef int where
        if victim.state != IO_SUBMITTED or victim.leaf != <void *>s or victim == io:
            self.finish(io, IO_FAILED, 0)
            return
        where = place(victim)
        if where == IN_QUEUE and list_remove(&self.queue_head, &self.queue_tail, victim):
            self.queued -= 1
        elif where == IN_SYNC and victim.op == OP_FLUSH:
            list_remove(&s.sync_head, &s.sync_tail, victim)
        elif where == IN_RING and self.under_way < self.ring.cq_entries and self.fill(io):
            return
        else:
            self.finish(io, IO_FAILED, 0)
            return
        self.finish(victim, IO_ABORTED, 0)
        self.finish(io, IO_SUCCESS, 0)

    # Between passes, with the GIL

    cdef int after_pass(self) except -1:
        """Give the host what the pass left to it."""
        cdef FileJob job
        cdef FilePath path
        cdef Py_ssize_t n = self.offload.n, at = 0, most, take, i
        cdef bdev_io *io
        cdef job_entry *entry
        if self.sync_failed:
            self.sync_failed = False
            for path in self.paths:
                if path.open_file.failed_sync_errno and not atomic_exchange_int(
                        &path.open_file.sync_reported, 1, __ATOMIC_SEQ_CST):
                    self.host.sync_failed(path.open_file)
        if self.stuck:
            self.stuck = False
            self.host.stuck()
        if n == 0:
            return 0
        most = (n + self.host.num_workers - 1) // self.host.num_workers
        jobs = []
        while at < n:
            # A sync takes long: nothing shall wait behind it.
            take = 1
            if place(self.offload.v[at]) != SYNCING:
                while take < most and at + take < n and place(self.offload.v[at + take]) != SYNCING:
                    take += 1
            job = FileJob(take)
            for i in range(job.n):
                io = self.offload.v[at + i]
                entry = &job.entries[i]
                entry.io = io
                entry.file = &(<file_state *>io.leaf).file
                entry.done = io.leaf_value & DONE_MASK
                entry.sync = place(io) == SYNCING
                if (not entry.sync and io.op == OP_WRITE and io.flags & FLAG_FUA
                        and (<file_state *>io.leaf).dsync):
                    entry.dsync = 1
                    io.leaf_value |= DSYNC_MASK
            at += job.n
            jobs.append(job)
        self.offload.n = 0
        self.host.start_jobs(jobs)
        return 0

    def finish_job(self, FileJob job not None):
        """Take back a job that a worker has executed."""
        cdef Py_ssize_t i
        with nogil:
            gil_left()
            for i in range(job.n):
                self.worked(&job.entries[i])
            self.turn()
            gil_wanted()
        self.after_pass()

    def reap(self):
        """Take what has completed; called when the ring's descriptor is readable."""
        with nogil:
            gil_left()
            self.turn()
            gil_wanted()
        self.after_pass()

    retry = reap


cdef class FilePath:
    """One reactor's way to one file. `close` it before the file is closed.

    sync_fd: the file opened once more, for this path's fdatasync alone; stays the caller's. Below 0
    it comes later (`set_sync_fd`), and syncs wait for it.
    """

    def __cinit__(self, FileEngine engine not None, OpenFile open_file not None, int sync_fd):
        self.engine = engine
        self.open_file = open_file
        self.s.file = open_file.file
        self.s.file.sync_fd = sync_fd
        self.s.sync_errno = &open_file.sync_errno
        self.s.refusals = &open_file.refusals
        self.s.dsync = open_file.file.dsync
        self.s.slot = -1
        if engine.ring is not None:
            self.s.slot = engine.ring.register_file(open_file.file.fd)
        engine.paths.add(self)
        self.open = True
        atomic_add_int(&open_file.num_paths, 1, __ATOMIC_SEQ_CST)

    def submit(self, IOBatch ios not None):
        """Take over every I/O of the batch. Does not wait for any."""
        cdef FileEngine engine = self.engine
        cdef Ring ring = engine.ring
        cdef IOBatch resets = None
        cdef Py_ssize_t i
        if atomic_load_int(&self.open_file.num_paths, __ATOMIC_ACQUIRE) > 1:
            resets = ios.take_op_mask(<uint64_t>1 << OP_RESET)
        with nogil:
            gil_left()
            if (ring is not None and self.s.file.direct
                    and ring.registered_slabs < engine.core.buffers.num_slabs):
                ring.register_slabs(engine.core.buffers.slabs, engine.core.buffers.num_slabs)
            for i in range(ios.n):
                engine.start(&self.s, ios.v[i])
            ios.n = 0
            engine.turn()
            gil_wanted()
        engine.after_pass()
        if resets is not None and resets.n:
            engine.host.reset(self, resets)

    def reset(self, IOBatch ios not None):
        """Complete RESETs once what came here before them has: the host gives them back."""
        cdef Py_ssize_t i
        for i in range(ios.n):
            self.engine.start_reset(&self.s, ios.v[i])
        ios.n = 0

    def set_sync_fd(self, int fd):
        """Give the path the descriptor that its syncs waited for. Once."""
        if self.s.file.sync_fd >= 0:
            raise RuntimeError("this path has a descriptor for its syncs")
        self.s.file.sync_fd = fd
        if self.s.sync_head != NULL:
            self.engine.start_sync(&self.s)
            self.engine.reap()

    def fail_syncs(self, int err):
        """Fail the syncs that wait for a descriptor, of which nothing was asked of the disk."""
        cdef bdev_io *waiting = self.s.sync_head
        if self.s.file.sync_fd >= 0 or waiting == NULL:
            return
        self.s.sync_head = self.s.sync_tail = NULL
        self.engine.answer(waiting, err)
        self.engine.reap()

    @property
    def sync_fd(self):
        """The descriptor that fdatasync goes through; below 0 as long as there is none."""
        return self.s.file.sync_fd

    @property
    def outstanding(self):
        """I/Os that have come and not completed."""
        cdef uint64_t total = 0
        cdef int i
        cdef bdev_io *io = self.s.reset_head
        for i in range(NUM_EPOCHS):
            total += self.s.counts[i]
        while io != NULL:
            total += 1
            io = io.next
        return total

    def close(self):
        """Let go of the file. Only without outstanding I/O. Idempotent."""
        if self.outstanding:
            raise RuntimeError(f"{self.outstanding} I/Os are outstanding on a file")
        if self.engine.ring is not None:
            self.engine.ring.unregister_file(self.s.slot)
        self.s.slot = -1
        self.engine.paths.discard(self)
        if self.open:
            self.open = False
            atomic_add_int(&self.open_file.num_paths, -1, __ATOMIC_SEQ_CST)
