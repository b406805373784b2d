"""CopyLimit: the fastest that a disk in memory could be, measured beside it."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vbdev.core.base.mapping cimport MAP_NORESERVE, PROT_READ, PROT_WRITE, map_memory, munmap
from vbdev.core.load.patterns cimport below, fill_random, mix64, next_random
from vbdev.core.memory.buffers cimport MIN_BUFFER_SHIFT


cdef enum:
    WRITTEN = 0xA5
    BUFFER_ALIGNMENT = 1 << MIN_BUFFER_SHIFT


cdef class CopyLimit:
    """What is left of a memory disk's random I/O when all but the copying is taken away.

    One loop of memcpy between `queue_depth` buffers and memory of the disk's size: the blocks
    that a LoadGenerator of the same seed draws, in the same order, each with its buffer. No disk
    in memory can be faster. MemoryError where there is no room.
    """

    cdef char *base
    cdef char *buffers
    cdef size_t size
    cdef size_t stride
    cdef readonly uint32_t io_size
    cdef readonly uint32_t queue_depth
    cdef uint64_t num_slots
    cdef uint64_t random_state
    cdef uint64_t drawn

    def __cinit__(self, uint64_t size, uint32_t io_size=4096, uint32_t queue_depth=32,
                  uint64_t seed=1):
        if not io_size or io_size % 512 or not queue_depth or size < io_size:
            raise ValueError(
                f"I/Os of {io_size} bytes, {queue_depth} at once, do not fit {size} bytes")
        self.size = size
        self.io_size = io_size
        self.queue_depth = queue_depth
        self.num_slots = size // io_size
        self.stride = (<size_t>io_size + BUFFER_ALIGNMENT - 1) & ~(<size_t>BUFFER_ALIGNMENT - 1)
        self.base = map_memory(size, PROT_READ | PROT_WRITE, MAP_NORESERVE)
        self.buffers = map_memory(
            self.stride * queue_depth, PROT_READ | PROT_WRITE, MAP_NORESERVE)
        if self.base == NULL or self.buffers == NULL:
            raise MemoryError(f"no address space for {size} bytes and buffers")
        # As LoadGenerator.start does it: contents first, offsets behind them.
        self.random_state = mix64(seed + 1) | 1
        fill_random(<uint64_t *>self.buffers, self.stride * queue_depth // 8, &self.random_state)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
        if self.buffers != NULL:
            munmap(self.buffers, self.stride * self.queue_depth)

    def run(self, uint64_t num_ios, bint write):
        """Copy for so many I/Os, from where the last run stopped. Lets go of the GIL."""
        with nogil:
            self._run(num_ios, write)

    cdef void _run(self, uint64_t num_ios, bint write) noexcept nogil:
        cdef uint64_t _i
        cdef char *at
        cdef char *buffer
        for _i in range(num_ios):
            at = self.base + below(next_random(&self.random_state), self.num_slots) * self.io_size
            buffer = self.buffers + (self.drawn % self.queue_depth) * self.stride
            self.drawn += 1
            if write:
                memcpy(at, buffer, self.io_size)
            else:
                memcpy(buffer, at, self.io_size)

    def fill(self):
        """Touch all memory, as a disk has that was written."""
        with nogil:
            memset(self.base, WRITTEN, self.size)

    @property
    def memory(self):
        """A copy of the memory."""
        return self.base[:self.size]
