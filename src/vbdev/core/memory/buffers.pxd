from vbdev.core.base.types cimport buffer_ref, int16_t, size_t, uint64_t


cdef enum:
    SLAB_BYTES = 2 << 20
    MIN_BUFFER_SHIFT = 12
    NUM_CLASSES = 15            # 4 KiB to 64 MiB
    SLAB_CLASSES = 7            # up to 256 KiB come out of slabs, larger ones are mappings
    MAX_SLABS = 512


cdef class BufferPool:
    cdef void *free_lists[NUM_CLASSES]
    cdef char *carve_next[SLAB_CLASSES]
    cdef char *carve_end[SLAB_CLASSES]
    cdef int16_t carve_slab[SLAB_CLASSES]
    cdef char *slabs[MAX_SLABS]
    cdef readonly int num_slabs
    cdef readonly uint64_t limit_bytes
    cdef readonly uint64_t used_bytes
    cdef readonly uint64_t aside_bytes  # of these, what the limit does not count
    cdef readonly uint64_t cached_large_bytes
    cdef readonly uint64_t live_buffers
    cdef readonly uint64_t failed_gets
    cdef uint64_t reused[NUM_CLASSES]
    cdef uint64_t fresh[NUM_CLASSES]
    cdef uint64_t refused[NUM_CLASSES]

    cdef bint get(self, size_t size, bint beyond_limit, buffer_ref *out) noexcept nogil
    cdef bint can_ever_get(self, size_t size, bint beyond_limit) noexcept nogil
    cdef void put(self, buffer_ref *buf) noexcept nogil
    cdef bint get_aside(self, size_t size, buffer_ref *out) noexcept nogil
    cdef void put_aside(self, buffer_ref *buf) noexcept nogil
    cdef bint _new_slab(self, int size_class) noexcept nogil


cdef extern from *:
    int leading_zeros "__builtin_clzll"(unsigned long long value) noexcept nogil


cdef inline size_t class_bytes(int size_class) noexcept nogil:
    return <size_t>1 << (MIN_BUFFER_SHIFT + size_class)


cdef inline int class_of(size_t size) noexcept nogil:
    # NUM_CLASSES: larger than any buffer.
    if size <= class_bytes(0):
        return 0
    return min(64 - MIN_BUFFER_SHIFT - leading_zeros(size - 1), <int>NUM_CLASSES)
