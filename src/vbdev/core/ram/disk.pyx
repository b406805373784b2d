"""RamDisk: the loops behind the `malloc` bdev.

One room: each operation has a form that ends at once and one that goes on in steps, over the same
map of pages.

One anonymous mapping, zero until written. A bitmap has one bit for each 4 KiB page that may hold
data, which is what SEEK_DATA and SEEK_HOLE answer from; unmapping whole pages gives their memory
back to the system. Copies run without the GIL. An I/O completes in the call while there is time
for it in this turn; what is longer goes on step by step in the next ones (`LongWork`).

Several reactors share a disk. Bits change by atomic operations: a page is marked after it was
written, and taken for a hole before it is zeroed. So whichever of two overlapping I/Os comes
last, a page with data in it is never taken for a hole. Above the bitmap is a summary, one bit
for each word of it, in the same order: set after the word, cleared after it and before the pages
are zeroed. It may be set for a word of holes, and makes a sparse disk quick to look through.

Metadata stands in the blocks, or in a mapping of its own. Where it has protection information,
blocks that nobody has written carry the tags that switch checking off, over zeroes; a WRITE is
checked before it is stored, a READ in the reader's memory, where nobody changes it any more.
"""

cimport cython
from libc.errno cimport EINVAL, errno
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int8_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memmove, memset

from vbdev.core.base.atomics cimport (
    __ATOMIC_ACQUIRE,
    __ATOMIC_RELAXED,
    __ATOMIC_SEQ_CST,
    atomic_add_64,
    atomic_and_64,
    atomic_fence,
    atomic_load_64,
    atomic_or_64,
    atomic_sub_64,
)
from vbdev.core.base.calls cimport syscall
from vbdev.core.base.handover cimport gil_left, gil_wanted
from vbdev.core.base.mapping cimport (
    MADV_DONTNEED,
    MAP_NORESERVE,
    PROT_READ,
    PROT_WRITE,
    madvise,
    map_memory,
    munmap,
)
from vbdev.core.base.types cimport (
    FLAG_NO_HOLE,
    FLAG_ZCOPY_END,
    HAS_POOL_BUFFER,
    IO_ABORTED,
    IO_FAILED,
    IO_MISCOMPARE,
    IO_NVME_ERROR,
    IO_SUBMITTED,
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
from vbdev.core.engine.batch cimport IOBatch, IoCore, finish_held, finish_io, finish_room
from vbdev.core.engine.engine cimport Engine
from vbdev.core.engine.long_work cimport LongLeaf, LongWork
from vbdev.core.engine.turn cimport BYTES_PER_NS, IO_NS, SLICE_NS, slice_over
from vbdev.core.memory.dif cimport (
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


cdef extern from "sys/syscall.h":
    long SYS_mbind

cdef extern from *:
    int __builtin_ctzll(uint64_t bits) nogil

cdef enum:
    PAGE_SHIFT = 12
    PAGE_BYTES = 4096
    MPOL_PREFERRED = 1
    MADV_POPULATE_WRITE = 23
    MADVISE_FROM = 256 << 10    # below this a memset is cheaper than giving pages back
    WORD_SHIFT = 18             # what a word of the bitmap stands for: 256 KiB
    STEP_BYTES = 256 << 10      # copied or compared in one step, some 50 us
    ZERO_STEP_BYTES = 2 << 20   # given back in one step; pages that nobody has touched take no time
    ZERO_BYTES_PER_NS = 32
    SEEK_STEP_WORDS = 16 << 10  # of the bitmap or its summary looked at in one step
    SEEK_WORDS_PER_NS = 1


# What may take long, and is carried out in steps.
cdef uint64_t LONG_OPS = (
    (1 << OP_READ) | (1 << OP_WRITE) | (1 << OP_COMPARE) | (1 << OP_COPY) | (1 << OP_UNMAP)
    | (1 << OP_WRITE_ZEROES) | (1 << OP_SEEK_DATA) | (1 << OP_SEEK_HOLE))


cdef inline int8_t metadata_status(int32_t err) noexcept nogil:
    # 0, an errno, or what an NVMe disk says.
    if err == 0:
        return IO_SUCCESS
    return IO_NVME_ERROR if err > 0xff else IO_FAILED


cdef inline uint64_t bits_from(uint64_t first, uint64_t last) noexcept nogil:
    # Bits `first` to `last` of a word, both included.
    return (<uint64_t>-1 >> (63 - last)) & (<uint64_t>-1 << first)


cdef int populate(char *at, uint64_t length) noexcept nogil:
    # Pages that are there already stay as they are, whoever writes them meanwhile.
    cdef uint64_t offset = 0
    if not madvise(at, length, MADV_POPULATE_WRITE):
        return 0
    if errno != EINVAL:
        return errno
    while offset < length:  # before Linux 5.14
        atomic_or_64(<uint64_t *>(at + offset), 0, __ATOMIC_RELAXED)
        offset += PAGE_BYTES
    return 0


cdef class RamDisk(LongLeaf):
    """Memory of `num_blocks` blocks of `block_size` bytes. MemoryError where there is none.

    dif: the layout of metadata, which has to be written once by `format` for all blocks.
    """

    cdef char *base
    cdef uint64_t *pages                # a bit for each page that may hold data
    cdef uint64_t *words                # a bit for each word of `pages` that may have one set
    cdef uint64_t num_words
    cdef uint64_t zeroing               # threads between clearing bits and zeroing pages
    cdef uint64_t long_ios              # of all reactors, in `LongWork`, RESETs not counted
    cdef uint64_t resets                # that wait for these to end
    cdef uint64_t step_blocks
    cdef uint64_t size
    cdef readonly uint64_t mapped_bytes
    cdef readonly uint64_t held_bytes   # with metadata in a buffer of its own
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
        self.held_bytes = self.mapped_bytes
        self.base = <char *>self._map(self.mapped_bytes)
        self.num_words = (self.num_pages + 63) >> 6
        self.pages = <uint64_t *>self._map(self.num_words * 8)
        self.words = <uint64_t *>self._map(((self.num_words + 63) >> 6) * 8)
        self.step_blocks = STEP_BYTES // block_size
        if dif is None:
            return
        self.layout = dif.layout
        if not self.layout.interleaved:
            self.md_bytes = num_blocks * self.layout.md_size
            self.md = <char *>self._map(self.md_bytes)
            self.held_bytes += self.md_bytes
        if self.layout.type:
            self._make_blank()

    cdef int _make_blank(self) except -1:
        # The disk's first block is zeroes still.
        cdef iovec block = iovec(self.base, self.block_size)
        cdef dif_tags tags = dif_tags(0, 0, 0, True)
        cdef char *at = self.md
        if self.layout.interleaved:
            at = self.base + self.layout.data_size
        dif_generate(&self.layout, &block, 1, 0, at, 1, tags)
        memcpy(self.blank, at, self.layout.md_size)
        return 0

    cdef void *_map(self, size_t length) except NULL:
        cdef void *base = map_memory(length, PROT_READ | PROT_WRITE, MAP_NORESERVE)
        if base == NULL:
            raise MemoryError(f"no address space for a memory disk of {self.size} bytes")
        return base

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.mapped_bytes)
        if self.pages != NULL:
            munmap(self.pages, self.num_words * 8)
        if self.words != NULL:
            munmap(self.words, ((self.num_words + 63) >> 6) * 8)
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

    def populate(self, uint64_t offset, uint64_t length):
        """Have memory behind a piece of the disk now, without changing it. Return 0 or an errno.

        offset: bytes of `held_bytes`, a page's start. May take 0.3 ms for each MiB, with no GIL:
        for any thread, while somebody holds the disk.
        """
        cdef int number
        cdef uint64_t end, begin
        if offset % PAGE_BYTES or offset > self.held_bytes:
            raise ValueError(f"no page of the disk begins at byte {offset}")
        end = offset + min(length, self.held_bytes - offset)
        begin = max(offset, self.mapped_bytes)
        with nogil:
            number = 0
            if offset < self.mapped_bytes:
                number = populate(self.base + offset, min(end, self.mapped_bytes) - offset)
            if not number and begin < end:
                number = populate(self.md + (begin - self.mapped_bytes), end - begin)
        return number

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
        """Carry out every I/O of the batch, or begin to: what is long goes on later."""
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef bint plain = self.layout.md_size == 0
        cdef IoCore core = ios.core
        with nogil:
            gil_left()
            for i in range(ios.n):
                io = ios.v[i]
                if plain and io.op == OP_READ and io.num_blocks <= self.step_blocks:
                    self._transfer(io, False)
                    finish_io(core, io, IO_SUCCESS, 0)
                elif plain and io.op == OP_WRITE and io.num_blocks <= self.step_blocks:
                    self._transfer(io, True)
                    self._mark(io.offset_blocks, io.num_blocks)
                    finish_io(core, io, IO_SUCCESS, 0)
                else:
                    self._begin(<Engine>core, io)
            gil_wanted()
        ios.n = 0

    # Long I/Os, in steps

    cdef void _begin(self, Engine engine, bdev_io *io) noexcept nogil:
        """Carry out an I/O, or its first steps where there is no time for all of them."""
        if io.op == OP_ABORT:
            self._abort(engine, io)
        elif io.op == OP_RESET:
            if atomic_load_64(&self.long_ios, __ATOMIC_SEQ_CST):
                atomic_add_64(&self.resets, 1, __ATOMIC_SEQ_CST)
                (<LongWork>engine.long_work).add(io, self)
            else:
                finish_io(engine, io, IO_SUCCESS, 0)
        elif (LONG_OPS >> io.op) & 1:
            io.leaf_value = 0
            while not engine.slice.over:
                slice_over(&engine.slice, self._step(engine, io))
                if io.state != IO_SUBMITTED:
                    return
            atomic_add_64(&self.long_ios, 1, __ATOMIC_SEQ_CST)
            (<LongWork>engine.long_work).add(io, self)
        elif io.op == OP_ZCOPY:
            self._zcopy(io)
            finish_io(engine, io, IO_SUCCESS, 0)
        elif io.op == OP_FLUSH:
            finish_io(engine, io, IO_SUCCESS, 0)
        else:
            finish_io(engine, io, IO_FAILED, EINVAL)

    cdef void _abort(self, Engine engine, bdev_io *io) noexcept nogil:
        """End an ABORT's victim if it goes on in steps: everything else has completed already."""
        cdef bdev_io *victim = io.victim
        if (victim != NULL and victim.generation == <uint32_t>io.result
                and victim.state == IO_SUBMITTED and victim.leaf == <void *>self
                and victim.op != OP_RESET
                and victim.frames[victim.depth - 1].channel == io.frames[io.depth - 1].channel
                and (<LongWork>engine.long_work).remove(victim)):
            self._stop(engine, victim)
            finish_io(engine, io, IO_SUCCESS, 0)
        else:
            finish_io(engine, io, IO_FAILED, EINVAL)

    cdef void _stop(self, Engine engine, bdev_io *io) noexcept nogil:
        atomic_sub_64(&self.long_ios, 1, __ATOMIC_SEQ_CST)
        finish_io(engine, io, IO_ABORTED, 0)

    cdef uint64_t step(self, Engine engine, bdev_io *io) noexcept nogil:
        cdef uint64_t took
        if io.op == OP_RESET:
            # The others look at `resets`, on whatever reactor they are, and end.
            if atomic_load_64(&self.long_ios, __ATOMIC_SEQ_CST) == 0:
                atomic_sub_64(&self.resets, 1, __ATOMIC_SEQ_CST)
                finish_io(engine, io, IO_SUCCESS, 0)
            return SLICE_NS  # not again in this turn
        if atomic_load_64(&self.resets, __ATOMIC_SEQ_CST):
            self._stop(engine, io)
            return IO_NS
        took = self._step(engine, io)
        if io.state != IO_SUBMITTED:
            atomic_sub_64(&self.long_ios, 1, __ATOMIC_SEQ_CST)
        return took

    cdef uint64_t _step(self, Engine engine, bdev_io *io) noexcept nogil:
        """Go on where `leaf_value` says; complete the I/O behind its last step. Returns a guess."""
        cdef uint64_t length = io.num_blocks * self.block_size
        cdef uint64_t done = io.leaf_value
        cdef uint64_t some = min(length - done, <uint64_t>STEP_BYTES)
        cdef uint64_t took = IO_NS
        if io.op == OP_SEEK_DATA or io.op == OP_SEEK_HOLE:
            return self._seek(engine, io)
        if self.layout.md_size and (io.op == OP_READ or io.op == OP_WRITE or io.op == OP_COPY):
            return self._step_metadata(engine, io)
        if io.op == OP_UNMAP or io.op == OP_WRITE_ZEROES:
            some = self._zero(io, done, length, &took)
        elif io.op == OP_COMPARE:
            if not self._is_same(io, done, some):
                finish_io(engine, io, IO_MISCOMPARE, 0)
                return took
        elif io.op == OP_COPY:
            self._copy(io, done, some, length)
        else:
            self._transfer_part(io, done, some, io.op == OP_WRITE)
        if io.op != OP_UNMAP and io.op != OP_WRITE_ZEROES:
            took += some // BYTES_PER_NS
        io.leaf_value = done + some
        if io.leaf_value == length:
            if io.op == OP_COMPARE and not self._is_same_metadata(io):
                finish_io(engine, io, IO_MISCOMPARE, 0)
            else:
                finish_io(engine, io, IO_SUCCESS, 0)
        return took

    cdef void _transfer_part(self, bdev_io *io, uint64_t skip, uint64_t length,
                             bint write) noexcept nogil:
        """READ or WRITE `length` bytes behind the first `skip`."""
        cdef uint64_t start = io.offset_blocks * self.block_size + skip
        cdef char *at = self.base + start
        cdef char *domain = io.domain.base if io.domain != NULL else NULL
        cdef char *other
        cdef uint64_t left = length, take
        cdef uint32_t i
        for i in range(io.iovcnt):
            if skip >= io.iovs[i].iov_len:
                skip -= io.iovs[i].iov_len
                continue
            other = domain + <size_t>io.iovs[i].iov_base + skip
            take = min(io.iovs[i].iov_len - skip, left)
            skip = 0
            if write:
                memcpy(at, other, take)
            else:
                memcpy(other, at, take)
            at += take
            left -= take
            if left == 0:
                break
        if write:
            self._mark_bytes(start, length)

    cdef bint _is_same(self, bdev_io *io, uint64_t skip, uint64_t length) noexcept nogil:
        """COMPARE `length` bytes behind the first `skip`."""
        cdef char *at = self.base + io.offset_blocks * self.block_size + skip
        cdef char *domain = io.domain.base if io.domain != NULL else NULL
        cdef uint64_t take
        cdef uint32_t i
        for i in range(io.iovcnt):
            if skip >= io.iovs[i].iov_len:
                skip -= io.iovs[i].iov_len
                continue
            take = min(io.iovs[i].iov_len - skip, length)
            if memcmp(at, domain + <size_t>io.iovs[i].iov_base + skip, take):
                return False
            skip = 0
            at += take
            length -= take
            if length == 0:
                break
        return True

    cdef bint _is_same_metadata(self, bdev_io *io) noexcept nogil:
        return self.md == NULL or io.md == NULL or memcmp(
            self._md_at(io.offset_blocks), io.md, io.num_blocks * self.layout.md_size) == 0

    cdef void _copy(self, bdev_io *io, uint64_t done, uint64_t some,
                    uint64_t length) noexcept nogil:
        """COPY a part, from the end where it would write over what it has yet to read."""
        cdef uint64_t at = done
        if io.src_offset_blocks < io.offset_blocks:
            at = length - done - some
        memmove(self.base + io.offset_blocks * self.block_size + at,
                self.base + io.src_offset_blocks * self.block_size + at, some)
        self._mark_bytes(io.offset_blocks * self.block_size + at, some)

    cdef void _zcopy(self, bdev_io *io) noexcept nogil:
        if not io.flags & FLAG_ZCOPY_END:
            # The caller writes into the disk itself: what it does not commit stays too.
            io.iovs = io.iov_inline
            io.iov_inline[0].iov_base = self.base + io.offset_blocks * self.block_size
            io.iov_inline[0].iov_len = io.num_blocks * self.block_size
            io.iovcnt = 1
            if self.md != NULL:
                io.md = self._md_at(io.offset_blocks)
        # At the end once more: the caller has written since, and others may have unmapped.
        self._mark(io.offset_blocks, io.num_blocks)

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

    cdef uint64_t _step_metadata(self, Engine engine, bdev_io *io) noexcept nogil:
        """READ, WRITE or COPY some blocks of a disk with metadata; see `_step`.

        All that a WRITE brings is checked before any of it is stored, and all that a COPY reads
        before any of it is moved: `leaf_value`, in blocks, goes twice through what is checked.
        """
        cdef uint64_t num = io.num_blocks, done = io.leaf_value, first = done, last = num, some
        cdef bint checking = False
        cdef int32_t err
        if io.op != OP_READ:
            last = 2 * num
            if done == 0 and not self._is_checked(io):
                done = num
            checking = done < num
            first = done if checking else done - num
        some = min(num - first, max(self.step_blocks, <uint64_t>1))
        if io.op == OP_READ:
            err = self._read_blocks(io, first, some)
        elif checking:
            err = self._check_blocks(io, first, some)
        elif io.op == OP_WRITE:
            err = self._write_blocks(io, first, some)
        else:
            err = self._copy_blocks(io, first, some)
        io.leaf_value = done + some
        if err or io.leaf_value == last:
            finish_io(engine, io, metadata_status(err), err)
        return IO_NS + some * self.block_size // BYTES_PER_NS

    cdef bint _is_checked(self, const bdev_io *io) noexcept nogil:
        """Whether protection information comes with a WRITE, or stands in a COPY's source."""
        return (self.layout.checks & ~io.dif_exclude
                and (io.op == OP_COPY or self.md == NULL or io.md != NULL))

    cdef int32_t _check_blocks(self, bdev_io *io, uint64_t first, uint64_t some) noexcept nogil:
        """Check what a WRITE brings, or what a COPY reads."""
        cdef uint64_t source = io.src_offset_blocks + first
        cdef iovec blocks
        cdef char *md = <char *>io.md
        if io.op == OP_WRITE:
            return self._verify(io, io.iovs, io.iovcnt, first, md, io.offset_blocks, some)
        blocks.iov_base = self.base + source * self.block_size
        blocks.iov_len = some * self.block_size
        md = self._md_at(source) if self.md != NULL else NULL
        return self._verify(io, &blocks, 1, 0, md, source, some)

    cdef int32_t _read_blocks(self, bdev_io *io, uint64_t first, uint64_t some) noexcept nogil:
        cdef char *md = NULL
        cdef uint64_t at = first * self.layout.md_size
        self._transfer_part(io, first * self.block_size, some * self.block_size, False)
        if self.md != NULL:
            md = self._md_at(io.offset_blocks)
        if md != NULL and io.md != NULL:
            memcpy(<char *>io.md + at, md + at, some * self.layout.md_size)
            md = <char *>io.md
        return self._verify(io, io.iovs, io.iovcnt, first, md, io.offset_blocks, some)

    cdef int32_t _write_blocks(self, bdev_io *io, uint64_t first, uint64_t some) noexcept nogil:
        cdef uint64_t skip = first * self.block_size
        cdef char *md = NULL
        if self.md != NULL:
            md = self._md_at(io.offset_blocks + first)
        if md != NULL and io.md != NULL:
            memcpy(md, <char *>io.md + first * self.layout.md_size, some * self.layout.md_size)
        elif md != NULL and self.layout.type:
            # A writer that has no metadata: the disk makes what belongs to the data.
            dif_generate(&self.layout, io.iovs, io.iovcnt, skip, md, some,
                         dif_tags(io.offset_blocks + first, 0, 0, False))
        self._transfer_part(io, skip, some * self.block_size, True)
        return 0

    cdef int32_t _copy_blocks(self, bdev_io *io, uint64_t first, uint64_t some) noexcept nogil:
        """Move blocks, from the end where they would lie over what has yet to be moved."""
        cdef uint64_t at = first, source, target
        cdef iovec blocks
        cdef char *md = NULL
        cdef dif_error error
        if io.src_offset_blocks < io.offset_blocks:
            at = io.num_blocks - first - some
        source, target = io.src_offset_blocks + at, io.offset_blocks + at
        blocks.iov_base = self.base + target * self.block_size
        blocks.iov_len = some * self.block_size
        memmove(blocks.iov_base, self.base + source * self.block_size, blocks.iov_len)
        if self.md != NULL:
            md = self._md_at(target)
            memmove(md, self._md_at(source), some * self.layout.md_size)
        if self.layout.checks & DIF_REFTAG:
            dif_remap(&self.layout, &blocks, 1, md, some, source, target, False, &error)
        self._mark(target, some)
        return 0

    cdef int32_t _verify(self, bdev_io *io, const iovec *iovs, uint32_t iovcnt, uint64_t first,
                         const char *md, uint64_t offset_blocks, uint64_t some) noexcept nogil:
        """Check `some` blocks from the `first` on of an I/O's data, or its metadata, if any is."""
        cdef dif_error error
        cdef int failed
        cdef uint8_t checks = self.layout.checks & ~io.dif_exclude
        if not checks:
            return 0
        if md != NULL:
            md += first * self.layout.md_size
        failed = dif_verify(&self.layout, iovs, iovcnt, first * self.block_size, md, some,
                            dif_tags(offset_blocks + first, 0, 0xffff, False), checks, &error)
        if failed == DIF_SHORT:
            return EINVAL
        return nvme_error_of(failed) if failed else 0

    # Which pages hold data

    cdef inline void _mark(self, uint64_t offset_blocks, uint64_t num_blocks) noexcept nogil:
        self._mark_bytes(offset_blocks * self.block_size, num_blocks * self.block_size)

    cdef void _mark_bytes(self, uint64_t offset, uint64_t length) noexcept nogil:
        """Mark pages behind what was written to them. Most are marked already."""
        cdef uint64_t page = offset >> PAGE_SHIFT
        cdef uint64_t last, word, mask
        if length == 0:
            return
        last = (offset + length - 1) >> PAGE_SHIFT
        # Who clears a bit zeroes the page afterwards: a bit that is found set here is not cleared
        # by anyone who has zeroed it before the data was there.
        atomic_fence(__ATOMIC_SEQ_CST)
        while page <= last:
            word = page >> 6
            mask = bits_from(page & 63, min(last - (word << 6), <uint64_t>63))
            if atomic_load_64(&self.pages[word], __ATOMIC_ACQUIRE) & mask != mask:
                atomic_or_64(&self.pages[word], mask, __ATOMIC_SEQ_CST)
            mask = <uint64_t>1 << (word & 63)
            if not atomic_load_64(&self.words[word >> 6], __ATOMIC_ACQUIRE) & mask:
                atomic_or_64(&self.words[word >> 6], mask, __ATOMIC_SEQ_CST)
            page = (word + 1) << 6

    cdef void _unmark(self, uint64_t first, uint64_t last) noexcept nogil:
        """Take pages from `first` up to `last`, without it, for holes. They are zeroed next."""
        cdef uint64_t word, mask
        while first < last:
            word = first >> 6
            mask = bits_from(first & 63, min(last - 1 - (word << 6), <uint64_t>63))
            if atomic_load_64(&self.pages[word], __ATOMIC_ACQUIRE) & mask:
                atomic_and_64(&self.pages[word], ~mask, __ATOMIC_SEQ_CST)
            first = (word + 1) << 6
            if mask == <uint64_t>-1 or (mask & 1 and last == self.num_pages and first >= last):
                mask = <uint64_t>1 << (word & 63)
                if atomic_load_64(&self.words[word >> 6], __ATOMIC_ACQUIRE) & mask:
                    atomic_and_64(&self.words[word >> 6], ~mask, __ATOMIC_SEQ_CST)

    cdef uint64_t _zero(self, bdev_io *io, uint64_t done, uint64_t length,
                        uint64_t *took) noexcept nogil:
        """Zero a part of an UNMAP or WRITE_ZEROES behind the first `done` bytes; return its length.

        Parts end at multiples of ZERO_STEP_BYTES of the disk. One that is holes already is as long
        as they are, and nothing is done for it.
        """
        cdef uint64_t start = io.offset_blocks * self.block_size
        cdef uint64_t offset = start + done, end = start + length, blocks
        cdef bint deallocate = io.op == OP_UNMAP or not io.flags & FLAG_NO_HOLE
        cdef uint64_t part = end - offset
        if deallocate and offset & ((1 << WORD_SHIFT) - 1) == 0:
            blocks = self._holes(offset >> WORD_SHIFT, end >> WORD_SHIFT) << WORD_SHIFT
            if self.layout.md_size:
                blocks -= blocks % self.block_size
            if blocks:
                return blocks
        part = min(part, ZERO_STEP_BYTES - offset % ZERO_STEP_BYTES)
        if self.layout.md_size:
            part = self._zero_blocks(io, done, part)
        else:
            self._zero_bytes(offset, part, deallocate)
        took[0] = IO_NS + part // (BYTES_PER_NS if self.layout.md_size else ZERO_BYTES_PER_NS)
        return part

    cdef uint64_t _holes(self, uint64_t word, uint64_t last) noexcept nogil:
        """Return of how many words from `word` on, up to `last`, all pages are zeroes for sure."""
        cdef uint64_t first = word, bits
        while word < last:
            bits = atomic_load_64(&self.words[word >> 6], __ATOMIC_SEQ_CST) >> (word & 63)
            if bits:
                word += __builtin_ctzll(bits)
                break
            word = ((word >> 6) + 1) << 6
            if word - first >= SEEK_STEP_WORDS:
                break
        word = min(word, last)
        # Another thread may have cleared the bits and not zeroed the pages yet.
        if atomic_load_64(&self.zeroing, __ATOMIC_SEQ_CST):
            return 0
        return word - first

    cdef uint64_t _zero_blocks(self, bdev_io *io, uint64_t done, uint64_t part) noexcept nogil:
        """Zero whole blocks, with the metadata that belongs to zeroes; return how many bytes."""
        cdef uint64_t block = io.offset_blocks + done // self.block_size
        cdef uint64_t blocks = (part + self.block_size - 1) // self.block_size
        self._zero_bytes(block * self.block_size, blocks * self.block_size,
                         io.op == OP_UNMAP or not io.flags & FLAG_NO_HOLE)
        self._blank(block, blocks)
        return blocks * self.block_size

    cdef void _zero_bytes(self, uint64_t offset, uint64_t length,
                          bint deallocate) noexcept nogil:
        # Whole pages inside the range can be given back; what is left at both ends is set.
        cdef uint64_t first = (offset + PAGE_BYTES - 1) >> PAGE_SHIFT
        cdef uint64_t last = (offset + length) >> PAGE_SHIFT
        if length == 0:
            return
        if offset + length == self.size:
            last = self.num_pages
        atomic_add_64(&self.zeroing, 1, __ATOMIC_SEQ_CST)
        if deallocate:
            self._unmark(first, last)
        if last > first and ((last - first) << PAGE_SHIFT) >= MADVISE_FROM and madvise(
                self.base + (first << PAGE_SHIFT), (last - first) << PAGE_SHIFT,
                MADV_DONTNEED) == 0:
            memset(self.base + offset, 0, (first << PAGE_SHIFT) - offset)
            if offset + length > last << PAGE_SHIFT:
                memset(self.base + (last << PAGE_SHIFT), 0, offset + length - (last << PAGE_SHIFT))
        else:
            memset(self.base + offset, 0, length)
        atomic_sub_64(&self.zeroing, 1, __ATOMIC_SEQ_CST)
        if not deallocate:
            self._mark_bytes(offset, length)

    cdef uint64_t _seek(self, Engine engine, bdev_io *io) noexcept nogil:
        """Find the first block at or behind its offset that is (not) in a page with data.

        `leaf_value`: the page to go on at, and 0 at first. Ends after SEEK_STEP_WORDS.
        """
        cdef bint data = io.op == OP_SEEK_DATA
        cdef uint64_t page = io.leaf_value
        cdef uint64_t word, bits, looked = 0
        if page == 0:
            page = (io.offset_blocks * self.block_size) >> PAGE_SHIFT
        while page < self.num_pages:
            word = page >> 6
            bits = atomic_load_64(&self.pages[word], __ATOMIC_ACQUIRE)
            bits = (bits if data else ~bits) >> (page & 63)
            looked += 1
            if bits:
                page += __builtin_ctzll(bits)
                break
            word += 1
            while data and word < self.num_words and looked < SEEK_STEP_WORDS:
                bits = atomic_load_64(&self.words[word >> 6], __ATOMIC_ACQUIRE) >> (word & 63)
                looked += 1
                if bits:
                    word += __builtin_ctzll(bits)
                    break
                word = ((word >> 6) + 1) << 6
            page = word << 6
            if looked >= SEEK_STEP_WORDS:
                io.leaf_value = page
                return looked // SEEK_WORDS_PER_NS
        io.result = self._block_in(page, io.offset_blocks, data)
        finish_io(engine, io, IO_SUCCESS, 0)
        return IO_NS + looked // SEEK_WORDS_PER_NS

    cdef uint64_t _block_in(self, uint64_t page, uint64_t from_block, bint data) noexcept nogil:
        """Return the block that begins or ends in a page, none before `from_block`.

        No data behind: there is none. No hole behind: the end counts as one. All pages that a
        block with data touches are marked, so that no hole begins in one.
        """
        cdef uint64_t num_blocks = self.size // self.block_size
        cdef uint64_t block = max((page << PAGE_SHIFT) // self.block_size, from_block)
        if page < self.num_pages and block < num_blocks:
            return block
        return <uint64_t>-1 if data else num_blocks


cdef class ZeroRegion:
    """Read-only zeroes that every READ of a `null` bdev can point to."""

    cdef char *base
    cdef size_t size

    def __cinit__(self, size_t size=64 << 20):
        # Private, anonymous and never written: every page is the kernel's one page of zeroes.
        self.base = map_memory(size, PROT_READ, 0)
        if self.base == NULL:
            raise MemoryError("no address space for a region of zeroes")
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    @cython.binding(False)
    def execute(self, IOBatch ios not None, Dif dif=None):
        """Complete every I/O.

        A READ without a buffer gets one of zeroes, one with a buffer of its caller's is left as
        it is, and what a pool lent for it is cleared. With protection information (`dif`) every
        READ gets zeroes and what belongs to them, and a WRITE is checked.
        """
        if dif is not None and dif.layout.type != 0:
            with nogil:
                gil_left()
                self._execute(ios.core, ios.v, ios.n, &dif.layout)
                gil_wanted()
        else:  # to let go of the interpreter would cost more than the work
            self._execute(ios.core, ios.v, ios.n, NULL)
        ios.n = 0

    cdef void _execute(self, IoCore core, bdev_io **v, Py_ssize_t n,
                       const dif_layout *checked) noexcept nogil:
        cdef Py_ssize_t i
        cdef bdev_io *io
        cdef int32_t err
        if n == 0:
            return  # perhaps a batch that no engine has made
        finish_room(core, n)
        for i in range(n):
            io = v[i]
            if io.state != IO_SUBMITTED:
                core.misused += 1
                continue
            err = 0
            if io.op == OP_READ:
                if io.iovcnt == 0:
                    err = self._lend(io)
                elif checked != NULL or io.flags & HAS_POOL_BUFFER:
                    clear(io)
            if checked != NULL and (io.op == OP_READ or io.op == OP_WRITE) and not err:
                err = protect(io, checked)
                slice_over(&(<Engine>core).slice,
                           io.num_blocks * self._block_bytes(io) // BYTES_PER_NS)
            if err > 0xff:
                finish_held(core, io, IO_NVME_ERROR, err)
            else:
                finish_held(core, io, IO_FAILED if err or io.op == OP_ABORT else IO_SUCCESS, err)

    cdef inline uint64_t _block_bytes(self, const bdev_io *io) noexcept nogil:
        return io.frames[io.depth - 1].channel.block_size

    cdef inline int32_t _lend(self, bdev_io *io) noexcept nogil:
        # Who comes without a buffer gets the bdev's blocks as they are.
        cdef uint64_t length = io.num_blocks * self._block_bytes(io)
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
        failed = dif_generate(layout, io.iovs, io.iovcnt, 0, NULL, io.num_blocks, tags)
    else:
        failed = dif_verify(layout, io.iovs, io.iovcnt, 0, NULL, io.num_blocks, tags,
                            layout.checks & ~io.dif_exclude, &error)
    if failed == DIF_SHORT:
        return EINVAL
    return nvme_error_of(failed) if failed else 0
