from vbdev.core.base.atomics cimport __ATOMIC_ACQUIRE, atomic_load_32
from vbdev.core.base.types cimport int32_t, size_t, uint32_t, uint64_t
from vbdev.core.file.uring_abi cimport uring_cqe, uring_sqe


cdef class Ring:
    cdef readonly int fd
    cdef readonly uint32_t sq_entries
    cdef readonly uint32_t cq_entries
    cdef readonly uint32_t setup_flags
    cdef readonly uint32_t to_submit    # entries filled that the kernel has not taken
    cdef readonly uint64_t enters       # system calls made
    cdef readonly uint64_t submitted    # entries that the kernel has taken
    cdef readonly int registered_slabs  # slabs 0 to n-1 of the pool are registered
    cdef bint slabs_refused
    cdef int slots[64]                  # registered files: fd, or -1
    cdef bint has_slots
    cdef uint32_t *sq_head
    cdef uint32_t *sq_tail
    cdef uint32_t sq_mask
    cdef uint32_t tail
    cdef uring_sqe *sqes
    cdef uint32_t *cq_head
    cdef uint32_t *cq_tail
    cdef uint32_t cq_mask
    cdef uring_cqe *cqes
    cdef void *map
    cdef size_t map_bytes
    cdef size_t sqe_bytes

    cdef int _setup(self, uint32_t entries, uint32_t cq_entries) noexcept nogil
    cdef uring_sqe *next_sqe(self) noexcept nogil
    cdef int enter(self, bint early) noexcept nogil
    cdef uring_sqe *withdraw(self) noexcept nogil
    cdef void register_slabs(self, char **slabs, int num_slabs) noexcept nogil


cdef inline uring_cqe *next_cqe(Ring self) noexcept nogil:
    # The oldest completion, or NULL. It is the kernel's again after `cqe_seen`.
    cdef uint32_t head = self.cq_head[0]
    if head == atomic_load_32(self.cq_tail, __ATOMIC_ACQUIRE):
        return NULL
    return &self.cqes[head & self.cq_mask]
