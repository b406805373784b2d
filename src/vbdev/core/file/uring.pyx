"""Ring: an io_uring, on the kernel's three system calls.

Two queues in memory shared with the kernel. The submitter fills entries (`next_sqe`) and hands
over all of them with one `enter`; completions are read from memory, without a system call. The
ring knows nothing of I/Os: whoever fills an entry says in `user_data` whom the completion is for,
and must not have more entries under way than `cq_entries`, so that a completion always has room.

`fd` is readable while completions wait, which is how a sleeping reactor learns of them. Belongs to
the thread that made it: with SINGLE_ISSUER the kernel refuses every other (EEXIST).
"""

import os

from libc.errno cimport EINTR, EINVAL, ENOSYS, errno
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from vbdev.core.base.atomics cimport __ATOMIC_RELEASE, atomic_store_32
from vbdev.core.base.calls cimport close, syscall
from vbdev.core.base.mapping cimport (
    MAP_FAILED,
    MAP_POPULATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from vbdev.core.base.types cimport iovec
from vbdev.core.file.uring_abi cimport (
    FEAT_FAST_POLL,
    FEAT_NODROP,
    FEAT_SINGLE_MMAP,
    OFF_SQES,
    OFF_SQ_RING,
    REGISTER_BUFFERS2,
    REGISTER_BUFFERS_UPDATE,
    REGISTER_FILES,
    REGISTER_FILES_UPDATE,
    RSRC_REGISTER_SPARSE,
    SETUP_CLAMP,
    SETUP_COOP_TASKRUN,
    SETUP_CQSIZE,
    SETUP_SINGLE_ISSUER,
    SETUP_SUBMIT_ALL,
    SYS_IO_URING_ENTER,
    SYS_IO_URING_REGISTER,
    SYS_IO_URING_SETUP,
    files_update,
    rsrc_register,
    rsrc_update,
    uring_cqe,
    uring_params,
    uring_sqe,
)
from vbdev.core.memory.buffers cimport MAX_SLABS, SLAB_BYTES

cdef enum:
    NUM_SLOTS = 64
    # 1, 4, 16... entries a call: 32 take 4 calls, and no call is long beside what came before it.
    EARLY_GROWTH = 4
    # Single mapping (5.4), no completion lost (5.5); the third stands for 5.7, which has every
    # operation that is used here.
    NEEDED_FEATURES = FEAT_SINGLE_MMAP | FEAT_NODROP | FEAT_FAST_POLL


cdef class Ring:
    """An io_uring of `entries` submissions at once and `cq_entries` I/Os under way.

    OSError where the kernel refuses one (EPERM, ENOSYS, ENOMEM) or is too old (ENOSYS).
    """

    def __cinit__(self, uint32_t entries=256, uint32_t cq_entries=4096):
        cdef int i, number
        self.fd = -1
        for i in range(NUM_SLOTS):
            self.slots[i] = -1
        number = self._setup(entries, cq_entries)
        if number:
            raise OSError(number, f"io_uring_setup: {os.strerror(number)}")
        # -1 leaves a slot empty. A refusal only means that each I/O looks its file up.
        self.has_slots = syscall(SYS_IO_URING_REGISTER, self.fd, REGISTER_FILES,
                                 <void *>self.slots, NUM_SLOTS) == 0

    def __dealloc__(self):
        self.close()

    def close(self):
        """Give the ring back to the kernel. Only with nothing under way. Idempotent."""
        if <void *>self.sqes != NULL:
            munmap(self.sqes, self.sqe_bytes)
            self.sqes = NULL
        if self.map != NULL:
            munmap(self.map, self.map_bytes)
            self.map = NULL
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    cdef int _setup(self, uint32_t entries, uint32_t cq_entries) noexcept nogil:
        cdef uint32_t attempts[3]
        cdef uring_params params
        cdef uint32_t i
        cdef uint32_t *array
        cdef size_t cq_end
        cdef char *base
        # COOP_TASKRUN: the kernel finishes I/Os when this thread is in it anyway, as it is at
        # least once a turn, and interrupts it for none. SUBMIT_ALL: an entry that fails does not
        # hold back those behind it.
        attempts[0] = SETUP_SINGLE_ISSUER | SETUP_COOP_TASKRUN | SETUP_SUBMIT_ALL
        attempts[1] = SETUP_COOP_TASKRUN | SETUP_SUBMIT_ALL
        attempts[2] = 0
        for i in range(3):
            memset(&params, 0, sizeof(params))
            params.flags = attempts[i] | SETUP_CQSIZE | SETUP_CLAMP
            params.cq_entries = cq_entries
            self.fd = <int>syscall(SYS_IO_URING_SETUP, entries, &params)
            if self.fd >= 0:
                break
            if errno != EINVAL:
                return errno
        if self.fd < 0:
            return EINVAL
        if params.features & NEEDED_FEATURES != NEEDED_FEATURES:
            return ENOSYS
        self.sq_entries = params.sq_entries
        self.cq_entries = params.cq_entries
        self.setup_flags = params.flags
        self.map_bytes = params.sq_off.array + params.sq_entries * sizeof(uint32_t)
        cq_end = params.cq_off.cqes + params.cq_entries * sizeof(uring_cqe)
        if cq_end > self.map_bytes:
            self.map_bytes = cq_end
        base = <char *>mmap(NULL, self.map_bytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_POPULATE, self.fd, OFF_SQ_RING)
        if <void *>base == MAP_FAILED:
            return errno
        self.map = base
        self.sqe_bytes = params.sq_entries * sizeof(uring_sqe)
        self.sqes = <uring_sqe *>mmap(NULL, self.sqe_bytes, PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_POPULATE, self.fd, OFF_SQES)
        if <void *>self.sqes == MAP_FAILED:
            self.sqes = NULL
            return errno
        self.sq_head = <uint32_t *>(base + params.sq_off.head)
        self.sq_tail = <uint32_t *>(base + params.sq_off.tail)
        self.sq_mask = (<uint32_t *>(base + params.sq_off.ring_mask))[0]
        self.cq_head = <uint32_t *>(base + params.cq_off.head)
        self.cq_tail = <uint32_t *>(base + params.cq_off.tail)
        self.cq_mask = (<uint32_t *>(base + params.cq_off.ring_mask))[0]
        self.cqes = <uring_cqe *>(base + params.cq_off.cqes)
        # Entries are used in order, so the kernel's table of which comes next never changes.
        array = <uint32_t *>(base + params.sq_off.array)
        for i in range(params.sq_entries):
            array[i] = i
        return 0

    # Submission

    cdef uring_sqe *next_sqe(self) noexcept nogil:
        """Return an entry of zeroes to fill, or NULL when all are filled: `enter` first."""
        cdef uring_sqe *sqe
        if self.to_submit == self.sq_entries:
            return NULL
        sqe = &self.sqes[self.tail & self.sq_mask]
        memset(sqe, 0, sizeof(uring_sqe))
        self.tail += 1
        self.to_submit += 1
        return sqe

    cdef int enter(self, bint early) noexcept nogil:
        """Hand what is filled to the kernel; return 0, or the errno that stopped it.

        early: one entry first, then ever more of them. The kernel prepares all entries of a call
        before a disk sees any, 30 us for 32 reads; a disk that has nothing to do begins that much
        sooner, and has work while the rest is prepared.
        After EAGAIN, EBUSY or ENOMEM the rest stays filled, for another try.
        """
        cdef long taken
        cdef uint32_t some = 1 if early else self.to_submit
        atomic_store_32(self.sq_tail, self.tail, __ATOMIC_RELEASE)
        while self.to_submit:
            self.enters += 1
            if some > self.to_submit:
                some = self.to_submit
            taken = syscall(SYS_IO_URING_ENTER, self.fd, some, 0, 0, NULL, 0)
            some *= EARLY_GROWTH
            if taken < 0:
                if errno == EINTR:
                    continue
                return errno
            self.to_submit -= <uint32_t>taken
            self.submitted += <uint64_t>taken
            if taken == 0:
                return EINVAL  # nothing taken and nothing wrong: do not spin on it
        return 0

    cdef uring_sqe *withdraw(self) noexcept nogil:
        """Take the newest filled entry back; NULL when there is none. Read it at once."""
        if self.to_submit == 0:
            return NULL
        self.tail -= 1
        self.to_submit -= 1
        atomic_store_32(self.sq_tail, self.tail, __ATOMIC_RELEASE)
        return &self.sqes[self.tail & self.sq_mask]

    # Registration: the kernel then looks a file, or pins a buffer, once instead of for each I/O

    def register_file(self, int fd):
        """Return a slot for `fd`, or -1 where there is none; the plain fd works all the same."""
        cdef int slot
        if self.has_slots:
            for slot in range(NUM_SLOTS):
                if self.slots[slot] < 0:
                    return slot if self._update_slot(slot, fd) else -1
        return -1

    def unregister_file(self, int slot):
        """Empty a slot. The ring's hold on the file ends when the kernel gets to it."""
        if slot >= 0:
            self._update_slot(slot, -1)

    def _update_slot(self, int slot, int fd):
        cdef files_update update
        cdef int32_t value = fd
        memset(&update, 0, sizeof(update))
        update.offset = slot
        update.fds = <uint64_t>&value
        if syscall(SYS_IO_URING_REGISTER, self.fd, REGISTER_FILES_UPDATE, &update, 1) != 1:
            return False
        self.slots[slot] = fd
        return True

    cdef void register_slabs(self, char **slabs, int num_slabs) noexcept nogil:
        """Pin slabs that have appeared. The first refusal (RLIMIT_MEMLOCK) is the last try."""
        cdef rsrc_register table
        cdef rsrc_update update
        cdef iovec region
        if self.slabs_refused:
            return
        if self.registered_slabs == 0:
            memset(&table, 0, sizeof(table))
            table.nr = MAX_SLABS
            table.flags = RSRC_REGISTER_SPARSE
            if syscall(SYS_IO_URING_REGISTER, self.fd, REGISTER_BUFFERS2, &table,
                       sizeof(table)) < 0:
                self.slabs_refused = True
                return
        while self.registered_slabs < num_slabs:
            region.iov_base = slabs[self.registered_slabs]
            region.iov_len = SLAB_BYTES
            memset(&update, 0, sizeof(update))
            update.offset = self.registered_slabs
            update.data = <uint64_t>&region
            update.nr = 1
            if syscall(SYS_IO_URING_REGISTER, self.fd, REGISTER_BUFFERS_UPDATE, &update,
                       sizeof(update)) < 0:
                self.slabs_refused = True
                return
            self.registered_slabs += 1
