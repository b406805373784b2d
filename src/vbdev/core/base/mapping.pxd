# Memory of the kernel's: mmap(2), declared once for the floor.

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE
    int MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_POPULATE
    int MADV_DONTNEED
    void *MAP_FAILED


cdef inline char *map_memory(size_t length, int protection, int flags) noexcept nogil:
    """Return private memory that is all zeroes, or NULL. The caller's, to `munmap`."""
    cdef void *base = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0)
    return NULL if base == MAP_FAILED else <char *>base
