"""Aligned data buffers, by size class, for one reactor (SPDK's iobuf).

Buffers are powers of two from 4 KiB to 64 MiB, aligned to 4 KiB. Small ones are cut from 2 MiB
slabs, which stay mapped and which a ring can register; larger ones, and small ones when all slabs
are cut up, are mappings of their own, of which a few are kept. A free buffer's first bytes hold
the list that it waits in, so the pool itself allocates nothing, and memory that was never handed
out is never touched.

The limit is on bytes handed out. An I/O that holds no buffer yet waits when the limit is reached;
one that holds one is served beyond it (`beyond_limit`), because its waiting for another could
wait for itself. What somebody else bounds and nobody waits for is *aside*: the limit does not count
it. Belongs to one thread.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from vbdev.core.base.mapping cimport PROT_READ, PROT_WRITE, map_memory, munmap


cdef enum:
    CACHED_LARGE_LIMIT = 64 << 20


cdef struct free_buffer:
    free_buffer *next
    int16_t slab


cdef void *map_aligned(size_t length, size_t alignment) noexcept nogil:
    # The kernel aligns to pages only: map more, cut off both ends.
    cdef size_t extra = alignment if alignment > 4096 else 0
    cdef char *base = map_memory(length + extra, PROT_READ | PROT_WRITE, 0)
    cdef size_t head
    if base != NULL and extra:
        head = (alignment - (<size_t>base & (alignment - 1))) & (alignment - 1)
        if head:
            munmap(base, head)
        if extra - head:
            munmap(base + head + length, extra - head)
        base += head
    return base


cdef class BufferPool:
    """Buffers for one reactor. `limit_bytes` bounds what is handed out at once."""

    @property
    def largest_bytes(self):
        """The longest data that one buffer can hold."""
        cdef int size_class = NUM_CLASSES - 1
        while size_class and class_bytes(size_class) > self.limit_bytes:
            size_class -= 1
        return class_bytes(size_class)

    def counts(self, uint64_t first_bytes, uint64_t last_bytes):
        """Return how buffers were had, whose size lies above the first and up to the second:
        (kept ones handed out again, new ones from the kernel, asked for in vain)."""
        cdef int size_class
        cdef uint64_t reused = 0, fresh = 0, refused = 0
        for size_class in range(NUM_CLASSES):
            if first_bytes < class_bytes(size_class) <= last_bytes:
                reused += self.reused[size_class]
                fresh += self.fresh[size_class]
                refused += self.refused[size_class]
        return reused, fresh, refused

    def __cinit__(self, uint64_t limit_bytes=256 << 20):
        self.limit_bytes = limit_bytes

    def __dealloc__(self):
        cdef int i
        cdef free_buffer *buf
        for i in range(NUM_CLASSES):
            while self.free_lists[i] != NULL:
                buf = <free_buffer *>self.free_lists[i]
                self.free_lists[i] = buf.next
                if buf.slab < 0:
                    munmap(buf, class_bytes(i))
        # Slabs with buffers still out stay mapped: somebody's I/O may be in flight to them.
        if self.live_buffers == 0:
            for i in range(self.num_slabs):
                munmap(self.slabs[i], SLAB_BYTES)

    cdef bint get(self, size_t size, bint beyond_limit, buffer_ref *out) noexcept nogil:
        """Hand out a buffer of at least `size` bytes; False when there is none to be had."""
        cdef int size_class = class_of(size)
        cdef free_buffer *buf
        cdef char *base
        cdef int16_t slab = -1
        if size_class == NUM_CLASSES:
            self.failed_gets += 1
            return False
        if (not beyond_limit and self.used_bytes - self.aside_bytes + class_bytes(size_class)
                > self.limit_bytes):
            self.failed_gets += 1
            self.refused[size_class] += 1
            return False
        buf = <free_buffer *>self.free_lists[size_class]
        if buf != NULL:
            self.free_lists[size_class] = buf.next
            self.reused[size_class] += 1
            slab = buf.slab
            base = <char *>buf
            if slab < 0:
                self.cached_large_bytes -= class_bytes(size_class)
        elif size_class < SLAB_CLASSES and (
                self.carve_next[size_class] != self.carve_end[size_class]
                or self._new_slab(size_class)):
            base = self.carve_next[size_class]
            slab = self.carve_slab[size_class]
            self.fresh[size_class] += 1
            self.carve_next[size_class] += class_bytes(size_class)
        else:
            base = <char *>map_aligned(class_bytes(size_class), 4096)
            if base == NULL:
                self.failed_gets += 1
                self.refused[size_class] += 1
                return False
            self.fresh[size_class] += 1
        out.base = base
        out.size_class = size_class
        out.slab = slab
        self.used_bytes += class_bytes(size_class)
        self.live_buffers += 1
        return True

    cdef bint can_ever_get(self, size_t size, bint beyond_limit) noexcept nogil:
        """Whether `get` may work when others have given back theirs; waiting is vain if not."""
        cdef int size_class = class_of(size)
        return size_class < NUM_CLASSES and (
            beyond_limit or class_bytes(size_class) <= self.limit_bytes)

    cdef bint _new_slab(self, int size_class) noexcept nogil:
        cdef char *base
        if self.num_slabs == MAX_SLABS:
            return False
        base = <char *>map_aligned(SLAB_BYTES, SLAB_BYTES)
        if base == NULL:
            return False
        self.slabs[self.num_slabs] = base
        self.carve_next[size_class] = base
        self.carve_end[size_class] = base + SLAB_BYTES
        self.carve_slab[size_class] = self.num_slabs
        self.num_slabs += 1
        return True

    cdef void put(self, buffer_ref *buf) noexcept nogil:
        """Take a buffer back; `buf` then holds none. Without a buffer, nothing happens."""
        cdef free_buffer *header
        cdef size_t size
        if buf.size_class < 0:
            return
        size = class_bytes(buf.size_class)
        self.used_bytes -= size
        self.live_buffers -= 1
        header = <free_buffer *>buf.base
        if buf.slab < 0 and self.cached_large_bytes + size > CACHED_LARGE_LIMIT:
            munmap(buf.base, size)
        else:
            if buf.slab < 0:
                self.cached_large_bytes += size
            header.next = <free_buffer *>self.free_lists[buf.size_class]
            header.slab = buf.slab
            self.free_lists[buf.size_class] = header
        buf.base = NULL
        buf.size_class = -1

    cdef bint get_aside(self, size_t size, buffer_ref *out) noexcept nogil:
        """Hand out a buffer that the limit does not count, to whoever bounds these; `put_aside`."""
        if not self.get(size, True, out):
            return False
        self.aside_bytes += class_bytes(out.size_class)
        return True

    cdef void put_aside(self, buffer_ref *buf) noexcept nogil:
        """Take back what `get_aside` handed out."""
        self.aside_bytes -= class_bytes(buf.size_class)
        self.put(buf)
