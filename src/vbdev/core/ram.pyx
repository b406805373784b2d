"""RamDisk: the loops behind the `malloc` bdev.

One anonymous mapping, zero until written. A bitmap has one bit for each 4 KiB page that may hold
data, which is what SEEK_DATA and SEEK_HOLE answer from; unmapping whole pages gives their memory
back to the system. Copies run without the GIL. Every I/O completes in the call.

Several reactors share a disk. Bits change by atomic operations: a page is marked after it was
written, and taken for a hole before it is zeroed. So whichever of two overlapping I/Os comes
last, a page with data in it is never taken for a hole.

Metadata stands in the blocks, or in a mapping of its own. Where it has protection information,
blocks that nobody has written carry the tags that switch checking off, over zeroes; a WRITE is
checked before it is stored, a READ in the reader's memory, where nobody changes it any more.
"""

cimport cython
from libc.errno cimport EINVAL, errno
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memmove, memset

from vbdev.core.batch cimport IOBatch, IoCore, finish_io
from vbdev.core.dif cimport (
    DIF_MAX_MD,
    DIF_REFTAG,
    DIF_SHORT,
    Dif,
    dif_error,
    dif_generate,
    dif_layout,
    dif_remap,
    dif_tags,
    dif_verify,
    nvme_error_of,
)
from vbdev.core.handover cimport gil_left, gil_wanted
from vbdev.core.types cimport (
    FLAG_NO_HOLE,
    FLAG_ZCOPY_END,
    HAS_POOL_BUFFER,
    IO_FAILED,
    IO_MISCOMPARE,
    IO_NVME_ERROR,
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
    iovec,
)


cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_DONTNEED
    void *MAP_FAILED

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)

cdef extern from "sys/syscall.h":
    long SYS_mbind

cdef extern from *:
    int __ATOMIC_ACQUIRE, __ATOMIC_SEQ_CST
    uint8_t __atomic_load_n(const uint8_t *at, int order) nogil
    uint8_t __atomic_fetch_or(uint8_t *at, uint8_t bits, int order) nogil
    uint8_t __atomic_fetch_and(uint8_t *at, uint8_t bits, int order) nogil

cdef enum:
    PAGE_SHIFT = 12
    PAGE_BYTES = 4096
    MPOL_PREFERRED = 1
    MADVISE_FROM = 256 << 10    # below this a memset is cheaper than giving pages back


cdef class RamDisk:
    """Memory of `num_blocks` blocks of `block_size` bytes. MemoryError where there is none.

    dif: the layout of metadata, which has to be written once by `format` for all blocks.
    """

    cdef char *base
    cdef uint8_t *pages
    cdef uint64_t size
    cdef readonly uint64_t mapped_bytes
    cdef uint64_t num_pages
    cdef uint32_t block_size
    cdef dif_layout layout
    cdef char *md                       # separate metadata
    cdef uint64_t md_bytes
    cdef uint8_t blank[DIF_MAX_MD]      # metadata of a block of zeroes that nobody has written

    def __cinit__(self, uint64_t num_blocks, uint32_t block_size, Dif dif=None):
        self.block_size = block_size
        self.size = num_blocks * block_size
        self.num_pages = (self.size + PAGE_BYTES - 1) >> PAGE_SHIFT
        self.mapped_bytes = self.num_pages << PAGE_SHIFT
        self.base = <char *>self._map(self.mapped_bytes)
        self.pages = <uint8_t *>self._map((self.num_pages + 7) >> 3)
        if dif is None:
            return
        self.layout = dif.layout
        if not self.layout.interleaved:
            self.md_bytes = num_blocks * self.layout.md_size
            self.md = <char *>self._map(self.md_bytes)
        if self.layout.type:
            self._make_blank()

    cdef int _make_blank(self) except -1:
        # The disk's first block is zeroes still.
        cdef iovec block = iovec(self.base, self.block_size)
        cdef dif_tags tags = dif_tags(0, 0, 0, True)
        cdef char *at = self.md
        if self.layout.interleaved:
            at = self.base + self.layout.data_size
        dif_generate(&self.layout, &block, 1, at, 1, tags)
        memcpy(self.blank, at, self.layout.md_size)
        return 0

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
        if self.md != NULL:
            munmap(self.md, self.md_bytes)

    def prefer_node(self, int node):
        """Ask for memory of a NUMA node, before any is touched. Return 0 or an errno."""
        cdef unsigned long mask[16]
        cdef long failed
        if not 0 <= node < 1024:
            return EINVAL
        memset(mask, 0, sizeof(mask))
        mask[node // 64] = <unsigned long>1 << (node % 64)
        failed = syscall(SYS_mbind, <long>self.base, self.mapped_bytes, MPOL_PREFERRED,
                         <long>mask, <long>1024, <long>0)
        if not failed and self.md != NULL:
            failed = syscall(SYS_mbind, <long>self.md, self.md_bytes, MPOL_PREFERRED,
                             <long>mask, <long>1024, <long>0)
        return errno if failed else 0

    def give_back(self, uint64_t offset, uint64_t length):
        """Return memory to the kernel: bytes of the data from a page's start on, as far as it goes.

        What was there is zeroes afterwards, without metadata. For a disk that nobody uses any more.
        """
        if offset % PAGE_BYTES or offset > self.mapped_bytes:
            raise ValueError(f"no page of the disk begins at byte {offset}")
        length = min(length, self.mapped_bytes - offset)
        with nogil:
            gil_left()
            madvise(self.base + offset, length, MADV_DONTNEED)
            gil_wanted()

    def format(self, uint64_t offset_blocks, uint64_t num_blocks):
        """Give blocks that nobody has written valid protection information, where there is any."""
        if num_blocks * self.block_size > self.size - offset_blocks * self.block_size:
            raise ValueError("these are not all blocks of the disk")
        if self.layout.type:
            with nogil:
                gil_left()
                self._blank(offset_blocks, num_blocks)
                gil_wanted()

    cdef void _blank(self, uint64_t offset_blocks, uint64_t num_blocks) noexcept nogil:
        """Set the metadata of blocks of zeroes."""
        cdef uint64_t _i
        cdef size_t stride = self.layout.md_size
        cdef char *at = self.md + offset_blocks * self.layout.md_size
        if self.layout.interleaved:
            stride = self.block_size
            at = self.base + offset_blocks * self.block_size + self.layout.data_size
        for _i in range(num_blocks):
            memcpy(at, self.blank, self.layout.md_size)
            at += stride

    @cython.binding(False)  # so that the interpreter calls it without a detour
    def execute(self, IOBatch ios not None):
        """Carry out and complete every I/O of the batch."""
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef int8_t status
        cdef int32_t err
        cdef bint plain = self.layout.md_size == 0
        cdef IoCore core = ios.core
        with nogil:
            gil_left()
            for i in range(ios.n):
                io = ios.v[i]
                status = IO_SUCCESS
                err = 0
                if plain and io.op == OP_READ:
                    self._transfer(io, False)
                elif plain and io.op == OP_WRITE:
                    self._transfer(io, True)
                    self._mark(io.offset_blocks, io.num_blocks)
                elif plain or (io.op != OP_READ and io.op != OP_WRITE and io.op != OP_COPY):
                    status = self._other(io)
                    err = 0 if status != IO_FAILED else EINVAL
                else:
                    err = self._with_metadata(io)
                    if err:
                        status = IO_NVME_ERROR if err > 0xff else IO_FAILED
                finish_io(core, io, status, err)
            gil_wanted()
        ios.n = 0

    cdef inline char *_md_at(self, uint64_t offset_blocks) noexcept nogil:
        return self.md + offset_blocks * self.layout.md_size

    cdef inline void _transfer(self, bdev_io *io, bint write) noexcept nogil:
        cdef char *at = self.base + io.offset_blocks * self.block_size
        cdef char *domain = io.domain.base if io.domain != NULL else NULL
        cdef char *other
        cdef uint32_t i
        for i in range(io.iovcnt):
            other = domain + <size_t>io.iovs[i].iov_base
            if write:
                memcpy(at, other, io.iovs[i].iov_len)
            else:
                memcpy(other, at, io.iovs[i].iov_len)
            at += io.iovs[i].iov_len

    cdef int32_t _with_metadata(self, bdev_io *io) noexcept nogil:
        """READ, WRITE and COPY of a disk with metadata: 0, an errno, or what an NVMe disk says."""
        cdef char *md = NULL
        cdef uint64_t md_bytes = io.num_blocks * self.layout.md_size
        cdef int32_t err = 0
        if self.md != NULL:
            md = self._md_at(io.offset_blocks)
        if io.op == OP_READ:
            self._transfer(io, False)
            if md != NULL and io.md != NULL:
                memcpy(io.md, md, md_bytes)
                md = <char *>io.md
            return self._verify(io, io.iovs, io.iovcnt, md, io.offset_blocks)
        if io.op == OP_WRITE:
            if md == NULL or io.md != NULL:
                err = self._verify(io, io.iovs, io.iovcnt, io.md, io.offset_blocks)
            if err:
                return err
            self._transfer(io, True)
            if md != NULL and io.md != NULL:
                memcpy(md, io.md, md_bytes)
            elif md != NULL and self.layout.type:
                # A writer that has no metadata: the disk makes what belongs to the data.
                dif_generate(&self.layout, io.iovs, io.iovcnt, md, io.num_blocks,
                             dif_tags(io.offset_blocks, 0, 0, False))
        else:
            err = self._copy_with_metadata(io, md, md_bytes)
        self._mark(io.offset_blocks, io.num_blocks)
        return err

    cdef int32_t _copy_with_metadata(self, bdev_io *io, char *md, uint64_t md_bytes) noexcept nogil:
        cdef iovec blocks = iovec(self.base + io.src_offset_blocks * self.block_size,
                                  io.num_blocks * self.block_size)
        cdef char *md_source = NULL
        cdef int32_t err
        cdef dif_error error
        if md != NULL:
            md_source = self._md_at(io.src_offset_blocks)
        err = self._verify(io, &blocks, 1, md_source, io.src_offset_blocks)
        if err:
            return err
        memmove(self.base + io.offset_blocks * self.block_size, blocks.iov_base, blocks.iov_len)
        if md != NULL:
            memmove(md, md_source, md_bytes)
        if self.layout.checks & DIF_REFTAG:
            blocks.iov_base = self.base + io.offset_blocks * self.block_size
            dif_remap(&self.layout, &blocks, 1, md, io.num_blocks, io.src_offset_blocks,
                      io.offset_blocks, False, &error)
        return 0

    cdef int32_t _verify(self, bdev_io *io, const iovec *iovs, uint32_t iovcnt, const void *md,
                         uint64_t ref_tag) noexcept nogil:
        cdef dif_error error
        cdef int failed
        cdef uint8_t checks = self.layout.checks & ~io.dif_exclude
        if not checks:
            return 0
        failed = dif_verify(&self.layout, iovs, iovcnt, md, io.num_blocks,
                            dif_tags(ref_tag, 0, 0xffff, False), checks, &error)
        if failed == DIF_SHORT:
            return EINVAL
        return nvme_error_of(failed) if failed else 0

    cdef int8_t _other(self, bdev_io *io) noexcept nogil:
        cdef char *at = self.base + io.offset_blocks * self.block_size
        cdef uint64_t length = io.num_blocks * self.block_size
        if io.op == OP_FLUSH or io.op == OP_RESET:
            return IO_SUCCESS
        if io.op == OP_UNMAP or io.op == OP_WRITE_ZEROES:
            self._zero(io.offset_blocks * self.block_size, length,
                       io.op == OP_UNMAP or not io.flags & FLAG_NO_HOLE)
            if self.md != NULL or self.layout.type:
                self._blank(io.offset_blocks, io.num_blocks)
            return IO_SUCCESS
        if io.op == OP_COMPARE:
            return self._compare(io)
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
                if self.md != NULL:
                    io.md = self._md_at(io.offset_blocks)
            # At the end once more: the caller has written since, and others may have unmapped.
            self._mark(io.offset_blocks, io.num_blocks)
            return IO_SUCCESS
        if io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            io.result = self._seek(io.offset_blocks * self.block_size, io.op == OP_SEEK_DATA)
            return IO_SUCCESS
        return IO_FAILED  # ABORT: what was submitted has completed already

    cdef int8_t _compare(self, bdev_io *io) noexcept nogil:
        """Compare data, and all of its separate metadata where the I/O brings some."""
        cdef char *at = self.base + io.offset_blocks * self.block_size
        cdef char *domain = io.domain.base if io.domain != NULL else NULL
        cdef uint32_t i
        for i in range(io.iovcnt):
            if memcmp(at, domain + <size_t>io.iovs[i].iov_base, io.iovs[i].iov_len):
                return IO_MISCOMPARE
            at += io.iovs[i].iov_len
        if self.md != NULL and io.md != NULL and memcmp(
                self._md_at(io.offset_blocks), io.md, io.num_blocks * self.layout.md_size):
            return IO_MISCOMPARE
        return IO_SUCCESS

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

    @cython.binding(False)
    def execute(self, IOBatch ios not None, uint32_t block_size, Dif dif=None):
        """Complete every I/O.

        A READ without a buffer gets one of zeroes, one with a buffer of its caller's is left as
        it is, and what a pool lent for it is cleared. With protection information (`dif`) every
        READ gets zeroes and what belongs to them, and a WRITE is checked.
        """
        if dif is not None and dif.layout.type != 0:
            with nogil:
                gil_left()
                self._execute(ios.core, ios.v, ios.n, block_size, &dif.layout)
                gil_wanted()
        else:  # to let go of the interpreter would cost more than the work
            self._execute(ios.core, ios.v, ios.n, block_size, NULL)
        ios.n = 0

    cdef void _execute(self, IoCore core, bdev_io **v, Py_ssize_t n, uint32_t block_size,
                       const dif_layout *checked) noexcept nogil:
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef int32_t err
        for i in range(n):
            io = v[i]
            err = 0
            if io.op == OP_READ and io.iovcnt == 0:
                err = self._lend(io, io.num_blocks * block_size)
            elif io.op == OP_READ and (checked != NULL or io.flags & HAS_POOL_BUFFER):
                clear(io)
            if checked != NULL and (io.op == OP_READ or io.op == OP_WRITE) and not err:
                err = protect(io, checked)
            if err > 0xff:
                finish_io(core, io, IO_NVME_ERROR, err)
            else:
                finish_io(core, io, IO_FAILED if err or io.op == OP_ABORT else IO_SUCCESS, err)

    cdef int32_t _lend(self, bdev_io *io, uint64_t length) noexcept nogil:
        if length > self.size:
            return EINVAL
        io.iovs = io.iov_inline
        io.iov_inline[0].iov_base = self.base
        io.iov_inline[0].iov_len = length
        io.iovcnt = 1
        return 0


cdef void clear(bdev_io *io) noexcept nogil:
    cdef char *domain = io.domain.base if io.domain != NULL else NULL
    cdef uint32_t i
    for i in range(io.iovcnt):
        memset(domain + <size_t>io.iovs[i].iov_base, 0, io.iovs[i].iov_len)


cdef int32_t protect(bdev_io *io, const dif_layout *layout) noexcept nogil:
    """Make a READ's protection information, check a WRITE's."""
    cdef dif_error error
    cdef int failed
    cdef dif_tags tags = dif_tags(io.offset_blocks, 0, 0xffff, False)
    if io.op == OP_READ:
        failed = dif_generate(layout, io.iovs, io.iovcnt, NULL, io.num_blocks, tags)
    else:
        failed = dif_verify(layout, io.iovs, io.iovcnt, NULL, io.num_blocks, tags,
                            layout.checks & ~io.dif_exclude, &error)
    if failed == DIF_SHORT:
        return EINVAL
    return nvme_error_of(failed) if failed else 0
