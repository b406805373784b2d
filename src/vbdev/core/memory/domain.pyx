"""MemoryDomain: memory that another process shares with this one through a file descriptor.

An I/O's pieces of data are then offsets in the domain, and `bdev_io.domain` says in which (SPDK:
spdk_memory_domain). A bdev that lists the domain's type is handed the I/O as it is and translates
the offsets itself; for others the channel copies through a buffer of its pool.

The memory is mapped once, for as long as the domain is open. A file that its owner could shrink
would kill this process (SIGBUS), so it has to be sealed against that.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from vbdev.core.base.atomics cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_SEQ_CST,
    atomic_add_64,
    atomic_load_64,
    atomic_store_64,
    atomic_sub_64,
)
from vbdev.core.base.mapping cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap


cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, ...)
    int F_GET_SEALS, F_SEAL_SHRINK


@cython.final
cdef class MemoryDomain:
    """Memory of `size_bytes` behind a file descriptor, mapped here; the descriptor stays yours.

    type: what `bdev_get_bdevs` calls dma_device_type. ValueError when the file can be shrunk,
    OSError when it can not be mapped. The domain's memory can be looked at through
    `memoryview(domain)`.
    """

    def __cinit__(self, int fd, uint64_t size_bytes, uint32_t type):
        cdef int seals = fcntl(fd, F_GET_SEALS)
        cdef void *base
        if seals < 0 or not seals & F_SEAL_SHRINK:
            raise ValueError("a memory domain's file has to be sealed against shrinking"
                             " (F_SEAL_SHRINK)")
        base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, f"can not map a memory domain of {size_bytes} bytes")
        self.d.base = <char *>base
        self.d.size = size_bytes
        self.d.type = type

    def __dealloc__(self):
        if self.d.base != NULL:
            munmap(self.d.base, self.d.size)

    def __getbuffer__(self, Py_buffer *view, int flags):
        atomic_add_64(&self.views, 1, __ATOMIC_SEQ_CST)
        if atomic_load_64(&self.closing, __ATOMIC_SEQ_CST):
            atomic_sub_64(&self.views, 1, __ATOMIC_SEQ_CST)
            raise BufferError("the memory domain is closed")
        PyBuffer_FillInfo(view, self, self.d.base, self.d.size, False, flags)

    def __releasebuffer__(self, Py_buffer *view):
        atomic_sub_64(&self.views, 1, __ATOMIC_SEQ_CST)

    @property
    def type(self):
        """What `bdev_get_bdevs` calls dma_device_type."""
        return self.d.type

    @property
    def size_bytes(self):
        """Bytes; 0 once it is closed."""
        return self.d.size

    @property
    def closed(self):
        """Whether `close` has been called."""
        return self.d.base == NULL

    @property
    def in_flight(self):
        """I/Os whose data is here."""
        return atomic_load_64(&self.d.in_flight, __ATOMIC_ACQUIRE)

    def close(self):
        """Unmap the memory. RuntimeError while I/O or a memoryview uses it."""
        if self.d.base == NULL:
            return
        # Users count themselves first and look at `closing` then: one of the two sees the other.
        atomic_store_64(&self.closing, 1, __ATOMIC_SEQ_CST)
        if (atomic_load_64(&self.d.in_flight, __ATOMIC_SEQ_CST)
                or atomic_load_64(&self.views, __ATOMIC_SEQ_CST)):
            atomic_store_64(&self.closing, 0, __ATOMIC_SEQ_CST)
            raise RuntimeError(f"the memory domain has {self.in_flight} I/Os in flight and"
                               f" {self.views} views")
        munmap(self.d.base, self.d.size)
        self.d.base = NULL
        self.d.size = 0

    cdef int check(self, uint64_t offset, uint64_t length) except -1:
        """Refuse a piece that is not in the domain. The caller has counted itself in flight."""
        if atomic_load_64(&self.closing, __ATOMIC_SEQ_CST):
            raise ValueError("the memory domain is closed")
        if length > self.d.size or offset > self.d.size - length:
            raise ValueError(f"{length} bytes at {offset} do not lie in a memory domain of"
                             f" {self.d.size} bytes")
        return 0
