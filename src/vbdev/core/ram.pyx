"""RamDisk: the loops behind the `malloc` bdev.

One anonymous mapping, zero until written. A bitmap has one bit for each 4 KiB page that may hold
data, which is what SEEK_DATA and SEEK_HOLE answer from; unmapping whole pages gives their memory
back to the system. Copies run without the GIL. Every I/O completes in the call.

Several reactors share a disk. Bits change by atomic operations: a page is marked after it was
written, and taken for a hole before it is zeroed. So whichever of two overlapping I/Os comes
last, a page with data in it is never taken for a hole.
"""

from libc.errno cimport EINVAL
from libc.stddef cimport size_t
from libc.stdint cimport int8_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memmove, memset

from vbdev.core.batch cimport IOBatch
from vbdev.core.types cimport (
    FLAG_NO_HOLE,
    FLAG_ZCOPY_END,
    IO_FAILED,
    IO_MISCOMPARE,
    IO_SUCCESS,
    OP_ABORT,
    OP_COMPARE,
    OP_COPY,
    OP_FLUSH,
    OP_READ,
    OP_RESET,
    OP_SEEK_DATA,
    OP_SEEK_HOLE,
    OP_UNMAP,
    OP_WRITE,
    OP_WRITE_ZEROES,
    OP_ZCOPY,
    bdev_io,
)


cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    void *MAP_FAILED

cdef extern from *:
    int __ATOMIC_ACQUIRE, __ATOMIC_SEQ_CST
    uint8_t __atomic_load_n(const uint8_t *at, int order) nogil
    uint8_t __atomic_fetch_or(uint8_t *at, uint8_t bits, int order) nogil
    uint8_t __atomic_fetch_and(uint8_t *at, uint8_t bits, int order) nogil

cdef enum:
    PAGE_SHIFT = 12
    PAGE_BYTES = 4096
    MADVISE_FROM = 256 << 10    # below this a memset is cheaper than giving pages back


cdef class RamDisk:
    """Memory of `num_blocks` blocks of `block_size` bytes. MemoryError where there is none."""

    cdef char *base
    cdef uint8_t *pages
    cdef uint64_t size
    cdef uint64_t mapped_bytes
    cdef uint64_t num_pages
    cdef uint32_t block_size

    def __cinit__(self, uint64_t num_blocks, uint32_t block_size):
        self.block_size = block_size
        self.size = num_blocks * block_size
        self.num_pages = (self.size + PAGE_BYTES - 1) >> PAGE_SHIFT
        self.mapped_bytes = self.num_pages << PAGE_SHIFT
        self.base = <char *>self._map(self.mapped_bytes)
        self.pages = <uint8_t *>self._map((self.num_pages + 7) >> 3)

    cdef void *_map(self, size_t length) except NULL:
        cdef void *base = mmap(NULL, length, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError(f"no address space for a memory disk of {self.size} bytes")
        return base

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.mapped_bytes)
        if self.pages != NULL:
            munmap(self.pages, (self.num_pages + 7) >> 3)

    def execute(self, IOBatch ios not None):
        """Carry out and complete every I/O of the batch."""
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef int8_t status
        with nogil:
            for i in range(ios.n):
                io = ios.v[i]
                status = IO_SUCCESS
                if io.op == OP_READ:
                    self._transfer(io, False)
                elif io.op == OP_WRITE:
                    self._transfer(io, True)
                    self._mark(io.offset_blocks, io.num_blocks)
                else:
                    status = self._other(io)
                ios.core.push_done(io, status, 0 if status != IO_FAILED else EINVAL)
        ios.n = 0

    cdef inline void _transfer(self, bdev_io *io, bint write) noexcept nogil:
        cdef char *at = self.base + io.offset_blocks * self.block_size
        cdef uint32_t i
        for i in range(io.iovcnt):
            if write:
                memcpy(at, io.iovs[i].iov_base, io.iovs[i].iov_len)
            else:
                memcpy(io.iovs[i].iov_base, at, io.iovs[i].iov_len)
            at += io.iovs[i].iov_len

    cdef int8_t _other(self, bdev_io *io) noexcept nogil:
        cdef char *at = self.base + io.offset_blocks * self.block_size
        cdef uint64_t length = io.num_blocks * self.block_size
        cdef uint32_t i
        if io.op == OP_FLUSH or io.op == OP_RESET:
            return IO_SUCCESS
        if io.op == OP_UNMAP or io.op == OP_WRITE_ZEROES:
            self._zero(io.offset_blocks * self.block_size, length,
                       io.op == OP_UNMAP or not io.flags & FLAG_NO_HOLE)
            return IO_SUCCESS
        if io.op == OP_COMPARE:
            for i in range(io.iovcnt):
                if memcmp(at, io.iovs[i].iov_base, io.iovs[i].iov_len):
                    return IO_MISCOMPARE
                at += io.iovs[i].iov_len
            return IO_SUCCESS
        if io.op == OP_COPY:
            memmove(at, self.base + io.src_offset_blocks * self.block_size, length)
            self._mark(io.offset_blocks, io.num_blocks)
            return IO_SUCCESS
        if io.op == OP_ZCOPY:
            if not io.flags & FLAG_ZCOPY_END:
                # The caller writes into the disk itself: what it does not commit stays too.
                io.iovs = io.iov_inline
                io.iov_inline[0].iov_base = at
                io.iov_inline[0].iov_len = length
                io.iovcnt = 1
            # At the end once more: the caller has written since, and others may have unmapped.
            self._mark(io.offset_blocks, io.num_blocks)
            return IO_SUCCESS
        if io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            io.result = self._seek(io.offset_blocks * self.block_size, io.op == OP_SEEK_DATA)
            return IO_SUCCESS
        return IO_FAILED  # ABORT: what was submitted has completed already

    cdef inline void _mark(self, uint64_t offset_blocks, uint64_t num_blocks) noexcept nogil:
        cdef uint64_t page = (offset_blocks * self.block_size) >> PAGE_SHIFT
        cdef uint64_t end
        if num_blocks == 0:
            return
        end = ((offset_blocks + num_blocks) * self.block_size - 1) >> PAGE_SHIFT
        while page <= end:
            __atomic_fetch_or(&self.pages[page >> 3], 1 << (page & 7), __ATOMIC_SEQ_CST)
            page += 1

    cdef void _zero(self, uint64_t offset, uint64_t length, bint deallocate) noexcept nogil:
        # Whole pages inside the range can be given back; what is left at both ends is set.
        cdef uint64_t first = (offset + PAGE_BYTES - 1) >> PAGE_SHIFT
        cdef uint64_t last = (offset + length) >> PAGE_SHIFT
        cdef uint64_t page
        if length == 0:
            return
        if offset + length == self.size:
            last = self.num_pages
        if deallocate:
            for page in range(first, last):
                __atomic_fetch_and(
                    &self.pages[page >> 3], <uint8_t>~(1 << (page & 7)), __ATOMIC_SEQ_CST)
        if last > first and ((last - first) << PAGE_SHIFT) >= MADVISE_FROM and madvise(
                self.base + (first << PAGE_SHIFT), (last - first) << PAGE_SHIFT,
                MADV_DONTNEED) == 0:
            memset(self.base + offset, 0, (first << PAGE_SHIFT) - offset)
            if offset + length > last << PAGE_SHIFT:
                memset(self.base + (last << PAGE_SHIFT), 0, offset + length - (last << PAGE_SHIFT))
        else:
            memset(self.base + offset, 0, length)
        if not deallocate:
            page = offset >> PAGE_SHIFT
            while page << PAGE_SHIFT < offset + length:
                __atomic_fetch_or(&self.pages[page >> 3], 1 << (page & 7), __ATOMIC_SEQ_CST)
                page += 1

    cdef uint64_t _seek(self, uint64_t offset, bint data) noexcept nogil:
        """Return the first block at or behind `offset` that is (not) in a page with data."""
        cdef uint64_t page = offset >> PAGE_SHIFT
        cdef uint8_t skip = 0 if data else 0xff
        cdef uint8_t bits
        cdef uint64_t found
        while page < self.num_pages:
            bits = __atomic_load_n(&self.pages[page >> 3], __ATOMIC_ACQUIRE)
            if page & 7 == 0 and bits == skip:
                page += 8
                continue
            if ((bits >> (page & 7)) & 1) == data:
                found = page << PAGE_SHIFT
                if found < offset:
                    found = offset
                # The block that holds it, but not one before. All pages that a block with data
                # touches are marked, so that no hole begins in one.
                found = found // self.block_size
                if found * self.block_size < offset:
                    found += 1
                if found * self.block_size < self.size:
                    return found
                break
            page += 1
        # No data behind: there is none. No hole behind: the end counts as one.
        return <uint64_t>-1 if data else self.size // self.block_size


cdef class ZeroRegion:
    """Read-only zeroes that every READ of a `null` bdev can point to."""

    cdef char *base
    cdef size_t size

    def __cinit__(self, size_t size=64 << 20):
        # Private, anonymous and never written: every page is the kernel's one page of zeroes.
        self.base = <char *>mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>self.base == MAP_FAILED:
            self.base = NULL
            raise MemoryError("no address space for a region of zeroes")
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    def execute(self, IOBatch ios not None, uint32_t block_size):
        """Complete every I/O: a READ without a buffer gets one of zeroes, others are left as is."""
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef uint64_t length
        for i in range(ios.n):
            io = ios.v[i]
            if io.op == OP_READ and io.iovcnt == 0:
                length = io.num_blocks * block_size
                if length > self.size:
                    ios.core.push_done(io, IO_FAILED, EINVAL)
                    continue
                io.iovs = io.iov_inline
                io.iov_inline[0].iov_base = self.base
                io.iov_inline[0].iov_len = length
                io.iovcnt = 1
            ios.core.push_done(io, IO_FAILED if io.op == OP_ABORT else IO_SUCCESS, 0)
        ios.n = 0
